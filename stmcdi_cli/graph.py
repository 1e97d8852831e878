"""Neighbours in space: edges between spots by distance, triangulation or grid."""

from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from scipy.spatial import Delaunay, KDTree, QhullError

from stmcdi_cli.errors import InputError
from stmcdi_cli.resources import n_workers

GRID_REACH = 1.3
"""Neighbours on a grid lie within this many unit spacings: the next are at sqrt(2) (square) or sqrt(3) (hexagonal)."""
FLAT = 1e-6
"""Spots whose extent in some direction is smaller than this, relative to the largest, lie in a plane."""
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
    column_axis: int | None = None,
) -> Edges:
    """Join spots to their neighbours; no edge crosses sections, and spots without coordinates (NaN) get none.

    Parameters
    ----------
    xy
        Coordinates [n, 2 or 3].
    section
        Integer code of each spot's section [n].
    method, n_neighbors, radius, n_rings
        See `build_graph`.
    column_axis
        Column of `xy` with the column numbers of a hexagonal array, where `xy` are array indices (``grid``); None: that
        with the larger range.

    Raises
    ------
    InputError
        The radius gives too many neighbours.
    """
    placed = ~np.isnan(xy).any(1)
    parts = [Edges(np.empty(0, int), np.empty(0, int), np.empty(0))]
    for code in np.unique(section):
        spots = np.flatnonzero((section == code) & placed)
        if len(spots) > 1:
            found = _edges_of_section(xy[spots], method, n_neighbors, radius, n_rings, column_axis)
            parts.append(Edges(spots[found.source], spots[found.target], found.length))
    return Edges(*map(np.concatenate, zip(*parts, strict=True)))


def nearest_among(xy: np.ndarray, section: np.ndarray, candidates: np.ndarray, k: int) -> Edges:
    """Join each spot to the k nearest candidates of its section (bool [n]) but itself, or to all where there are fewer.

    The edges of a spot are in order of their length. Spots without coordinates (NaN) get none.
    """
    placed = ~np.isnan(xy).any(1)
    parts = [Edges(np.empty(0, int), np.empty(0, int), np.empty(0))]
    for code in np.unique(section):
        spots = np.flatnonzero((section == code) & placed)
        targets = spots[candidates[spots]]
        if len(targets):
            ranks = np.arange(1, min(k + 1, len(targets)) + 1)
            length, found = KDTree(xy[targets]).query(xy[spots], ranks, workers=n_workers())
            target = targets[found]
            others = target != spots[:, None]
            kept = others & (np.cumsum(others, axis=1) <= k)
            parts.append(Edges(np.repeat(spots, kept.sum(1)), target[kept], length[kept]))
    return Edges(*map(np.concatenate, zip(*parts, strict=True)))


def adjacency(edges: Edges, n_spots: int) -> sp.csr_matrix:
    """Matrix with 1 for each edge, CSR float32 [n, n]."""
    ones = np.ones(len(edges.source), np.float32)
    return sp.csr_matrix((ones, (edges.source, edges.target)), shape=(n_spots, n_spots))


def _edges_of_section(
    xy: np.ndarray, method: str, n_neighbors: int, radius: float | None, n_rings: int, column_axis: int | None
) -> Edges:
    if method == "knn":
        return _nearest(xy, n_neighbors)
    if method == "grid":
        return _grid(_evenly_spaced(in_plane(xy), column_axis), n_rings)
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
        triangulation = Delaunay(in_plane(xy))
    except (QhullError, ValueError):  # too few spots, or all on a line: there is no triangle
        order = np.lexsort(xy.T)
        return np.column_stack([order[:-1], order[1:]])
    indptr, target = triangulation.vertex_neighbor_vertices
    source = np.repeat(np.arange(len(xy)), np.diff(indptr))
    joined = np.column_stack([source, target])[source < target]
    same_place = triangulation.coplanar[:, [0, 2]]  # spots left out because another is there already
    return np.concatenate([joined, same_place])


def in_plane(xyz: np.ndarray) -> np.ndarray:
    """Give coordinates [n, 2] within the plane that the spots lie in; those of spots in no plane as they are [n, 3].

    A triangulation in three dimensions of spots in a plane has no tetrahedron, and so no edges.
    """
    if xyz.shape[1] < 3:
        return xyz
    centred = xyz - xyz.mean(0)
    varies = np.ptp(xyz, axis=0) > FLAT * np.ptp(xyz, axis=0).max()
    if varies.sum() <= 2:  # the usual case: the same z everywhere
        return xyz[:, np.sort(np.argsort(~varies, kind="stable")[:2])]
    axes = np.linalg.svd(centred, full_matrices=False)[2]
    along = centred @ axes.T
    flat = len(axes) < 3 or np.ptp(along[:, 2]) <= FLAT * np.ptp(along[:, 0])
    return along[:, :2] if flat else xyz


def _evenly_spaced(xy: np.ndarray, column_axis: int | None) -> np.ndarray:
    """Give coordinates in which all neighbours on a hexagonal grid are equally far, where `xy` are array indices.

    In Visium's ``array_row`` and ``array_col`` the six neighbours of a spot are at (0, -2), (0, 2) and (-1 or 1, -1 or
    1): every second column is empty in each row. Indices of a square grid, and other coordinates, stay as they are.
    """
    if xy.shape[1] != 2 or len(xy) < 3 or (xy != np.rint(xy)).any() or len(np.unique(xy.sum(1) % 2)) > 1:
        return xy
    if not np.isclose(_spacing(xy), np.sqrt(2)):
        return xy
    axis = int(np.argmax(np.ptp(xy, axis=0))) if column_axis is None else column_axis
    scale = np.full(2, np.sqrt(3) / 2)
    scale[axis] = 0.5
    return xy * scale


def _spacing(xy: np.ndarray) -> float:
    """Give the usual distance from a place to the nearest other; 0 if there is one place."""
    places = np.unique(xy, axis=0)
    return float(np.median(_nearest(places, 1).length)) if len(places) > 1 else 0.0


def _grid(xy: np.ndarray, n_rings: int) -> Edges:
    """Neighbours up to ``n_rings`` steps of unit spacing away; an edge's length is its ring."""
    pairs = _within(xy, GRID_REACH * _spacing(xy))
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
