"""Read the tables of MERSCOPE: counts, and what is known of each cell."""

from pathlib import Path

import pandas as pd

from stmcdi_cli.errors import InputError
from stmcdi_cli.io.readers.cells import add_cells, companion, only_file
from stmcdi_cli.io.readers.controls import without_controls
from stmcdi_cli.io.readers.delimited import read_counts, read_frame
from stmcdi_cli.io.readers.reader import Options, Reading

COUNTS = "cell_by_gene"


def recognises(path: Path) -> bool:
    """Whether a path is MERSCOPE's table of counts, or the folder with it."""
    return only_file(path, f"*{COUNTS}*") is not None


def read(path: Path, options: Options) -> Reading:
    """Read genes, without blanks, and the table of cells; places in micrometres."""
    from anndata import AnnData

    counts = only_file(path, f"*{COUNTS}*")
    if counts is None:
        raise InputError(f"{path}: expected {COUNTS}.csv, found none; give MERSCOPE's output folder")
    table = read_counts(counts, lambda _: False)
    adata = AnnData(
        table.counts,
        obs=pd.DataFrame(index=pd.Index(table.rows, dtype=object)),
        var=pd.DataFrame(index=pd.Index(table.columns, dtype=object)),
    )
    cells = companion(counts, {COUNTS: "cell_metadata"}, "the table of cells")
    add_cells(adata, read_frame(cells), cells, options)
    return Reading(without_controls(adata, options), counts)
