"""Fill in missing and dropped-out gene expression in spatial transcriptomics data.

Every step of the command line is a function here, with the same name and the same options::

    import stmcdi_cli as stmcdi
    stmcdi.normalize(adata)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stmcdi_cli.steps.add_reference import add_reference
    from stmcdi_cli.steps.baseline import baseline
    from stmcdi_cli.steps.build_graph import build_graph
    from stmcdi_cli.steps.check_samplesheet import check_samplesheet
    from stmcdi_cli.steps.evaluate import evaluate
    from stmcdi_cli.steps.hold_out import hold_out
    from stmcdi_cli.steps.import_ import import_
    from stmcdi_cli.steps.impute import impute
    from stmcdi_cli.steps.join import join
    from stmcdi_cli.steps.merge import merge
    from stmcdi_cli.steps.normalize import normalize
    from stmcdi_cli.steps.report import report
    from stmcdi_cli.steps.run import run
    from stmcdi_cli.steps.select_hvg import select_hvg
    from stmcdi_cli.steps.simulate import simulate
    from stmcdi_cli.steps.train import train

from stmcdi_cli.logging import show_by_default

__version__ = "0.1.0"

__all__ = [
    "add_reference",
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

if not TYPE_CHECKING:  # a type checker reads the imports above instead, and then notices a misspelt name

    def __getattr__(name: str) -> Any:
        """Import a step when it is first asked for, so that ``stmcdi --help`` never waits for torch."""
        if name in __all__:
            return getattr(import_module(f"stmcdi_cli.steps.{name}"), name)
        raise AttributeError(f"module 'stmcdi_cli' has no attribute {name!r}")


def __dir__() -> list[str]:
    """Name the steps too, for completion in notebooks."""
    return [*globals(), *__all__]
