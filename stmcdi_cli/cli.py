"""The ``stmcdi`` command line: Click commands, nothing else.

Each command reads its input, calls the function of the same name in ``stmcdi_cli.steps`` with the same parameters and
defaults, and writes. Heavy imports happen inside the commands, so that ``--help`` answers at once.
"""

import sys
from pathlib import Path
from typing import Any

import click

from stmcdi_cli import __version__
from stmcdi_cli.errors import StmcdiError

PATH = click.Path(path_type=Path)


class StepGroup(click.Group):
    """Ends every foreseen error in one line on stderr and its exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; a foreseen error becomes one line and an exit code."""
        try:
            return super().invoke(ctx)
        except StmcdiError as error:
            click.echo(f"stmcdi {ctx.invoked_subcommand}: {error}", err=True)
            sys.exit(error.exit_code)


@click.group(cls=StepGroup, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(__version__, prog_name="stmcdi")
def main() -> None:
    """Fill in missing and dropped-out gene expression in spatial transcriptomics data."""


@main.command()
@click.argument("input", type=PATH)
@click.argument("output", type=PATH)
@click.option("--layer", default=None, help="Layer that holds the raw counts (default: X).")
@click.option("--log/--no-log", default=True, help="Take log(1 + x) after scaling.")
@click.option("--skip", is_flag=True, help="Keep the values as they are: only record counts and missing entries.")
def normalize(input: Path, output: Path, **options: Any) -> None:  # noqa: A002
    """Scale every spot to the median total count and take log(1 + x) (paper, eq. 29).

    \b
    Example:
      stmcdi normalize raw.h5ad normalized.h5ad
    """
    from stmcdi_cli.io import transform
    from stmcdi_cli.steps.normalize import normalize

    transform(normalize, input, output, **options)


if __name__ == "__main__":
    main()
