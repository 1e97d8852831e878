"""What ``stmcdi report`` is made of: numbers (`reliability`, `findings`), pictures (`maps`, `charts`), and the page."""
