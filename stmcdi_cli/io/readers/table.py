"""Read counts from a table of text: coordinates in columns, in a second table, or in names such as ``12x7``."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from stmcdi_cli import anndata_keys as keys
from stmcdi_cli import validation
from stmcdi_cli.errors import InputError
from stmcdi_cli.io.readers import coordinates
from stmcdi_cli.io.readers.controls import without_controls
from stmcdi_cli.io.readers.delimited import ENDINGS, Delimited, header, read_counts
from stmcdi_cli.io.readers.reader import Options, Reading

if TYPE_CHECKING:
    from anndata import AnnData


METADATA = re.compile(
    r"in_tissue|z|[xyz]_?(centroid|coord|position|local_px|global_px|slide_mm)|(min|max)_[xyz]"
    r"|(log1p_)?(total|n|transcript|control_probe|control_codeword|unassigned_codeword|deprecated_codeword)_counts(_\w+)?"
    r"|(log1p_)?n_genes(_by_counts)?|n_cells|pct_counts_\w+|percent[._](mt|mito|ribo|rb)|n(count|feature)_\w+|orig\.ident"
    r"|(cell|nucleus)?_?(area|volume|count)|size_?factors?|doublet_scores?|predicted_doublets?"
    r"|leiden\w*|louvain\w*|(seurat_)?clusters?|cell_?types?|annotations?|domains?|layers?|regions?|labels?"
    r"|samples?|sample_id|sections?|slices?|slides?|library_id|batch|fov|barcodes?|(cell|spot|entity)_?id",
    re.IGNORECASE,
)
"""Names of columns about a spot, which are no genes; those of coordinates are in `coordinates`."""
SECTION = "section"
"""Column of ``obs`` for the slides that the names of spots begin with."""
_PLACE = re.compile(r"^(?:(.*)[_ :])?(-?\d+(?:\.\d+)?)x(-?\d+(?:\.\d+)?)$")


def recognises(path: Path) -> bool:
    """Whether a path is a table: by its ending, or by a first line of text with several cells."""
    if not path.is_file():
        return False
    name = path.name.lower()
    return name.endswith(ENDINGS) or (not name.endswith((".h5ad", ".h5")) and len(header(path)) > 2)


def about_spots(names: Iterable[str]) -> set[str]:
    """Give the columns among some that are about the spots, and no genes: y and z alone are genes of flies."""
    names = list(names)
    known = coordinates.columns_of(names) | {name for name in names if METADATA.fullmatch(name)}
    return known if known - {"z", "Z"} else set()


def read(path: Path, options: Options) -> Reading:
    """Read a table of counts; where the spots' names are decides whether its rows or its columns are spots.

    Columns about the spots (`METADATA`, and columns of text) go to ``obs``. Where spots are named SLIDE_12x7, each
    slide is a section.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; check the path")
    columns = header(path)
    about = about_spots(columns) | _named(options)
    unnamed = columns[:1] and columns[0] in coordinates.columns_of(columns) | _named(options)
    table = read_counts(path, about.__contains__, lambda name: _may_be_about_spots(name, options), named=not unnamed)
    if not table.columns:
        raise InputError(f"{path}: expected genes, found only {validation.first_few(table.apart.columns)}; add them")
    adata = _turned(table, options) if _has_spots_in_columns(table, options) else _upright(table, options)
    adata = without_controls(adata, options)
    slides = _place_by_name(adata, path) if options.coordinates is None else None
    if slides is not None:
        adata.obs[SECTION] = slides
        if len(set(slides)) > 1:
            options.note(f"obs['{SECTION}'] has the slides that the names of spots begin with")
            return Reading(adata, path, SECTION)
    return Reading(adata, path)


def _has_spots_in_columns(table: Delimited, options: Options) -> bool:
    """Whether columns are spots: their names are in the table of coordinates, or are places, or rows hold places."""
    if options.coordinates_file is not None:
        known = set(coordinates.read_coordinates(options.coordinates_file).index)
        return known.isdisjoint(table.rows) and not known.isdisjoint(table.columns)
    if options.coordinates is not None:
        return _named(options) <= set(table.apart_rows.index)
    if coordinates.pair(table.apart.columns):
        return False
    if coordinates.pair(table.apart_rows.index):
        return True
    return _places(table.rows) is None and _places(table.columns) is not None


def _may_be_about_spots(name: str, options: Options) -> bool:
    """Whether a row of that name is no gene, where the columns are spots."""
    return METADATA.fullmatch(name) is not None or coordinates.is_coordinate(name) or name in _named(options)


def _named(options: Options) -> set[str]:
    """Columns that ``--coordinates`` may name."""
    return {name.strip() for name in (options.coordinates or "").split(",") if name.strip()}


def _upright(table: Delimited, options: Options) -> "AnnData":
    from anndata import AnnData

    columns = table.apart.loc[:, ~table.apart.columns.duplicated()]
    if len(columns.columns):
        options.note(f"columns that are no genes are in obs: {validation.first_few(columns.columns, 12)}")
    obs = columns.rename(columns=lambda name: name.replace("/", "_"))
    return AnnData(table.counts, obs=obs, var=pd.DataFrame(index=pd.Index(table.columns, dtype=object)))


def _turned(table: Delimited, options: Options) -> "AnnData":
    """Give a table whose columns are spots; columns of text are about the genes."""
    from anndata import AnnData

    about = about_spots(table.rows) | (_named(options) & set(table.rows))
    found = table.apart_rows[table.apart_rows.index.isin(list(about)) & ~table.apart_rows.index.duplicated()]
    rows = found.T.set_axis(pd.Index(table.columns, dtype=object))
    genes = np.array([name not in about for name in table.rows], bool)
    if len(rows.columns):
        options.note(f"rows that are no genes are in obs: {validation.first_few(rows.columns, 12)}")
    if len(table.apart.columns):
        options.note(f"columns of text are in var: {validation.first_few(table.apart.columns)}")
    var = table.apart.loc[genes, ~table.apart.columns.duplicated()]
    obs = rows.rename(columns=lambda name: name.replace("/", "_"))
    return AnnData(table.counts.T.tocsr()[:, np.flatnonzero(genes)], obs=obs, var=var)


def _place_by_name(adata: "AnnData", path: Path) -> list[str] | None:
    """Take coordinates from names such as 12x7, where no column has them; give the slides, if names begin with any."""
    if coordinates.pair(adata.obs.columns):
        return None
    found = _places(adata.obs_names)
    if found is None:
        raise InputError(
            f"{path}: expected coordinates in columns x and y or in names such as 12x7, found neither; "
            "give a table of them (--coordinates FILE)"
        )
    adata.obsm[keys.SPATIAL] = np.array([[float(x), float(y)] for _, x, y in found])
    slides = [slide for slide, _, _ in found]
    return slides if all(slides) else None


def _places(names: "list[str] | pd.Index") -> list[tuple[str, str, str]] | None:
    """Take names such as SLIDE_12x7 apart; None unless all are like that."""
    found = [_PLACE.match(str(name)) for name in names]
    if not found or not all(found):
        return None
    return [(match[1] or "", match[2], match[3]) for match in found if match]
