"""Variance of a field given all entries, from draws of its posterior (Papandreou and Yuille 2010)."""

from collections.abc import Callable
from functools import partial

import numpy as np
import scipy.sparse as sp

from stmcdi_cli.model.device import parallel_map
from stmcdi_cli.model.latent.overlapping_parts import Part
from stmcdi_cli.model.latent.spatial_graph import SpatialGraph
from stmcdi_cli.model.latent.triangular import Solve, TriangularFactors

_SAMPLES = 24
_DRAWN_AT_ONCE = 500_000  # values, few enough to stay in a processor's cache


def variance_of_draws(
    times_a: Callable[[np.ndarray], np.ndarray],
    inverse_area: np.ndarray,
    tau: np.ndarray,
    own: np.ndarray,
    solve: Solve,
    random: np.random.Generator,
) -> np.ndarray:
    """Mean square of draws of a field around its mean, at each spot [n]; see `spatial_field` for A, C and tau.

    Parameters
    ----------
    times_a
        Product of A with values [n, d].
    inverse_area
        Diagonal of C^-1 [n, 1].
    tau
        Scale of the precision Q.
    own
        Precision of each spot's own entries [n, 1].
    solve
        Gives s [n, d] with (Q + diag own) s equal to its argument.
    random
        Where the noise comes from.
    """
    n = len(own)
    total = np.zeros(n)
    at_once = min(_SAMPLES, max(1, _DRAWN_AT_ONCE // n))
    for first in range(0, _SAMPLES, at_once):
        of_prior, of_entries = random.standard_normal((2, n, min(at_once, _SAMPLES - first)), dtype=np.float32)
        draws = solve(np.sqrt(tau) * times_a(of_prior * np.sqrt(inverse_area)) + np.sqrt(own) * of_entries)
        total += np.einsum("nd,nd->n", draws, draws)
    return total / _SAMPLES


def variance_by_parts(graph: SpatialGraph, ranges: np.ndarray, tau: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Variance of every field at the connected spots, each part of the graph by itself [connected, r].

    What is further from a spot than the surroundings of its part is as if it were not there. Solutions are exact:
    conjugate gradients stop, in a hole in the tissue, while the variance still is a half of what it should be.

    Parameters
    ----------
    graph
        The graph, with few neighbours for each spot.
    ranges, tau
        Range and scale of the precision of each field [r].
    weight
        Precision with which a spot's own entries determine the field, at the connected spots [connected, r].
    """
    variance = np.empty(weight.shape)

    def one(numbered: tuple[int, Part]) -> tuple[Part, np.ndarray]:
        number, part = numbered
        return part, _variance_in(graph, graph.connected[part.spots], ranges, tau, weight[part.spots], number)

    for part, found in parallel_map(one, enumerate(graph.parts)):
        variance[part.spots[part.own]] = found[part.own]
    return variance


def _variance_in(
    graph: SpatialGraph, spots: np.ndarray, ranges: np.ndarray, tau: np.ndarray, weight: np.ndarray, number: int
) -> np.ndarray:
    """Variance of every field at some spots, without the others [m, r]."""
    edges = sp.csr_matrix(graph.weights[spots][:, spots])
    inverse_area = 1 / graph.area[spots]
    diagonal = graph.diagonal(ranges, graph.lack_without_others(spots, edges), spots)
    systems = TriangularFactors(edges, inverse_area)
    variance = np.empty(weight.shape)
    for factor in range(weight.shape[1]):
        solve = systems.solver(tau[factor], diagonal[:, factor], weight[:, factor])
        times_a = partial(_times_a, diagonal[:, factor, None], edges)
        random = np.random.default_rng((factor, number))
        own = weight[:, factor, None]
        variance[:, factor] = variance_of_draws(times_a, inverse_area[:, None], tau[factor], own, solve, random)
    return variance


def _times_a(diagonal: np.ndarray, edges: sp.csr_matrix, values: np.ndarray) -> np.ndarray:
    return diagonal * values - edges @ values
