"""``python -m stmcdi_cli.cli``."""

from stmcdi_cli.cli.commands import main

if __name__ == "__main__":
    main()
