"""Read counts from CSV or TSV; coordinates from a second table, columns x and y, or spot names such as ``12x7``."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

from stmcdi_cli import anndata_keys as keys
from stmcdi_cli import resources, validation
from stmcdi_cli.errors import InputError, in_file, one_line
from stmcdi_cli.io import safety

if TYPE_CHECKING:
    from anndata import AnnData
    from pandas import DataFrame, Index


ENDINGS = (".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz", ".txt.gz")
_PLACE = re.compile(r"^(?:.*[_ ])?(-?\d+(?:\.\d+)?)x(-?\d+(?:\.\d+)?)$")
_AXES = (("x", "y"), ("X", "Y"), ("pxl_col_in_fullres", "pxl_row_in_fullres"), ("array_col", "array_row"))


def read(path: Path, coordinates: Path | None) -> "AnnData":
    """Read a table of counts; where the spots' names are decides whether its rows or its columns are spots.

    Parameters
    ----------
    path
        Spots in rows and genes in columns, or the other way round; first row and column are names.
    coordinates
        A row per spot: its name, then x and y. None: the counts' table has columns ``x`` and ``y``, or spots are named
        after their place (``12x7``, ``slide1_12x7``).
    """
    from anndata import AnnData

    table = _read_table(path)
    if coordinates is not None:
        place = read_coordinates(coordinates)
        if not table.index.isin(place.index).any() and table.columns.isin(place.index).any():
            table = table.T
        xy = match(place, table.index, coordinates)
    elif pair := _axes(table):
        xy = _numbers(table[list(pair)], path)
        table = table.drop(columns=list(pair))
    else:
        if _places(table.index) is None and _places(table.columns) is not None:
            table = table.T
        found = _places(table.index)
        if found is None:
            raise InputError(
                f"{path}: expected coordinates in columns x and y or in names such as 12x7, found neither; "
                "give a table of them (--coordinates)"
            )
        xy = found
    try:
        counts = sp.csr_matrix(table.to_numpy(np.float32))
    except ValueError as error:
        raise InputError(f"{path}: expected numbers only, found {one_line(error)}; keep names and counts") from error
    adata = AnnData(counts)
    adata.obs_names, adata.var_names = table.index.astype(str), table.columns.astype(str)
    adata.obsm[keys.SPATIAL] = xy
    return adata


def read_coordinates(path: Path) -> "DataFrame":
    """Read a table of coordinates: names as index, two columns."""
    table = _read_table(path)
    pair = _axes(table)
    if pair is None:
        numbers = list(table.columns[[np.issubdtype(kind, np.number) for kind in table.dtypes]])
        if len(numbers) != 2:
            raise InputError(
                f"{path}: expected columns x and y, found {validation.first_few(table.columns)}; name them so"
            )
        pair = numbers[0], numbers[1]
    table = table[list(pair)]
    if not table.index.is_unique:
        again = table.index[table.index.duplicated()]
        raise InputError(
            f"{path}: expected each spot once, found {validation.first_few(again)} more than once; remove repeats"
        )
    return table


def match(place: "DataFrame", spots: "Index", path: Path) -> np.ndarray:
    """Give the coordinates of some spots, in their order, spots x 2."""
    unplaced = spots.difference(place.index)
    if len(unplaced):
        raise InputError(
            f"{path}: expected a row for every spot, found none for {validation.first_few(unplaced)}; add them"
        )
    return _numbers(place.loc[spots], path)


def _numbers(table: "DataFrame", path: Path) -> np.ndarray:
    with in_file(path, "expected coordinates as numbers, found others", "correct them"):
        return table.to_numpy(np.float64)


def _read_table(path: Path) -> "DataFrame":
    import pandas as pd

    if not path.is_file():
        raise InputError(f"{path}: no such file; check the path")
    comma = ".csv" in path.suffixes
    with (
        in_file(path, "cannot be read as a table", "write it as CSV or TSV"),
        safety.memory_limited(resources.granted() // 4),  # a compressed table may be of any size
    ):
        table = pd.read_csv(path, sep="," if comma else "\t", index_col=0, encoding="utf-8-sig")
    if table.shape[1] == 0:
        hint = "commas" if comma else "tabs"
        raise InputError(f"{path}: expected columns separated by {hint}, found one column; rename it .csv or .tsv")
    table.index = table.index.astype(str)
    table.columns = table.columns.astype(str)
    return table


def _axes(table: "DataFrame") -> tuple[str, str] | None:
    return next((pair for pair in _AXES if set(pair) <= set(table.columns)), None)


def _places(names: "Index") -> np.ndarray | None:
    found = [_PLACE.match(str(name)) for name in names]
    if not found or not all(found):
        return None
    return np.array([[float(place[1]), float(place[2])] for place in found if place])
