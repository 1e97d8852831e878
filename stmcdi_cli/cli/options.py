"""Option types and options that several commands share."""

from pathlib import Path

import click

PATH = click.Path(path_type=Path)
DEVICE = click.Choice(["auto", "cpu", "cuda"])
TARGET = click.Choice(["auto", "missing", "zeros", "all"])
TARGET_HELP = "Entries to fill; zeros: missing and zero ones; auto: missing ones, or all where none is marked missing."
SAMPLER = click.Choice(["dpm", "ddim", "ddpm", "langevin"])
PRESET = click.Choice(["default", "paper"])
FORMAT = click.Choice(
    [
        "auto",
        "visium-hd",
        "visium-cells",
        "xenium",
        "space-ranger",
        "merscope",
        "cosmx",
        "spatialdata",
        "zarr",
        "stereo-seq",
        "loom",
        "table",
        "h5ad",
    ]
)
BASELINE = click.Choice(
    [
        "gene-mean",
        "spatial-neighbors",
        "expression-neighbors",
        "soft-impute",
        "factor-analysis",
        "gan",
        "vae",
        "mlp",
    ]
)


def example(arguments: str) -> str:
    """Give the example at the end of a command's help; the mark keeps Click from wrapping it."""
    return f"\b\nExample:\n  stmcdi {arguments}"


def read_genes(ctx: click.Context, parameter: click.Parameter, path: Path | None) -> list[str] | None:
    """Read the names in the file of ``--genes``."""
    from stmcdi_cli.io.text import read_names

    return None if path is None else read_names(path)


def split_names(ctx: click.Context, parameter: click.Parameter, text: str | None) -> list[str] | None:
    """Split names at the commas."""
    return None if text is None else [name.strip() for name in text.split(",")]


def set_memory_limit(ctx: click.Context, parameter: click.Parameter, size: str | None) -> None:
    """Set ``--memory-limit`` for the process; it changes no result."""
    from stmcdi_cli import resources

    resources.set_limit(None if size is None else resources.parse(size))


MEMORY_LIMIT = click.option(
    "--memory-limit",
    default=None,
    expose_value=False,
    callback=set_memory_limit,
    help="Memory to use, such as 4G (default: half of what is free); sets how many spots are held at a time.",
)
GENES = click.option(
    "--genes",
    type=PATH,
    default=None,
    callback=read_genes,
    help="These only: a file with one gene name per line, or the folder of a model.",
)
