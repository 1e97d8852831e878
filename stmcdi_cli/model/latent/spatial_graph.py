"""The graph of a tissue as the spatial prior needs it: its Laplacian, the area of each spot, and a few patches."""

from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from scipy.sparse.csgraph import connected_components

from stmcdi_cli.model.latent.overlapping_parts import Part, overlapping_parts
from stmcdi_cli.model.latent.triangular import TriangularFactors

RANGES = np.array([1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32.0])
"""Ranges that a field can have, in units of length of the graph."""
_PATCH, _PATCH_SPOTS = 200, 800  # spots of a patch, and of all patches together
_SAME_PLACE = 1e-12  # added to squared distances: an edge between two spots in one place is still an edge
_AREAS = (0.1, 10.0)  # smallest and largest area of a spot, relative to the median
_MOST_WALKS = 1_000_000
"""Walks of two edges up to which triangular factors are used: 20 to 30 thousand spots with 6 neighbours each, for which
the factors of 15 latents take about 0.4 GB; fewer spots with more neighbours."""
_WALKS_EACH = 100
"""Walks of two edges from a spot, on average, up to which the factors of a part are small; 36 with 6 neighbours."""
_PART_SPOTS, _SURROUNDINGS = 6000, 10  # spots of a part, and steps to those around it that are looked at with it
_OWN_UNIT = 50  # spots from which on a part of the graph has its own unit of length


class Patch(NamedTuple):
    """Some neighbouring spots.

    Attributes
    ----------
    spots
        Their positions [p].
    covariance
        Covariance of the field there for tau = 1 and each of `RANGES` [ranges, p, p].
    """

    spots: np.ndarray
    covariance: np.ndarray


class SpatialGraph:
    """Graph Laplacian and area of every spot; symmetric, even if the graph is directed.

    Areas are mean squared distances to the neighbours, and the unit of length is the root of the median area of a
    section. Neighbours at a larger distance than usual for their spots have a smaller weight; weights that the graph
    has itself are multiplied with it. All are scaled so that they sum to 4 at a usual spot, as on a square grid.

    Parameters
    ----------
    graph
        Weights above 0 of the edges (1 for each, from `build_graph`), CSR, spots x spots.
    lengths
        Distances between neighbours, CSR, spots x spots; all 1 by default.

    Attributes
    ----------
    weights
        Weights of the edges, CSR float64, spots x spots.
    area
        Area of each spot [n].
    degree
        Sum of the weights of each spot's edges [n].
    lack
        What `degree` is below the usual sum: neighbours that a spot does not have [n].
    component
        Number of the part of the graph that a spot is in; no edge leaves a part [n].
    n_components
        Number of parts.
    """

    def __init__(self, graph: sp.csr_matrix, lengths: sp.csr_matrix | None = None) -> None:
        n = graph.shape[0]
        strength = sp.csr_matrix(graph.maximum(graph.T), dtype=np.float64)
        strength.eliminate_zeros()
        strength.sort_indices()
        edges = sp.csr_matrix((np.ones(strength.nnz), strength.indices, strength.indptr), (n, n))
        squared = edges if lengths is None else edges.multiply(lengths.maximum(lengths.T)).power(2)
        at_least = _SAME_PLACE * (float(np.median(squared.data)) if squared.nnz else 1.0)
        squared = sp.csr_matrix(squared + edges * at_least)
        squared.sort_indices()
        self.n_components, self.component = connected_components(squared, directed=False)
        n_neighbors = np.diff(squared.indptr)
        connected = n_neighbors > 0
        row = np.repeat(np.arange(n), n_neighbors)
        around = np.where(connected, np.bincount(row, squared.data, n) / np.maximum(n_neighbors, 1), 1)
        unit = self._units(around, connected)
        self.area = np.clip(around / unit, *_AREAS)
        usual = (self.area[row] + self.area[squared.indices]) / 2
        weight = strength.data * np.minimum(1, usual * unit[row] / squared.data)
        if connected.any():
            weight *= 4 / np.median(np.bincount(row, weight, n)[connected])
        self.weights = sp.csr_matrix((weight, squared.indices, squared.indptr), shape=(n, n))
        self.degree = np.bincount(row, weight, n)
        self.lack = np.maximum(0, 4 - self.degree)

    def _units(self, around: np.ndarray, connected: np.ndarray) -> np.ndarray:
        """Unit of area of each spot [n]: the median of its part of the graph, if that has spots enough, else of all.

        Sections may have coordinates in different units.
        """
        unit = np.full(len(around), np.median(around[connected]) if connected.any() else 1.0)
        size = np.bincount(self.component)
        order, end = np.argsort(self.component, kind="stable"), np.cumsum(size)
        for part in np.flatnonzero(size >= _OWN_UNIT):
            spots = order[end[part] - size[part] : end[part]]
            unit[spots] = np.median(around[spots])
        return unit

    def diagonal(self, ranges: np.ndarray, lack: np.ndarray, spots: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Diagonal of A of some spots for some ranges [n, r], given what the spots lack in neighbours.

        The expected value of a neighbour that is not there is exp(-kappa) times the spot's own. Without this term, the
        variance of a spot without neighbours would be 4 pi / kappa^2 times that of others.
        """
        kappa = np.sqrt(8) / ranges
        degree = (self.degree + self.lack)[spots]
        return kappa**2 * self.area[spots, None] + (degree - lack)[:, None] + lack[:, None] * (1 - np.exp(-kappa))

    def neighborhood(self, spot: int, size: int, taken: np.ndarray) -> np.ndarray:
        """A spot and those that are fewest steps away from it, ascending; none that is taken, and these now are.

        Parameters
        ----------
        spot
            Position of the first spot.
        size
            Number of spots, at most.
        taken
            Spots to leave out, bool [n]; the spots found are marked here.
        """
        start, neighbors = self.weights.indptr, self.weights.indices
        taken[spot] = True
        found = [spot]
        for each in found:  # it grows meanwhile
            for neighbor in neighbors[start[each] : start[each + 1]]:
                if not taken[neighbor] and len(found) < size:
                    taken[neighbor] = True
                    found.append(int(neighbor))
        return np.sort(np.array(found))

    @cached_property
    def patches(self) -> "list[Patch]":
        """Some patches of neighbouring spots, on which the covariance of a field is computed exactly."""
        return [Patch(spots, self._covariance(spots)) for spots in self._patch_spots()]

    def _patch_spots(self) -> Iterator[np.ndarray]:
        """Spots of each patch, ascending: some at random and those around them; spots with neighbours come first."""
        taken, left = np.zeros(len(self.area), dtype=bool), _PATCH_SPOTS
        order = np.random.default_rng(0).permutation(len(taken))
        order = order[np.argsort(self.degree[order] == 0, kind="stable")]
        patch = np.empty(0, int)
        for first in order:
            if not taken[first]:
                patch = np.concatenate([patch, self.neighborhood(int(first), _PATCH - len(patch), taken)])
            if len(patch) == _PATCH:
                yield np.sort(patch)
                patch, left = patch[:0], left - _PATCH
                if not left:
                    return
        if len(patch):
            yield np.sort(patch)

    def _covariance(self, spots: np.ndarray) -> np.ndarray:
        """Covariance of the field on a patch for tau = 1 and each of `RANGES` [ranges, p, p].

        Spots outside the patch are as if they were not there.
        """
        weights = self.weights[spots][:, spots].toarray()
        diagonal = self.diagonal(RANGES, self.lack_without_others(spots, weights), spots)
        inverse = np.linalg.inv(np.stack([np.diag(own) for own in diagonal.T]) - weights)
        return inverse @ (self.area[spots][:, None] * inverse)

    def lack_without_others(self, spots: np.ndarray, weights: np.ndarray | sp.csr_matrix) -> np.ndarray:
        """What some spots lack in neighbours if there are no others [m], given the weights of their edges [m, m]."""
        return self.lack[spots] + self.degree[spots] - np.asarray(weights.sum(1)).ravel()

    @cached_property
    def scales(self) -> np.ndarray:
        """Variance of the field for tau = 1 and each of `RANGES`, on average over the patches."""
        return np.concatenate([np.diagonal(each.covariance, axis1=1, axis2=2) for each in self.patches], axis=1).mean(1)

    @cached_property
    def connected(self) -> np.ndarray:
        """Positions of the spots that have neighbours, ascending."""
        return np.flatnonzero(self.degree > 0)

    @cached_property
    def neighbor_term(self) -> np.ndarray:
        """What the neighbours add to the diagonal of A C^-1 A [n]."""
        return self.weights.multiply(self.weights) @ (1 / self.area)

    @cached_property
    def has_small_factors(self) -> bool:
        """Whether the triangular factors of Q are small enough to be kept for every latent."""
        return self._n_walks <= _MOST_WALKS

    @cached_property
    def has_few_neighbors(self) -> bool:
        """Whether the triangular factors of Q on a part of the graph are small."""
        return self._n_walks <= _WALKS_EACH * len(self.connected)

    @cached_property
    def _n_walks(self) -> int:
        """Walks of two edges."""
        n_neighbors = np.diff(self.edges.indptr)
        return int(n_neighbors[self.edges.indices].sum())

    @cached_property
    def parts(self) -> list[Part]:
        """Parts of the connected spots, by their positions among these, each with what is around it."""
        return overlapping_parts(self.edges, _PART_SPOTS, _SURROUNDINGS)

    @cached_property
    def triangular(self) -> TriangularFactors:
        """What the triangular factors of all systems on the connected spots have in common."""
        return TriangularFactors(self.weights[self.connected][:, self.connected], 1 / self.area[self.connected])

    @cached_property
    def edges(self) -> sp.csr_matrix:
        """Weights of the edges between the connected spots in single precision."""
        return self.weights[self.connected][:, self.connected].astype(np.float32)
