"""Connect every spot to its neighbours in the tissue (the graph A of the paper's graph encoder)."""

import logging
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import scipy.sparse as sp

from stmcdi_cli import anndata_keys as keys
from stmcdi_cli import roles, validation
from stmcdi_cli.errors import OptionError
from stmcdi_cli.graph import Edges, adjacency, edges
from stmcdi_cli.io.h5ad import shallow_copy
from stmcdi_cli.io.stream import Stream
from stmcdi_cli.provenance import imported_section_key, record
from stmcdi_cli.steps._step import step

if TYPE_CHECKING:
    from anndata import AnnData


logger = logging.getLogger(__name__)

METHODS = ("knn", "radius", "delaunay", "grid")


@step
def build_graph(
    adata: "AnnData",
    *,
    method: str = "knn",
    n_neighbors: int = 5,
    radius: float | None = None,
    n_rings: int = 1,
    section_key: str | None = None,
) -> Stream:
    """Build the spatial graph under squidpy's key names.

    Parameters
    ----------
    adata
        Spots with coordinates in ``obsm['spatial']``, n x 2 or n x 3, in any unit. Cells of a reference
        (`add_reference`) are never joined to spots: those with coordinates to their nearest cells, others to none.
    method
        ``knn``: each spot points to its nearest ones (directed, as in squidpy: the graph need not be symmetric).
        ``radius``: all within ``radius``. ``delaunay``: triangulation, in the plane of each section whose spots lie in
        one. ``grid``: neighbours at unit spacing on a square or hexagonal grid, such as Visium's; the coordinates may
        be its array indices (row and column, every second column of a row empty).
    n_neighbors
        Neighbours per spot (``knn``); a section with fewer spots uses what there is.
    radius
        Largest distance, in the unit of the coordinates (``radius``).
    n_rings
        Rings of grid neighbours (``grid``).
    section_key
        Column of ``obs`` naming the tissue section; no edge crosses sections. Not given: the one that `import_` found,
        if it found one.

    Returns
    -------
    AnnData
        New object with ``obsp['spatial_connectivities']`` (CSR float32, 1 per edge), ``obsp['spatial_distances']`` (CSR
        float64, lengths in the coordinates' unit; ring numbers for ``grid``), and ``uns['spatial_neighbors']``.

    Raises
    ------
    InputError
        Coordinates are absent, NaN or infinite, a section label is missing, or an option does not fit.
    """
    validation.one_of("method", method, METHODS)
    validation.at_least("n_neighbors", n_neighbors, 1)
    validation.at_least("n_rings", n_rings, 1)
    if (method == "radius") != (radius is not None):
        raise OptionError(f"expected `radius` with method radius and only there, found `{radius}` with method {method}")
    if radius is not None:
        validation.positive("radius", radius)
    validation.table(adata)
    xy = validation.coordinates(adata)
    if section_key is None:
        section_key = imported_section_key(adata)
        if section_key is not None:
            logger.info("build-graph: sections are those of obs['%s']", section_key)
    section = validation.sections(adata, section_key)

    n = roles.n_target(adata)
    found = edges(xy[:n], section[:n], method, n_neighbors, radius, n_rings, _column_axis(adata, xy[:n]))
    if n < adata.n_obs:  # coordinates of a reference may have another unit, and lie on no grid
        own = edges(xy[n:], section[n:], n_neighbors=n_neighbors)
        found = Edges(*map(np.concatenate, zip(found, (n + own.source, n + own.target, own.length), strict=True)))

    result = shallow_copy(adata)
    connected = adjacency(found, adata.n_obs)
    result.obsp[keys.CONNECTIVITIES] = connected
    ends = (found.source, found.target)
    result.obsp[keys.DISTANCES] = sp.csr_matrix((found.length, ends), shape=connected.shape)
    options = {
        "method": method,
        "n_neighbors": n_neighbors,
        "radius": radius,
        "n_rings": n_rings,
        "section_key": section_key,
    }
    params = {name: value for name, value in options.items() if value is not None}
    result.uns[keys.NEIGHBORS] = {
        "connectivities_key": keys.CONNECTIVITIES,
        "distances_key": keys.DISTANCES,
        "params": {**params, "coord_type": "grid" if method == "grid" else "generic"},
    }
    record(result, "build-graph", options)
    hint = validation.suggest_sections(adata, xy) if section_key is None else None
    if hint:
        logger.info("build-graph: %s", hint)
    return Stream(result, (), 20 * found.length.size)


def _column_axis(adata: "AnnData", xy: np.ndarray) -> int | None:
    """Which coordinate is ``obs['array_col']``, if any."""
    if keys.ARRAY_COL not in adata.obs or not pd.api.types.is_numeric_dtype(adata.obs[keys.ARRAY_COL]):
        return None
    column = adata.obs[keys.ARRAY_COL].to_numpy(np.float64)[: len(xy)]
    return next((axis for axis in (0, 1) if np.array_equal(xy[:, axis], column)), None)
