"""Read zarr stores: AnnData, and SpatialData where its package is installed."""

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stmcdi_cli import anndata_keys as keys
from stmcdi_cli import resources, validation
from stmcdi_cli.errors import InputError, in_file
from stmcdi_cli.io import safety
from stmcdi_cli.io.text import read_text

if TYPE_CHECKING:
    from anndata import AnnData


THREADS = 2**30
"""Bytes of address space that zarr's threads take beside the data."""


def kind(path: Path) -> str | None:
    """Give the format of a store by its attributes: ``zarr`` (AnnData), ``spatialdata``, or None if it is neither."""
    attributes: dict[str, Any] = {}
    for name in ("zarr.json", ".zattrs"):  # of zarr's formats 3 and 2
        try:
            content = json.loads(read_text(path / name))
        except (OSError, ValueError, RecursionError):
            continue
        attributes |= content.get("attributes", content) if isinstance(content, dict) else {}
    if "spatialdata_attrs" in attributes:
        return "spatialdata"
    return "zarr" if attributes.get("encoding-type") == "anndata" else None


def read_anndata(path: Path) -> "AnnData":
    """Read AnnData from a zarr store."""
    import anndata

    size = safety.check_zarr(path)
    resources.check_fits(str(path), size)
    try:
        import zarr  # noqa: F401 - before memory is limited
    except ImportError as error:
        raise InputError(f"{path}: reading zarr needs its package; pip install 'stmcdi[zarr]'") from error
    with (
        in_file(path, "cannot be read as AnnData", "write it again with anndata"),
        safety.memory_limited(size + THREADS),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        return anndata.read_zarr(path)


def read_spatialdata(path: Path, table: str | None) -> "AnnData":
    """Read one table of a SpatialData store; spots lie at the centres of the shapes they annotate.

    Parameters
    ----------
    path
        The store.
    table
        Name of the table; needed where there are several.
    """
    size = safety.check_zarr(path, "tables")
    resources.check_fits(str(path), size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import spatialdata
        except ImportError as error:
            raise InputError(
                f"{path}: reading SpatialData needs its package; pip install 'stmcdi[spatialdata]'"
            ) from error
        with (
            in_file(path, "cannot be read as SpatialData", "write it again with spatialdata"),
            safety.memory_limited(size + THREADS),
        ):
            data = spatialdata.read_zarr(path)
    names = list(data.tables)
    if table is None and len(names) != 1:
        raise InputError(f"{path}: expected one table, found {validation.first_few(names)}; name one (--table)")
    if table is not None and table not in names:
        raise InputError(f"{path}: expected a table {table}, found {validation.first_few(names)}; correct --table")
    adata = data.tables[table or names[0]]
    if keys.SPATIAL not in adata.obsm:
        adata.obsm[keys.SPATIAL] = _centres(data, adata, path)
    adata.uns.pop("spatialdata_attrs", None)  # it points to shapes that the new file does not have
    return adata


def _centres(data: Any, adata: "AnnData", path: Path) -> np.ndarray:
    """Give the centres of the shapes that the rows of a table annotate, spots x 2."""
    import spatialdata

    link = adata.uns.get("spatialdata_attrs")
    if link is None:
        raise InputError(
            f"{path}: expected a table that annotates shapes, found one that does not; add obsm['spatial']"
        )
    centres = np.full((adata.n_obs, 2), np.nan)
    regions = adata.obs[link["region_key"]].astype(str).to_numpy()
    instances = adata.obs[link["instance_key"]]
    for region in np.unique(regions):
        if region not in data:
            raise InputError(f"{path}: expected the shapes {region} that the table annotates, found none; add them")
        element = data[region]
        if isinstance(element, spatialdata.models.models.DataArray | spatialdata.models.models.DataTree):
            raise InputError(f"{path}: expected shapes, found labels in {region}; add obsm['spatial'] to the table")
        points = spatialdata.get_centroids(element).compute()
        here = regions == region
        centres[here] = points.loc[instances[here], ["x", "y"]].to_numpy(np.float64)
    return centres
