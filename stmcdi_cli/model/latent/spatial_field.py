"""The spatial prior of the latents: each factor is a Matern field over the graph, plus a part of each spot's own.

At spot i, z_ik = s_ik + e_ik. The field s_k is smooth with a range of its own, and e_ik ~ N(0, nugget_k) is independent
from spot to spot. The field solves (kappa^2 - Laplacian) s = white noise; its covariance is Matern's with smoothness 1
and range sqrt(8) / kappa (Lindgren, Rue and Lindstrom 2011). On the graph its precision is sparse::

    Q = tau A C^-1 A        A = kappa^2 C + G

G is the Laplacian of the graph and C is diagonal, with the area of each spot. Products with Q cost two passes over the
edges, so systems of equations are solved by conjugate gradients, for all factors together.
"""

from collections.abc import Callable
from functools import cached_property
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from stmcdi_cli.model.latent.blocks import in_parallel

_AREAS = (0.1, 10.0)  # smallest and largest area of a spot, relative to the median
_OWN_UNIT = 50  # spots from which on a part of the graph has its own unit of length
_SAMPLES = 24
_DRAWN_AT_ONCE = 2_000_000  # values
_TOLERANCE = 1e-3


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


class SpatialGraph:
    """Graph Laplacian and area of every spot; symmetric, even if the graph is directed.

    Areas are mean squared distances to the neighbours, and the unit of length is the root of the median area of a
    section. Neighbours at a larger distance than usual for their spots have a smaller weight. Weights are scaled so
    that they sum to 4 at a usual spot, as those of a square grid do.

    Parameters
    ----------
    graph
        Adjacency, CSR, spots x spots.
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
        squared = sp.csr_matrix(graph, dtype=np.float64, copy=True)
        squared.data[:] = 1e-12  # an edge between two spots in one place is still an edge
        squared = squared + (
            graph.astype(bool).astype(np.float64) if lengths is None else graph.multiply(lengths).power(2)
        )
        squared = sp.csr_matrix(squared.maximum(squared.T))
        self.n_components, self.component = connected_components(squared, directed=False)
        n_neighbors = np.diff(squared.indptr)
        connected = n_neighbors > 0
        row = np.repeat(np.arange(n), n_neighbors)
        around = np.where(connected, np.bincount(row, squared.data, n) / np.maximum(n_neighbors, 1), 1)
        unit = self._units(around, connected)
        self.area = np.clip(around / unit, *_AREAS)
        usual = (self.area[row] + self.area[squared.indices]) / 2
        weight = np.minimum(1, usual * unit[row] / squared.data)
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
        order = np.argsort(self.component, kind="stable")
        for part in np.split(order, np.cumsum(np.bincount(self.component))[:-1]):
            if len(part) >= _OWN_UNIT:
                unit[part] = np.median(around[part])
        return unit

    def diagonal(self, ranges: np.ndarray, lack: np.ndarray, spots: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Diagonal of A of some spots for some ranges [n, r], given what the spots lack in neighbours.

        The expected value of a neighbour that is not there is exp(-kappa) times the spot's own. Without this term, the
        variance of a spot without neighbours would be a hundred times that of others.
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
    def edges(self) -> sp.csr_matrix:
        """Weights of the edges in single precision."""
        return self.weights.astype(np.float32)


class SpatialField:
    """The fields of all factors over one graph; all values are float32 [n, r].

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
        neighbors = graph.weights.multiply(graph.weights) @ (1 / graph.area)
        self._q_diagonal = (tau * (diagonal**2 / graph.area[:, None] + neighbors[:, None])).astype(np.float32)
        self._diagonal = diagonal.astype(np.float32)
        self._area = graph.area[:, None].astype(np.float32)
        self._root_tau = np.sqrt(tau).astype(np.float32)

    def _a(self, values: np.ndarray) -> np.ndarray:
        return self._diagonal * values - self.graph.edges @ values

    def precision(self, values: np.ndarray) -> np.ndarray:
        """Product of Q with values."""
        return self._root_tau**2 * self._a(self._a(values) / self._area)

    def solve(
        self,
        evidence: Callable[[np.ndarray], np.ndarray],
        evidence_diagonal: np.ndarray,
        information: np.ndarray,
        *,
        start: np.ndarray | None = None,
        iterations: int = 300,
        tolerance: float = _TOLERANCE,
    ) -> np.ndarray:
        """Solve (Q + W) s = information, by preconditioned conjugate gradients.

        Parameters
        ----------
        evidence, evidence_diagonal
            Product of W with values, and the diagonal of W; W is symmetric, without negative eigenvalues.
        information
            The right-hand side.
        start
            First values; 0 by default.
        iterations, tolerance
            Stop after so many steps, or when the residual is so small, relative to the right-hand side.
        """
        inverse = 1 / (self._q_diagonal + evidence_diagonal)
        s = np.zeros_like(information) if start is None else start.copy()
        residual = information.copy() if start is None else information - self.precision(s) - evidence(s)
        direction = inverse * residual
        # Every part of the graph has step lengths of its own and stops by itself: no part has an effect on another.
        size = self._dot(residual, direction)
        enough = tolerance**2 * self._dot(information, inverse * information)
        for _ in range(iterations):
            if not (size > enough).any():
                break
            product = self.precision(direction) + evidence(direction)
            curvature = self._dot(direction, product)
            going_on = (size > enough) & (curvature > 0)  # 0 where the numbers are too small for single precision
            step = np.where(going_on, size / np.where(going_on, curvature, 1), 0)
            s += self._per_spot(step) * direction
            residual -= self._per_spot(step) * product
            conditioned = inverse * residual
            before, size = size, self._dot(residual, conditioned)
            ratio = np.where(going_on, size / np.where(going_on, before, 1), 0)
            direction = conditioned + self._per_spot(ratio) * direction
        return s

    def fields_and_latents(
        self, given_field: Tensor, information: Tensor, *, start: np.ndarray | None = None, iterations: int = 300
    ) -> tuple[Tensor, Tensor]:
        """Posterior means of the fields and of the latents, both [n, r], given the entries of all spots.

        The entries of spot i have the precision P_i on its latents. With the latents integrated out, they have the
        precision (P_i^-1 + diag nugget)^-1 on the field.

        Parameters
        ----------
        given_field
            Covariance of the latents of each spot given the field, (P_i + diag 1 / nugget)^-1 [n, r, r].
        information
            Precision-weighted mean of the latents according to each spot's entries [n, r].
        start, iterations
            See `solve`.
        """
        inverse_nugget = (1 / self.parameters.nugget).numpy()

        def times_covariance(values: np.ndarray) -> np.ndarray:
            out = torch.empty_like(information)

            def one(spots: np.ndarray) -> None:
                some = slice(int(spots[0]), int(spots[-1]) + 1)
                out[some] = torch.bmm(given_field[some], torch.from_numpy(values[some, :, None]))[:, :, 0]

            in_parallel(one, len(values))
            return out.numpy()

        diagonal = given_field.diagonal(dim1=1, dim2=2).numpy()
        field = self.solve(
            lambda s: inverse_nugget * (s - times_covariance(inverse_nugget * s)),
            np.maximum(inverse_nugget - inverse_nugget**2 * diagonal, 0),
            inverse_nugget * times_covariance(information.numpy()),
            start=start,
            iterations=iterations,
        )
        latents = times_covariance(information.numpy() + inverse_nugget * field)
        return torch.from_numpy(field), torch.from_numpy(latents)

    def _dot(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Sum of all products in each part of the graph."""
        graph = self.graph
        return np.bincount(graph.component, np.einsum("nr,nr->n", first, second), graph.n_components)

    def _per_spot(self, number: np.ndarray) -> np.ndarray:
        """Number of the part of the graph that each spot is in [n, 1]."""
        return number.astype(np.float32)[self.graph.component, None]

    def conditional_variance(self, weight: np.ndarray) -> np.ndarray:
        """Variance of each latent given all other spots, which grows into a hole in the tissue.

        That of the field is estimated from draws of its posterior (Papandreou and Yuille 2010), with fixed noise. The
        more a spot's own entries say, the more the average, `uncertainty`, replaces it: there, removing the spot's
        own part from a few draws would leave mostly noise.

        Parameters
        ----------
        weight
            Precision with which a spot's own entries determine the field.
        """
        random = np.random.default_rng(0)
        n, rank = weight.shape
        at_once = max(1, min(_SAMPLES, _DRAWN_AT_ONCE // weight.size))
        total = np.zeros_like(weight)
        for first in range(0, _SAMPLES, at_once):
            some = min(at_once, _SAMPLES - first)  # draws, side by side as if they were more factors
            field = SpatialField(self.graph, FieldParameters(*(part.repeat(some) for part in self.parameters)))
            weights = np.tile(weight, some)
            of_prior, of_entries = random.standard_normal((2, n, some * rank), dtype=np.float32)
            noise = field._root_tau * field._a(of_prior / np.sqrt(self._area)) + np.sqrt(weights) * of_entries

            def times_weight(values: np.ndarray, weights: np.ndarray = weights) -> np.ndarray:
                return weights * values

            draws = field.solve(times_weight, weights, noise, tolerance=_TOLERANCE)
            total += np.square(draws).reshape(n, some, rank).sum(1)
        variance = np.minimum(total / _SAMPLES, 2 * self.parameters.variance.numpy())
        usual = self.parameters.uncertainty.numpy()
        unsure = 1 / (1 + weight * usual) ** 2
        without_own = variance / np.maximum(1 - weight * variance, 0.25)
        return self.parameters.nugget.numpy() + (1 - unsure) * usual + unsure * without_own
