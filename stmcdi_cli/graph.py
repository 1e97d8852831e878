"""Neighbours in space: edges between spots by distance, triangulation or grid."""

from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from scipy.spatial import Delaunay, KDTree, QhullError

from stmcdi_cli.errors import InputError
from stmcdi_cli.resources import n_workers

GRID_REACH = 1.3
"""Neighbours on a grid lie within this many unit spacings: the next are at sqrt(2) (square) or sqrt(3) (hexagonal)."""
MOST_NEIGHBORS = 1000
"""More neighbours per spot than this on average means a radius in the wrong unit, and a graph that fits no memory."""


class Edges(NamedTuple):
    """Directed edges between spots, with their lengths."""

    source: np.ndarray
    target: np.ndarray
    length: np.ndarray


def edges(
    xy: np.ndarray,
    section: np.ndarray,
    method: str = "knn",
    n_neighbors: int = 5,
    radius: float | None = None,
    n_rings: int = 1,
) -> Edges:
    """Join spots to their neighbours; no edge crosses sections.

    Parameters
    ----------
    xy
        Coordinates [n, 2 or 3].
    section
        Integer code of each spot's section [n].
    method, n_neighbors, radius, n_rings
        See `build_graph`.

    Raises
    ------
    InputError
        The radius gives too many neighbours.
    """
    parts = [Edges(np.empty(0, int), np.empty(0, int), np.empty(0))]
    for code in np.unique(section):
        spots = np.flatnonzero(section == code)
        if len(spots) > 1:
            found = _edges_of_section(xy[spots], method, n_neighbors, radius, n_rings)
            parts.append(Edges(spots[found.source], spots[found.target], found.length))
    return Edges(*map(np.concatenate, zip(*parts, strict=True)))


def adjacency(edges: Edges, n_spots: int) -> sp.csr_matrix:
    """Matrix with 1 for each edge, CSR float32 [n, n]."""
    ones = np.ones(len(edges.source), np.float32)
    return sp.csr_matrix((ones, (edges.source, edges.target)), shape=(n_spots, n_spots))


def _edges_of_section(xy: np.ndarray, method: str, n_neighbors: int, radius: float | None, n_rings: int) -> Edges:
    if method == "knn":
        return _nearest(xy, n_neighbors)
    if method == "grid":
        return _grid(xy, n_rings)
    pairs = _triangulated(xy) if method == "delaunay" else _within(xy, radius or 0.0)
    return _both_ways(xy, pairs)


def _nearest(xy: np.ndarray, k: int) -> Edges:
    """Join each spot to the k nearest others, or to all where there are fewer."""
    k = min(k, len(xy) - 1)
    length, target = KDTree(xy).query(xy, k + 1, workers=n_workers())
    itself = target == np.arange(len(xy))[:, None]
    itself[~itself.any(1), -1] = True  # not found, because k + 1 others are at the same place: leave out the last one
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
