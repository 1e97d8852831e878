"""Where the coordinates of spots are: the names under which they are found, and what ``--coordinates`` may say.

docs/steps/import.md has the same table; a test compares them.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from stmcdi_cli import anndata_keys as keys
from stmcdi_cli import validation
from stmcdi_cli.errors import InputError, in_file
from stmcdi_cli.io.readers.delimited import read_frame
from stmcdi_cli.io.readers.reader import Options

if TYPE_CHECKING:
    from anndata import AnnData
    from pandas import DataFrame, Index


IN_OBSM = ("X_spatial", "spatial3d", "spatial_3d", "spatial_coords", "X_xy", "xy", "xyz", "coords", "coordinates")
"""Keys of ``obsm`` beside 'spatial'."""
PLACES = (
    ("x", "y"),
    ("x_centroid", "y_centroid"),
    ("center_x", "center_y"),
    ("centroid_x", "centroid_y"),
    ("CenterX_global_px", "CenterY_global_px"),
    ("x_global_px", "y_global_px"),
    ("pxl_col_in_fullres", "pxl_row_in_fullres"),
    ("imagecol", "imagerow"),
    ("pixel_x", "pixel_y"),
    ("x_pixel", "y_pixel"),
    ("x_coord", "y_coord"),
    ("xcoord", "ycoord"),
    ("coord_x", "coord_y"),
    ("spatial_x", "spatial_y"),
    ("sdimx", "sdimy"),
)
"""Pairs of columns, x first: places in pixels or micrometres. Capitals make no difference."""
INDICES = (("array_col", "array_row"),)
"""Pairs of columns, x first, that number the spots of an array: taken where there is no place."""


def pair(columns: Iterable[str]) -> list[tuple[str, str]]:
    """Give the pairs of columns that hold coordinates: those of `PLACES`, or else those of `INDICES`."""
    known = {str(column).lower(): str(column) for column in columns}
    for group in (PLACES, INDICES):
        found = [(known[x.lower()], known[y.lower()]) for x, y in group if {x.lower(), y.lower()} <= set(known)]
        if found:
            return found
    return []


def is_coordinate(name: str) -> bool:
    """Whether a column of that name may hold coordinates."""
    return name.lower() in {column.lower() for group in (*PLACES, *INDICES) for column in group}


def columns_of(names: Iterable[str]) -> set[str]:
    """Give the columns among some that hold coordinates: both of a pair must be there."""
    known = {str(name).lower(): str(name) for name in names}
    pairs = [{x.lower(), y.lower()} for x, y in (*PLACES, *INDICES)]
    return {known[column] for both in pairs if both <= set(known) for column in both}


def place(adata: "AnnData", path: Path, options: Options) -> None:
    """Put the coordinates into ``obsm['spatial']``: those that ``--coordinates`` names, or those that are found.

    Raises
    ------
    InputError
        There are none, or several that differ, or what ``--coordinates`` names is not there.
    """
    if options.coordinates_file is not None:
        table = read_coordinates(options.coordinates_file)
        adata.obsm[keys.SPATIAL] = match(table, adata.obs_names, options.coordinates_file)
    elif options.coordinates is not None:
        adata.obsm[keys.SPATIAL] = _named(adata, options.coordinates, path)
    elif keys.SPATIAL not in adata.obsm:
        adata.obsm[keys.SPATIAL] = _found(adata, path, options)


def _found(adata: "AnnData", path: Path, options: Options) -> np.ndarray:
    candidates = {f"obsm['{key}']": np.asarray(adata.obsm[key]) for key in IN_OBSM if key in adata.obsm}
    if not candidates:
        candidates = {f"obs['{x}', '{y}']": _columns(adata.obs, (x, y), path) for x, y in pair(adata.obs.columns)}
    if not candidates:
        raise InputError(
            f"{path}: expected coordinates in obsm['{keys.SPATIAL}'], found {_listing(adata)}; "
            "name what holds them (--coordinates KEY of obsm, X,Y of obs, or FILE)"
        )
    name, xy = next(iter(candidates.items()))
    if not all(np.array_equal(xy, other) for other in candidates.values()):
        raise InputError(
            f"{path}: expected coordinates once, found {' and '.join(candidates)}; "
            "name one of them (--coordinates KEY of obsm, or X,Y of obs)"
        )
    options.note(f"coordinates are those of {name}")
    return xy


def _named(adata: "AnnData", name: str, path: Path) -> np.ndarray:
    """Coordinates that ``--coordinates`` names within the data."""
    if name in adata.obsm:
        return np.asarray(adata.obsm[name])
    names = [part.strip() for part in name.split(",")]
    if len(names) in (2, 3) and all(part in adata.obs for part in names):
        return _columns(adata.obs, names, path)
    raise InputError(
        f"{path}: expected {name} to be a file, a key of obsm or columns of obs, found {_listing(adata)}; "
        "correct --coordinates"
    )


def _listing(adata: "AnnData") -> str:
    """Say what may hold coordinates: arrays of two or three columns, and columns of numbers."""
    arrays = [key for key, value in adata.obsm.items() if getattr(value, "shape", (0, 0))[1:] in ((2,), (3,))]
    numbers = [str(name) for name, kind in adata.obs.dtypes.items() if getattr(kind, "kind", "O") in "iuf"]
    return (
        f"obsm with {validation.first_few(arrays, 8) if arrays else 'none'} "
        f"and obs with {validation.first_few(numbers, 8) if numbers else 'no numbers'}"
    )


def read_coordinates(path: Path) -> "DataFrame":
    """Read a table of coordinates: names as index, two columns."""
    table = read_frame(path)
    counted = [str(i) for i in range(table.shape[1])]  # the names that pandas gives
    if table.shape[1] and list(table.columns) != counted and all(map(_is_number, table.columns)):
        found = validation.first_few(table.columns)
        raise InputError(
            f"{path}: expected names of columns in the first line, as spot,x,y, found {found}; "
            "put such a line before it"
        )
    pairs = pair(table.columns)
    if not pairs:
        numbers = [str(name) for name, kind in table.dtypes.items() if getattr(kind, "kind", "O") in "iuf"]
        if len(numbers) != 2:
            raise InputError(
                f"{path}: expected columns x and y, found {validation.first_few(table.columns)}; name them so"
            )
        pairs = [(numbers[0], numbers[1])]
    table = table[list(pairs[0])]
    if not table.index.is_unique:
        again = table.index[table.index.duplicated()]
        raise InputError(
            f"{path}: expected each spot once, found {validation.first_few(again)} more than once; remove repeats"
        )
    return table


def _is_number(name: str) -> bool:
    try:
        return bool(np.isfinite(float(name)))
    except ValueError:
        return False


def match(table: "DataFrame", spots: "Index", path: Path) -> np.ndarray:
    """Give the coordinates of some spots, in their order, spots x 2."""
    return _columns(rows_of(table, spots, path), list(table.columns), path)


def rows_of(table: "DataFrame", spots: "Index", path: Path) -> "DataFrame":
    """Give the rows of a table that are about some spots, in their order."""
    unplaced = spots.difference(table.index, sort=False)
    if len(unplaced):
        raise InputError(
            f"{path}: expected a row for every spot, found none for {validation.first_few(unplaced)}; add them"
        )
    return table.loc[spots]


def _columns(table: "DataFrame", names: Iterable[str], path: Path) -> np.ndarray:
    with in_file(path, "expected coordinates as numbers, found others", "correct them"):
        return table[list(names)].to_numpy(np.float64)
