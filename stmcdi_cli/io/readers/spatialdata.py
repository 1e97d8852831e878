"""Read SpatialData stores, where their package is installed."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stmcdi_cli import anndata_keys as keys
from stmcdi_cli import validation
from stmcdi_cli.errors import InputError, in_file
from stmcdi_cli.io.readers import archive, zarr
from stmcdi_cli.io.readers.controls import without_controls
from stmcdi_cli.io.readers.reader import Options, Reading

if TYPE_CHECKING:
    from anndata import AnnData


def recognises(path: Path) -> bool:
    """Whether a path is a SpatialData store."""
    return zarr.kind(path) == "spatialdata"


def read(path: Path, options: Options) -> Reading:
    """Read one table; spots lie at the centres of the shapes or labels that they annotate.

    Where these lie in coordinate systems of their own, they are sections.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import spatialdata
        except ImportError as error:
            raise InputError(
                f"{path}: reading SpatialData needs its package; pip install 'stmcdi[spatialdata]'"
            ) from error
        with archive.unpacked(path) as folder:
            with (
                zarr.open_group(folder, path, "tables" if (folder / "tables").is_dir() else "table"),
                in_file(path, "cannot be read as SpatialData", "write it again with spatialdata"),
            ):
                data = spatialdata.read_zarr(folder)
            adata = data.tables[_table(list(data.tables), path, options.table)]
            section_key = None
            if options.coordinates is None and keys.SPATIAL not in adata.obsm:
                section_key = _place(data, adata, path, options)
    adata.uns.pop("spatialdata_attrs", None)  # it points to shapes that the new file does not have
    return Reading(without_controls(adata, options), path, section_key)


def _table(names: list[str], path: Path, wanted: str | None) -> str:
    if wanted is None and len(names) != 1:
        raise InputError(f"{path}: expected one table, found {validation.first_few(names)}; name one (--table)")
    if wanted is not None and wanted not in names:
        raise InputError(f"{path}: expected a table {wanted}, found {validation.first_few(names)}; correct --table")
    return wanted or names[0]


def _place(data: Any, adata: "AnnData", path: Path, options: Options) -> str | None:
    """Put the centres of what the rows of a table annotate into ``obsm['spatial']``.

    Returns
    -------
    The column of ``obs`` that names the shapes or labels, if these have no coordinate system in common; else None.
    """
    import spatialdata

    link = adata.uns.get("spatialdata_attrs")
    if link is None:
        raise InputError(
            f"{path}: expected a table that annotates shapes or labels, found one that does not; "
            "give a table of coordinates (--coordinates FILE)"
        )
    regions = adata.obs[link["region_key"]].astype(str).to_numpy()
    instances = adata.obs[link["instance_key"]].to_numpy()
    names = np.unique(regions)
    for name in names:
        if name not in data:
            raise InputError(f"{path}: expected {name} that the table annotates, found none; add it to the store")
    systems = _systems(data, names, path)
    centres = np.full((adata.n_obs, 2), np.nan)
    with in_file(path, "the shapes cannot be read", "write it again with spatialdata"):
        for name in names:
            points = spatialdata.get_centroids(data[name], coordinate_system=systems[name]).compute()
            here = regions == name
            centres[here] = points.reindex(instances[here])[["x", "y"]].to_numpy(np.float64)
    unplaced = np.isnan(centres).any(1)
    if unplaced.any():
        raise InputError(
            f"{path}: expected a shape for every row of the table, "
            f"found none for {validation.first_few(adata.obs_names[unplaced])}; remove these rows"
        )
    adata.obsm[keys.SPATIAL] = centres
    used = set(systems.values())
    options.note(f"coordinates are the centres of {', '.join(names)}, in the system {', '.join(sorted(used))}")
    return link["region_key"] if len(used) > 1 else None


def _systems(data: Any, names: np.ndarray, path: Path) -> dict[str, str]:
    """Give the coordinate system to place each element in: one for all, unless each has its own."""
    from spatialdata.transformations import Identity, get_transformation

    found = {name: get_transformation(data[name], get_all=True) for name in names}
    shared = set.intersection(*(set(one) for one in found.values()))
    as_stored = [key for key in shared if all(isinstance(one[key], Identity) for one in found.values())]
    for choice in ({"global"} & shared, shared, as_stored):
        if len(choice) == 1:
            return dict.fromkeys(names, next(iter(choice)))
    if not shared and all(len(one) == 1 for one in found.values()):
        return {name: next(iter(one)) for name, one in found.items()}
    several = sorted(set().union(*found.values()))
    raise InputError(
        f"{path}: expected one coordinate system, found {validation.first_few(several)}; "
        "give a table of coordinates (--coordinates FILE)"
    )
