"""The fields on a large tissue, part by part: their variances, and where the iterations for their means should start.

Conjugate gradients on the whole tissue spread what is known from spot to spot. They stop in a large hole, for fields
that reach far, while much of mean and variance is missing there. The solutions on a part and what is around it are
exact; what is further away is as if it were not there.
"""

from functools import partial

import numpy as np
import scipy.sparse as sp

from stmcdi_cli.model.latent.conjugate_gradients import conjugate_gradients
from stmcdi_cli.model.latent.field_evidence import FieldEvidence
from stmcdi_cli.model.latent.field_variance import variance_of_draws
from stmcdi_cli.model.latent.spatial_graph import SpatialGraph
from stmcdi_cli.model.latent.triangular import Solve, Solvers, TriangularFactors

_ITERATIONS, _TOLERANCE = 20, 1e-3


def by_parts(
    graph: SpatialGraph,
    holes: np.ndarray,
    ranges: np.ndarray,
    tau: np.ndarray,
    weight: np.ndarray,
    residual: np.ndarray,
    evidence: FieldEvidence,
) -> tuple[np.ndarray, np.ndarray]:
    """Variance of every field at the connected spots, and what is to be added to its mean, both [connected, r].

    Parameters
    ----------
    graph
        The graph, with few neighbours for each spot.
    holes
        Where the variance is wanted, bool [connected, r]. In parts without such a spot nothing is added to the means,
        and the variance is infinite; so it is for factors that have none in a part.
    ranges, tau
        Range and scale of the precision of each field [r].
    weight
        Precision with which a spot's own entries determine the field, at the connected spots [connected, r].
    residual
        What the means so far leave of the right-hand side of their system, float32 [connected, r].
    evidence
        Precision of the entries of the connected spots on the fields.
    """
    variance, correction = np.full(weight.shape, np.inf), np.zeros(weight.shape, np.float32)
    for number, part in enumerate(graph.parts):
        wanted = holes[part.spots].any(0)
        if not wanted.any():
            continue
        own = part.spots[part.own]
        fields = _Fields(graph, graph.connected[part.spots], ranges, tau, weight[part.spots])
        with Solvers(fields.solver, len(tau)) as solvers:  # one part at a time: the factors of all latents are large
            variance[own] = fields.variance(solvers, number, wanted)[part.own]
            correction[own] = fields.mean(solvers, residual[part.spots], evidence.at(part.spots))[part.own]
    return variance, correction


class _Fields:
    """The fields of all factors on some spots, as if there were no others; see `spatial_field` for A, C and tau."""

    def __init__(
        self, graph: SpatialGraph, spots: np.ndarray, ranges: np.ndarray, tau: np.ndarray, weight: np.ndarray
    ) -> None:
        edges = sp.csr_matrix(graph.weights[spots][:, spots])
        self._edges, self._inverse_area = edges, 1 / graph.area[spots, None]
        self._diagonal = graph.diagonal(ranges, graph.lack_without_others(spots, edges), spots)
        self._tau, self._weight, self._component = tau, weight, graph.component[spots]
        self._systems = TriangularFactors(edges, self._inverse_area[:, 0])

    def solver(self, factor: int) -> Solve:
        """Give what solves (Q + diag weight) s = information, for one factor."""
        return self._systems.solver(self._tau[factor], self._diagonal[:, factor], self._weight[:, factor])

    def variance(self, solvers: Solvers, number: int, wanted: np.ndarray) -> np.ndarray:
        """Variance of the fields wanted, given the entries of these spots, infinite for others, [m, r].

        The noise is keyed by factor and number.
        """

        def one(factor: int, solve: Solve) -> np.ndarray:
            if not wanted[factor]:
                return np.full(len(self._weight), np.inf)
            times_a = partial(self._times_a, self._diagonal[:, factor, None])
            own, random = self._weight[:, factor, None], np.random.default_rng((factor, number))
            return variance_of_draws(times_a, self._inverse_area, self._tau[factor], own, solve, random)

        return np.stack(solvers.map(one), axis=1)

    def mean(self, solvers: Solvers, information: np.ndarray, evidence: FieldEvidence) -> np.ndarray:
        """Solve the system of all factors together for a right-hand side, both float32 [m, r]."""
        return conjugate_gradients(
            lambda values: (self._precision(values) + evidence(values)).astype(np.float32),
            information,
            solvers.by_factor,
            self._component,
            iterations=_ITERATIONS,
            tolerance=_TOLERANCE,
        )

    def _precision(self, values: np.ndarray) -> np.ndarray:
        product = self._times_a(self._diagonal, values)
        return self._tau * self._times_a(self._diagonal, self._inverse_area * product)

    def _times_a(self, diagonal: np.ndarray, values: np.ndarray) -> np.ndarray:
        return diagonal * values - self._edges @ values
