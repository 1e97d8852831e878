"""The spatial prior of the latents: each factor is a Matern field over the graph, plus a part of each spot's own.

At spot i, z_ik = s_ik + e_ik. The field s_k is smooth with a range of its own, and e_ik ~ N(0, nugget_k) is independent
from spot to spot. The field solves (kappa^2 - Laplacian) s = white noise; its covariance is Matern's with smoothness 1
and range sqrt(8) / kappa (Lindgren, Rue and Lindstrom 2011). On the graph its precision is sparse::

    Q = tau A C^-1 A        A = kappa^2 C + G

G is the Laplacian of the graph and C is diagonal, with the area of each spot. Products with Q cost two passes over the
edges, so systems of equations are solved by conjugate gradients, for all factors together.
"""

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from stmcdi_cli.model.device import parallel_each
from stmcdi_cli.model.latent.blocks import in_parallel
from stmcdi_cli.model.latent.conjugate_gradients import Operator, conjugate_gradients
from stmcdi_cli.model.latent.field_by_parts import by_parts
from stmcdi_cli.model.latent.field_evidence import FieldEvidence, times
from stmcdi_cli.model.latent.field_variance import variance_of_draws
from stmcdi_cli.model.latent.gaussian import LatentPosterior, inverse, pack
from stmcdi_cli.model.latent.spatial_graph import SpatialGraph
from stmcdi_cli.model.latent.triangular import Solve, Solvers

_TOLERANCE, _ROUGH = 1e-3, 1e-2
_ITERATIONS = 300
_LITTLE = 0.1
"""Part of what the entries around a spot usually say of a factor, below which the spot is in a hole."""


class FieldParameters(NamedTuple):
    """Parameters of the prior of each factor, all [r].

    Attributes
    ----------
    range
        Distance at which the correlation of the field has fallen to about 0.14, in the graph's unit of length.
    variance
        Variance of the field.
    scale
        Variance of the field for tau = 1: tau = scale / variance.
    nugget
        Variance of what is a spot's own.
    uncertainty
        Variance of the field at a spot given all other spots, on average over spots with visible entries.
    """

    range: Tensor
    variance: Tensor
    scale: Tensor
    nugget: Tensor
    uncertainty: Tensor

    @property
    def conditional_variance(self) -> Tensor:
        """Variance of a latent given the other spots [r], on average over spots with visible entries."""
        return self.nugget + self.uncertainty


class SpatialField:
    """The fields of some factors over one graph; all values are float32 [n, r].

    Parameters
    ----------
    graph
        The graph.
    parameters
        The parameters of every factor.
    """

    def __init__(self, graph: SpatialGraph, parameters: FieldParameters) -> None:
        self.graph = graph
        self.parameters = parameters
        tau = (parameters.scale / parameters.variance).double().numpy()
        diagonal = graph.diagonal(parameters.range.double().numpy(), graph.lack)
        self.q_diagonal = (tau * (diagonal**2 / graph.area[:, None] + graph.neighbor_term[:, None])).astype(np.float32)
        self._component = graph.component[graph.connected]
        self._diagonal = diagonal[graph.connected].astype(np.float32)
        self._inverse_area = (1 / graph.area[graph.connected, None]).astype(np.float32)
        self._tau = tau.astype(np.float32)

    def _a(self, values: np.ndarray) -> np.ndarray:
        product = self._diagonal * values
        product -= self.graph.edges @ values
        return product

    def precision(self, values: np.ndarray) -> np.ndarray:
        """Product of Q with values at the connected spots."""
        product = self._a(values)
        product *= self._inverse_area
        product = self._a(product)
        product *= self._tau
        return product

    def solve(
        self,
        evidence: Operator,
        evidence_diagonal: np.ndarray,
        information: np.ndarray,
        *,
        start: np.ndarray | None = None,
        conditioner: Operator | None = None,
        iterations: int = _ITERATIONS,
        tolerance: float = _TOLERANCE,
    ) -> np.ndarray:
        """Solve (Q + W) s = information at the connected spots, by preconditioned conjugate gradients.

        Parameters
        ----------
        evidence, evidence_diagonal
            Product of W with values, and the diagonal of W; W is symmetric, without negative eigenvalues.
        information
            The right-hand side.
        start
            First values; 0 by default.
        conditioner
            Approximate solution, symmetric in its argument; division by the diagonals of Q + W by default.
        iterations, tolerance
            Stop after so many steps, or when the residual is so small, relative to the right-hand side.
        """
        if conditioner is None:
            inverse = 1 / (self.q_diagonal[self.graph.connected] + evidence_diagonal)
            conditioner = partial(np.multiply, inverse)
        return conjugate_gradients(
            partial(self._times, evidence),
            information,
            conditioner,
            self._component,
            start=start,
            iterations=iterations,
            tolerance=tolerance,
        )

    def _times(self, evidence: Operator, values: np.ndarray) -> np.ndarray:
        """Product of Q + W with values at the connected spots."""
        product = self.precision(values)
        product += evidence(values)
        return product

    def posterior(
        self,
        evidence: Callable[[np.ndarray], tuple[Tensor, Tensor]],
        n_spots: int,
        *,
        start: LatentPosterior | None = None,
        iterations: int | None = None,
        own_variance: bool = False,
        packed: Tensor | None = None,
    ) -> LatentPosterior:
        """Posterior of the latents of all spots together.

        The variances are those given the latents of the other spots, with the same prior variance for all spots.

        Parameters
        ----------
        evidence
            Gives the precision [B, r, r] and precision-weighted mean [B, r] of the latents of some spots according to
            their own entries.
        n_spots
            Number of spots.
        start
            Latents to start from; 0 by default.
        iterations
            Stop after so many steps of `solve`; they go on to the solution by default.
        own_variance
            Give spots in holes the prior variance of their own in the end (`conditional_variance`). Without it the
            solution is a rough one, from which another begins.
        packed
            Memory for the covariances. It may be that of other posteriors which `evidence` reads: what they say of
            some spots is overwritten after `evidence` was asked for these.
        """
        nugget, prior_variance = self.parameters.nugget, self.parameters.conditional_variance
        rank = len(nugget)
        information = torch.zeros(n_spots, rank)
        given_field = torch.zeros(n_spots, rank, rank)  # covariance of the latents given the field
        packed = torch.zeros(n_spots, rank * (rank + 1) // 2) if packed is None else packed

        def one(spots: np.ndarray) -> None:
            precision, information[spots] = evidence(spots)
            given_field[spots] = inverse(precision + torch.diag(1 / nugget))
            packed[spots] = pack(inverse(precision + torch.diag(1 / prior_variance)))

        in_parallel(one, n_spots)
        prior_variances = prior_variance.expand_as(information)
        latents = LatentPosterior(information, packed, information, prior_variances)
        weight = self._weight(latents)
        entries = FieldEvidence(given_field, 1 / nugget)
        first, variance = None if start is None else start.field.numpy(), None
        holes = self.holes(weight) if iterations is None else np.zeros(weight.shape, dtype=bool)
        has_holes = bool(holes[self.graph.connected].any())
        direct = has_holes and self.graph.has_small_factors
        with self.direct_solvers(weight) if direct else nullcontext() as solvers:
            if own_variance and has_holes and not direct and self.graph.has_few_neighbors:
                variance, first = self._by_parts(weight, holes, entries, information, first)
            field, mean = self.fields_and_latents(
                entries,
                information,
                start=first,
                conditioner=solvers.by_factor if solvers else None,
                iterations=iterations or _ITERATIONS,
                tolerance=_TOLERANCE if own_variance or iterations else _ROUGH,
            )
            if own_variance and holes.any():
                variance = self.posterior_variance(weight, holes, solvers) if variance is None else variance
                own = torch.from_numpy(self.conditional_variance(weight, variance))
                prior_variances = torch.where(torch.from_numpy(holes), own, prior_variances)
        return latents._replace(mean=mean, field=field, prior_variance=prior_variances)

    def holes(self, weight: np.ndarray) -> np.ndarray:
        """Where other spots say much less of a factor than usual, and right beside that, bool [n, r].

        These are holes in the tissue, sections in which the genes of the factor were not measured, and spots without
        neighbours. There the variance given the other spots is far from the average, and conjugate gradients take long
        to spread what is known.

        Parameters
        ----------
        weight
            Precision with which each spot's own entries determine the field of each factor [n, r].
        """
        around = self.graph.weights @ weight
        inside = around < _LITTLE * around.mean(0)
        beside = self.graph.weights @ inside.astype(np.float32) > 0
        return inside | beside | (self.graph.degree == 0)[:, None]

    def _weight(self, latents: LatentPosterior) -> np.ndarray:
        """Precision with which each spot's own entries determine the field of each factor [n, r]."""
        precision = (1 / latents.variances - 1 / latents.prior_variance).clamp(min=0)
        return (precision / (1 + precision * self.parameters.nugget)).numpy()

    def fields_and_latents(
        self,
        entries: FieldEvidence,
        information: Tensor,
        *,
        start: np.ndarray | None = None,
        conditioner: Operator | None = None,
        iterations: int = _ITERATIONS,
        tolerance: float = _TOLERANCE,
    ) -> tuple[Tensor, Tensor]:
        """Posterior means of the fields and of the latents, both [n, r], given the entries of all spots.

        Parameters
        ----------
        entries
            What the entries of each spot say of its fields.
        information
            Precision-weighted mean of the latents according to each spot's entries [n, r].
        start, conditioner, iterations, tolerance
            See `solve`.
        """
        connected, alone = self.graph.connected, np.flatnonzero(self.graph.degree == 0)
        of_fields = entries.information(information)
        field = torch.empty_like(information)
        # Q is diagonal where there are no neighbours.
        precision = entries.at(alone).dense() + torch.diag_embed(torch.from_numpy(self.q_diagonal[alone]))
        field[alone] = torch.linalg.solve(precision, of_fields[alone])
        there = entries.at(connected)
        field[connected] = torch.from_numpy(
            self.solve(
                there,
                there.diagonal,
                of_fields[connected].numpy(),
                start=None if start is None else start[connected],
                conditioner=conditioner,
                iterations=iterations,
                tolerance=tolerance,
            )
        )
        return field, times(entries.given_field, information + entries.inverse_nugget * field)

    def _by_parts(
        self,
        weight: np.ndarray,
        holes: np.ndarray,
        entries: FieldEvidence,
        information: Tensor,
        start: np.ndarray | None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Variance of the fields given all entries, and means to start from, by parts of the graph; both [n, r].

        They are those of parts with holes; elsewhere the variance is left open.
        """
        connected = self.graph.connected
        variance = 1 / (self.q_diagonal + weight)  # where a spot has no neighbours
        mean = np.zeros(weight.shape, np.float32) if start is None else start.copy()
        there, residual = entries.at(connected), entries.information(information)[connected].numpy()
        residual -= self._times(there, mean[connected])
        ranges, tau = self.parameters.range.double().numpy(), self._tau.astype(np.float64)
        variance[connected], correction = by_parts(
            self.graph, holes[connected], ranges, tau, weight[connected], residual, there
        )
        mean[connected] += correction
        return variance, mean

    def conditional_variance(self, weight: np.ndarray, variance: np.ndarray) -> np.ndarray:
        """Variance of each latent given all other spots, which grows into a hole in the tissue.

        The more a spot's own entries say, the more the average, `uncertainty`, replaces it: there, removing the spot's
        own part from a few draws would leave mostly noise. Of a spot without neighbours it is known.

        Parameters
        ----------
        weight
            Precision with which a spot's own entries determine the field [n, r].
        variance
            Variance of the field given all entries [n, r].
        """
        variance = np.minimum(variance, 2 * self.parameters.variance.numpy())
        usual = self.parameters.uncertainty.numpy()
        unsure = 1 / (1 + weight * usual) ** 2
        without_own = variance / np.maximum(1 - weight * variance, 0.25)
        of_field = (1 - unsure) * usual + unsure * without_own
        alone = self.graph.degree == 0
        of_field[alone] = 1 / self.q_diagonal[alone]
        return self.parameters.nugget.numpy() + of_field

    def posterior_variance(
        self, weight: np.ndarray, holes: np.ndarray | None = None, solvers: Solvers | None = None
    ) -> np.ndarray:
        """Variance of the field given all entries [n, r], from draws of its posterior.

        The noise is fixed. Factors are taken one by one, since they have no effect on each other here.

        Parameters
        ----------
        weight
            Precision with which a spot's own entries determine the field [n, r].
        holes
            Where it is wanted; a factor without any is left out. Everywhere by default.
        solvers
            What `direct_solvers` gives for them; conjugate gradients by default.
        """
        connected = self.graph.connected
        variance = 1 / (self.q_diagonal + weight)  # where a spot has no neighbours

        def one(factor: int, solve: Solve | None = None) -> None:
            if holes is not None and not holes[connected, factor].any():
                return
            field, own = self._of_factor(factor), weight[connected, factor, None]
            solve = solve or partial(field.solve, lambda values: own * values, own)
            random = np.random.default_rng(factor)
            found = variance_of_draws(field._a, field._inverse_area, field._tau, own, solve, random)
            variance[connected, factor] = found

        if len(connected) and solvers:
            solvers.map(one)
        elif len(connected):
            parallel_each(one, range(weight.shape[1]))
        return variance

    def _of_factor(self, factor: int) -> "SpatialField":
        """The field of one factor."""
        return SpatialField(self.graph, FieldParameters(*(part[factor : factor + 1] for part in self.parameters)))

    def direct_solvers(self, weight: np.ndarray) -> Solvers:
        """Give what solves (Q + diag weight) s = information at the connected spots, for each factor."""
        own, n_factors = weight[self.graph.connected], weight.shape[1]
        if not len(own):
            return Solvers(lambda factor: np.zeros_like, n_factors)
        systems = self.graph.triangular  # made before the threads ask for it
        return Solvers(lambda k: systems.solver(self._tau[k], self._diagonal[:, k], own[:, k]), n_factors)
