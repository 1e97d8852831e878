"""What instruments say about each cell: a table beside the counts, whose columns go to ``obs``."""

from pathlib import Path
from typing import TYPE_CHECKING

from stmcdi_cli import validation
from stmcdi_cli.errors import InputError
from stmcdi_cli.io.readers.coordinates import rows_of
from stmcdi_cli.io.readers.reader import Options, only

if TYPE_CHECKING:
    from anndata import AnnData
    from pandas import DataFrame

FOV_NAMES = ("FOV", "fov_name", "fov_id")
"""Other names of the column ``fov``, the field of view."""


def add_cells(adata: "AnnData", cells: "DataFrame", path: Path, options: Options) -> None:
    """Add the rows of a table to ``obs``, by the names of the cells; the field of view is called ``fov``.

    Raises
    ------
    InputError
        A cell has no row, or several.
    """
    if not cells.index.is_unique:
        again = cells.index[cells.index.duplicated()]
        raise InputError(
            f"{path}: expected each cell once, found {validation.first_few(again)} more than once; remove repeats"
        )
    absent = len(cells.index.difference(adata.obs_names))
    if absent:
        options.note(f"left out {absent} cells of {path.name} that have no counts")
    rows = rows_of(cells, adata.obs_names, path)
    for name in rows:
        fov = name in FOV_NAMES and "fov" not in cells
        adata.obs["fov" if fov else str(name).replace("/", "_")] = rows[name].to_numpy()


def companion(counts: Path, patterns: dict[str, str], what: str) -> Path:
    """Give the file beside the counts: its name is theirs, with some parts replaced.

    Raises
    ------
    InputError
        It is absent.
    """
    name = counts.name
    for part, replacement in patterns.items():
        name = name.replace(part, replacement)
    stem = name.removesuffix(".gz")
    for candidate in (stem, f"{stem}.gz"):
        if (counts.parent / candidate).is_file():
            return counts.parent / candidate
    raise InputError(f"{counts}: expected {stem}, {what}, beside it, found none; put it there")


def only_file(path: Path, pattern: str) -> Path | None:
    """Give the path itself if its name matches, or the file in a folder that does; None where there is none.

    Raises
    ------
    InputError
        Several files of the folder match.
    """
    if path.is_file():
        return path if path.match(f"{pattern}.csv") or path.match(f"{pattern}.csv.gz") else None
    found = (file for ending in (".csv", ".csv.gz") for file in path.glob(f"{pattern}{ending}"))
    return only(found, path, "file of counts")
