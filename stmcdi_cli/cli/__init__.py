"""The ``stmcdi`` command line."""

from stmcdi_cli.cli.commands import main

__all__ = ["main"]
