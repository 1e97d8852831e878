"""Fill in missing and dropped-out gene expression in spatial transcriptomics data.

Every step of the command line is a function here, with the same name and the same options::

    import stmcdi_cli as stmcdi
    stmcdi.normalize(adata)
"""

from importlib import import_module
from typing import Any

from stmcdi_cli.logging import show_by_default

__version__ = "0.1.0"

__all__ = [
    "baseline",
    "build_graph",
    "check_samplesheet",
    "evaluate",
    "hold_out",
    "import_",
    "impute",
    "join",
    "merge",
    "normalize",
    "report",
    "run",
    "select_hvg",
    "simulate",
    "train",
]

show_by_default()


def __getattr__(name: str) -> Any:
    """Import a step when it is first asked for, so that ``stmcdi --help`` never waits for torch."""
    if name in __all__:
        return getattr(import_module(f"stmcdi_cli.steps.{name}"), name)
    raise AttributeError(f"module 'stmcdi_cli' has no attribute {name!r}")


def __dir__() -> list[str]:
    """Name the steps too, for completion in notebooks."""
    return [*globals(), *__all__]
