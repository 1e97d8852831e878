"""Readers of ``stmcdi import``: one module per family of formats; each gives counts with coordinates."""
