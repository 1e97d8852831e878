"""Connect every spot to its neighbours in the tissue (the graph A of the paper's graph encoder)."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import scipy.sparse as sp
from scipy.spatial import Delaunay, KDTree, QhullError

from stmcdi_cli import anndata_keys as keys
from stmcdi_cli import checks
from stmcdi_cli.cores import n_workers
from stmcdi_cli.errors import InputError, OptionError
from stmcdi_cli.io import record, shallow_copy
from stmcdi_cli.streaming import Stream, gathered

if TYPE_CHECKING:
    from anndata import AnnData

METHODS = ("knn", "radius", "delaunay", "grid")
GRID_REACH = 1.3
"""Neighbours on a grid lie within this many unit spacings: the next are at sqrt(2) (square) or sqrt(3) (hexagonal)."""
MOST_NEIGHBORS = 1000
"""More neighbours per spot than this on average means a radius in the wrong unit, and a graph that fits no memory."""


class Edges(NamedTuple):
    """Directed edges between spots, with their lengths."""

    source: np.ndarray
    target: np.ndarray
    length: np.ndarray


def build_graph(
    adata: "AnnData",
    *,
    method: str = "knn",
    n_neighbors: int = 5,
    radius: float | None = None,
    n_rings: int = 1,
    section_key: str | None = None,
) -> "AnnData":
    """Build the spatial graph under squidpy's key names.

    Parameters
    ----------
    adata
        Spots with coordinates in ``obsm['spatial']``, n x 2 or n x 3, in any unit.
    method
        ``knn``: each spot points to its nearest ones (directed, as in squidpy: the graph need not be symmetric).
        ``radius``: all within ``radius``. ``delaunay``: triangulation. ``grid``: neighbours at unit spacing on a
        square or hexagonal grid, such as Visium's.
    n_neighbors
        Neighbours per spot (``knn``); a section with fewer spots uses what there is.
    radius
        Largest distance, in the unit of the coordinates (``radius``).
    n_rings
        Rings of grid neighbours (``grid``).
    section_key
        Column of ``obs`` naming the tissue section; no edge crosses sections.

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
    return gathered(
        stream(
            adata,
            method=method,
            n_neighbors=n_neighbors,
            radius=radius,
            n_rings=n_rings,
            section_key=section_key,
        )
    )


def stream(
    adata: "AnnData",
    *,
    method: str = "knn",
    n_neighbors: int = 5,
    radius: float | None = None,
    n_rings: int = 1,
    section_key: str | None = None,
) -> Stream:
    """Do the work of :func:`build_graph` on a file that is open: matrices of expression are carried over unread."""
    checks.one_of("method", method, METHODS)
    checks.at_least("n_neighbors", n_neighbors, 1)
    checks.at_least("n_rings", n_rings, 1)
    if (method == "radius") != (radius is not None):
        raise OptionError(f"expected `radius` with method radius and only there, found `{radius}` with method {method}")
    if radius is not None:
        checks.positive("radius", radius)
    checks.table(adata)
    xy = checks.coordinates(adata)
    section = checks.sections(adata, section_key)

    parts = []
    for code in np.unique(section):
        spots = np.flatnonzero(section == code)
        edges = _edges(xy[spots], method, n_neighbors, radius, n_rings)
        parts.append(Edges(spots[edges.source], spots[edges.target], edges.length))
    edges = Edges(*map(np.concatenate, zip(*parts, strict=True)))

    result = shallow_copy(adata)
    shape = (adata.n_obs, adata.n_obs)
    ends = (edges.source, edges.target)
    result.obsp[keys.CONNECTIVITIES] = sp.csr_matrix((np.ones(edges.length.size, np.float32), ends), shape=shape)
    result.obsp[keys.DISTANCES] = sp.csr_matrix((edges.length, ends), shape=shape)
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
    return Stream(result, (), 20 * edges.length.size)


def _edges(xy: np.ndarray, method: str, n_neighbors: int, radius: float | None, n_rings: int) -> Edges:
    if len(xy) < 2:
        return Edges(np.empty(0, int), np.empty(0, int), np.empty(0))
    if method == "knn":
        return _nearest(xy, n_neighbors)
    if method == "grid":
        return _grid(xy, n_rings)
    pairs = _triangulated(xy) if method == "delaunay" else _within(xy, radius or 0.0)
    return _both_ways(xy, pairs)


def _nearest(xy: np.ndarray, n_neighbors: int) -> Edges:
    """Nearest spots of each spot, itself left out."""
    k = min(n_neighbors, len(xy) - 1)
    length, target = KDTree(xy).query(xy, k + 1, workers=n_workers())
    itself = target == np.arange(len(xy))[:, None]
    itself[~itself.any(1), -1] = True  # crowded out by spots at the same place: leave out the last one instead
    source = np.repeat(np.arange(len(xy)), k)
    return Edges(source, target[~itself], length[~itself])


def _within(xy: np.ndarray, radius: float) -> np.ndarray:
    """Pairs of spots at most ``radius`` apart."""
    tree = KDTree(xy)
    per_spot = tree.count_neighbors(tree, radius) / len(xy) - 1
    if per_spot > MOST_NEIGHBORS:
        raise InputError(
            f"expected at most {MOST_NEIGHBORS} neighbours per spot, found {per_spot:.0f} within radius {radius:g}; "
            "give a smaller --radius, in the unit of the coordinates"
        )
    return tree.query_pairs(radius, output_type="ndarray")


def _triangulated(xy: np.ndarray) -> np.ndarray:
    """Pairs of spots joined by the Delaunay triangulation; spots on one line are joined in order."""
    try:
        triangulation = Delaunay(xy)
    except (QhullError, ValueError):  # too few spots, or all on a line: there is no triangle
        order = np.lexsort(xy.T)
        return np.column_stack([order[:-1], order[1:]])
    indptr, target = triangulation.vertex_neighbor_vertices
    source = np.repeat(np.arange(len(xy)), np.diff(indptr))
    joined = np.column_stack([source, target])[source < target]
    same_place = triangulation.coplanar[:, [0, 2]]  # spots left out because another is there already
    return np.concatenate([joined, same_place])


def _grid(xy: np.ndarray, n_rings: int) -> Edges:
    """Neighbours up to ``n_rings`` steps of unit spacing away; an edge's length is its ring."""
    places = np.unique(xy, axis=0)
    unit = float(np.median(_nearest(places, 1).length)) if len(places) > 1 else 0.0
    pairs = _within(xy, GRID_REACH * unit)
    step = sp.csr_matrix((np.ones(len(pairs)), pairs.T), shape=(len(xy), len(xy)))
    reached = sp.csr_array(sp.identity(len(xy), format="csr"))
    step = sp.csr_array(step + step.T) + reached
    rings = []
    for ring in range(1, n_rings + 1):
        further = (reached @ step).astype(bool).astype(float)
        new = sp.coo_array(further - reached)
        new.eliminate_zeros()
        rings.append(Edges(new.row, new.col, np.full(new.nnz, float(ring))))
        reached = further
    return Edges(*map(np.concatenate, zip(*rings, strict=True)))


def _both_ways(xy: np.ndarray, pairs: np.ndarray) -> Edges:
    length = np.linalg.norm(xy[pairs[:, 0]] - xy[pairs[:, 1]], axis=1)
    return Edges(pairs.T.ravel(), pairs[:, ::-1].T.ravel(), np.tile(length, 2))
