"""Option types and options that several commands share."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from stmcdi_cli.errors import one_line
from stmcdi_cli.steps._presets import PRESETS

PATH = click.Path(path_type=Path)
DEVICE = click.Choice(["auto", "cpu", "cuda"])
TARGET = click.Choice(["auto", "missing", "zeros", "all"])
TARGET_HELP = "Entries to fill; zeros: missing and zero ones; auto: missing ones, or all where none is marked missing."
SAMPLER = click.Choice(["dpm", "ddim", "ddpm", "langevin"])
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
        "idw",
        "kriging",
        "soft-impute",
        "factor-analysis",
        "gan",
        "vae",
        "mlp",
    ]
)


class NumberOrAll(click.ParamType):
    """A whole number, or the word all."""

    name = "integer or all"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        """Read what was typed."""
        if value == "all":
            return "all"
        try:
            return int(value)
        except (TypeError, ValueError):
            self.fail(f"{value!r} is neither a valid integer nor all", param, ctx)


class Preset(click.ParamType):
    """Name of a built-in preset, or a file; the step itself checks which."""

    name = "preset"

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """Show the names."""
        return f"[{'|'.join(PRESETS)}|FILE]"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Complete names and files."""
        return [*map(CompletionItem, PRESETS), CompletionItem(incomplete, type="file")]


PRESET = Preset()


def example(arguments: str) -> str:
    """Give the example at the end of a command's help; the mark keeps Click from wrapping it."""
    return f"\b\nExample:\n  stmcdi {arguments}"


def read_sample_info(ctx: click.Context, parameter: click.Parameter, path: Path | None) -> dict[str, str] | None:
    """What a YAML or JSON file says of a sample, as text by name."""
    from stmcdi_cli.io.text import read_yaml

    if path is None:
        return None
    try:
        content = read_yaml(path)
    except FileNotFoundError as error:
        raise click.BadParameter(f"{path}: no such file; check the path") from error
    except (OSError, ValueError) as error:
        reason = one_line(error, 150)
        raise click.BadParameter(f"{path}: cannot be read as YAML or JSON ({reason}); correct it") from error
    if not isinstance(content, Mapping):
        found = type(content).__name__
        raise click.BadParameter(f"{path}: expected names with values, found {found}; write `name: value`")
    return {str(name): "" if value is None else str(value) for name, value in content.items()}


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
_FILE_OF_GENES = "a file with one gene name per line, or the folder of a model."


def _genes(which: str) -> Callable[..., Any]:
    return click.option("--genes", type=PATH, default=None, callback=read_genes, help=f"{which}: {_FILE_OF_GENES}")


GENES = _genes("These only")
GENES_TO_SHOW = _genes("Show maps of these, too")


def genes_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say which genes are kept."""
    for option in (
        click.option(
            "--ignore-missing-genes",
            is_flag=True,
            default=False,
            help="Leave out names in the list of --genes that are not in the data.",
        ),
        GENES,
        click.option(
            "--min-spots",
            type=float,
            default=None,
            help="Least share of spots a gene is seen in (cv2-trend; default: 0.05, or 0 where all genes are kept).",
        ),
        click.option(
            "--n-genes",
            type=NumberOrAll(),
            default=None,
            help="Genes to choose, or all that are seen (default: 1000; all where there are no more).",
        ),
    ):
        command = option(command)
    return command


def reference_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say what is taken of a reference."""
    for option in (
        click.option(
            "--reference-layer", default=None, help="Layer of the reference with its counts, or raw (default: X)."
        ),
        click.option(
            "--reference-section-key",
            default=None,
            help="Column of the reference's obs with its sections (default: one with a usual name, if any).",
        ),
        click.option(
            "--max-reference-cells",
            type=int,
            default=10_000,
            help="Cells of the reference to use; of more, so many are drawn.",
        ),
    ):
        command = option(command)
    return command


def counts_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say where a file has its counts, and how they are taken."""
    for option in (
        click.option("--round", is_flag=True, default=False, help="Round counts that are not whole, at random."),
        click.option("--skip", is_flag=True, default=False, help="Keep the values as they are, counts or not."),
        click.option("--layer", default=None, help="Layer that holds the raw counts, or raw: adata.raw (default: X)."),
    ):
        command = option(command)
    return command
