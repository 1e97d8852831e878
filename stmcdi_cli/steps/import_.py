"""``stmcdi import``: convert the files of platforms and packages to the h5ad file that the other steps start from.

The step is called ``import`` wherever a name may be a Python keyword, and ``import_`` where it may not.
"""

import logging
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stmcdi_cli import anndata_keys as keys
from stmcdi_cli import validation
from stmcdi_cli.errors import InputError, in_file
from stmcdi_cli.io.h5ad import read_h5ad
from stmcdi_cli.io.readers import space_ranger, zarr
from stmcdi_cli.io.readers import table as tables
from stmcdi_cli.provenance import note_input, record
from stmcdi_cli.sparse import mask_out, missing_mask, nan_mask, to_csr
from stmcdi_cli.steps._counts import check_options, check_whole, find_counts, log_rounded, n_fractions, whole_counts

if TYPE_CHECKING:
    from anndata import AnnData

logger = logging.getLogger(__name__)

FORMATS = ("auto", "space-ranger", "visium-hd", "table", "h5ad", "zarr", "spatialdata")


def import_(
    path: str | os.PathLike[str],
    *,
    format: str = "auto",
    coordinates: str | os.PathLike[str] | None = None,
    bin_um: int = 16,
    table: str | None = None,
    layer: str | None = None,
    skip: bool = False,
    round: bool = False,
    quiet: bool = False,
) -> "AnnData":
    """Read counts and coordinates.

    Parameters
    ----------
    path
        Folder of Space Ranger (Visium, or Visium HD), CSV or TSV table, h5ad file, or zarr store of AnnData or
        SpatialData.
    format
        One of `FORMATS`; ``auto`` detects it.
    coordinates
        CSV or TSV with a row per spot: its name, x, y. Replaces coordinates that an AnnData file has.
    bin_um
        Side of the bins, in micrometres (Visium HD).
    table
        Name of the table (SpatialData).
    layer, skip, round
        Where the counts are in AnnData, and how they are taken (see `normalize`).
    quiet
        Do not report renamed genes.

    Returns
    -------
    AnnData
        Counts in ``X``, CSR float32; ``obsm['spatial']``, float64; unique gene names: a repeated one gets ``-1``, ...

    Raises
    ------
    InputError
        The file is absent, has no coordinates or no counts, or has another format.
    """
    check_options(skip=skip, round=round)
    validation.one_of("format", format, FORMATS)
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: no such file; check the path")
    found = _format(path) if format == "auto" else format
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*names are not unique.*")  # they are made unique below
        adata, source = _read(path, found, None if coordinates is None else Path(coordinates), bin_um, table)
    with in_file(path):
        adata = _counts_in_x(adata, layer, skip=skip, at_random=round)
    if not adata.var_names.is_unique:
        again = adata.var_names[adata.var_names.duplicated()].unique()
        adata.var_names_make_unique()
        if not quiet:
            logger.info("import: renamed repeated genes: %s", validation.first_few(again))
    with in_file(path):
        validation.check(adata)
        validation.table(adata)
        adata.obsm[keys.SPATIAL] = validation.coordinates(adata)
    parameters: dict[str, Any] = {
        "path": str(path),
        "format": found,
        "coordinates": coordinates,
        "table": table,
        "layer": layer,
    }
    parameters |= {name: True for name, given in {"skip": skip, "round": round}.items() if given}
    record(adata, "import", parameters | ({"bin_um": bin_um} if found == "visium-hd" else {}))
    if source.is_file():
        note_input("import", source, adata)
    return adata


def _counts_in_x(adata: "AnnData", layer: str | None, *, skip: bool, at_random: bool) -> "AnnData":
    """Give the tissue with its counts in ``X``; refuse values that are no counts, unless they are to be used."""
    source = find_counts(adata, layer, "import")
    counts = to_csr(source.matrix)
    if not skip:
        found = mask_out(counts, nan_mask(counts) + missing_mask(source.adata))
        check_whole(whole_counts(found, at_random=at_random), source)
        log_rounded("import", source.where, n_fractions(found), at_random=at_random)
        counts = whole_counts(counts, at_random=at_random)
    source.adata.X = counts.copy()  # a layer keeps its own
    return source.adata


def _format(path: Path) -> str:
    """Detect the format of a path."""
    if space_ranger.bins(path):
        return "visium-hd"
    if space_ranger.find(path):
        return "space-ranger"
    if path.is_dir():
        known = zarr.kind(path)
        if known:
            return known
        raise InputError(
            f"{path}: neither Space Ranger's output ({space_ranger.MATRIX} and spatial/) nor a zarr store of AnnData "
            "or SpatialData; check the folder"
        )
    if path.name.lower().endswith(tables.ENDINGS):
        return "table"
    return "h5ad"


def _read(path: Path, format: str, coordinates: Path | None, bin_um: int, table: str | None) -> "tuple[AnnData, Path]":
    """Read the counts; give the file that holds them as well."""
    if format == "table":
        return tables.read(path, coordinates), path
    if format in ("space-ranger", "visium-hd"):
        folder = space_ranger.find(path)
        if format == "visium-hd":
            sides = space_ranger.bins(path)
            if bin_um not in sides:
                found = validation.first_few(sides)
                raise InputError(f"{path}: expected bins of {bin_um} micrometres, found {found}; choose one (--bin-um)")
            folder = space_ranger.find(sides[bin_um])
        if folder is None:
            raise InputError(f"{path}: expected {space_ranger.MATRIX}, found none; give Space Ranger's output folder")
        return space_ranger.read(folder)
    if format == "zarr":
        adata, source = zarr.read_anndata(path), path
    elif format == "spatialdata":
        adata, source = zarr.read_spatialdata(path, table), path
    else:
        adata, source = read_h5ad(path), path
    if coordinates is not None:
        place = tables.read_coordinates(coordinates)
        adata.obsm[keys.SPATIAL] = tables.match(place, adata.obs_names, coordinates)
    return adata, source
