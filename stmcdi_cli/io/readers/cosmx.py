"""Read the flat files of CosMx: counts, and what is known of each cell."""

from pathlib import Path

import numpy as np
import pandas as pd

from stmcdi_cli import validation
from stmcdi_cli.errors import InputError
from stmcdi_cli.io.readers.cells import add_cells, companion, only_file
from stmcdi_cli.io.readers.controls import without_controls
from stmcdi_cli.io.readers.delimited import read_counts, read_frame
from stmcdi_cli.io.readers.reader import Options, Reading

COUNTS = "exprMat_file"
KEYS = ["fov", "cell_ID"]
"""A cell's name: its field of view, and its number there."""
OTHERS = {"cell", "cell_id", "fov", "cell_ID"}
"""Columns of the table of counts that are no genes."""


def recognises(path: Path) -> bool:
    """Whether a path is CosMx's table of counts, or the folder with it."""
    return only_file(path, f"*{COUNTS}*") is not None


def read(path: Path, options: Options) -> Reading:
    """Read genes, without control probes, and the table of cells; places in pixels of the whole slide.

    Row 0 of a field of view counts what lies outside of cells, and is left out. Cells are named FOV_NUMBER.
    """
    from anndata import AnnData

    counts = only_file(path, f"*{COUNTS}*")
    if counts is None:
        raise InputError(f"{path}: expected *_{COUNTS}.csv, found none; give the folder with CosMx's flat files")
    table = read_counts(counts, OTHERS.__contains__, named=False)
    names = _names(table.apart, counts)
    inside = (table.apart[KEYS[1]] != 0).to_numpy()
    if not inside.all():
        options.note(f"left out {int((~inside).sum())} rows of {counts.name} that are outside of cells")
    adata = AnnData(
        table.counts[np.flatnonzero(inside)],
        obs=pd.DataFrame(index=names[inside]),
        var=pd.DataFrame(index=pd.Index(table.columns, dtype=object)),
    )
    beside = companion(counts, {COUNTS: "metadata_file"}, "the table of cells")
    cells = read_frame(beside, named=False)
    add_cells(adata, cells.set_index(_names(cells, beside)), beside, options)
    return Reading(without_controls(adata, options), counts)


def _names(table: "pd.DataFrame", path: Path) -> "pd.Index":
    if not set(KEYS) <= set(table):
        raise InputError(
            f"{path}: expected columns {' and '.join(KEYS)}, found {validation.first_few(table.columns)}; "
            "give CosMx's own file"
        )
    return pd.Index((table[KEYS[0]].astype(str) + "_" + table[KEYS[1]].astype(str)).astype(object))
