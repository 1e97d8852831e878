"""The files that ``stmcdi import`` reads: one module per family of formats, all giving counts with coordinates."""
