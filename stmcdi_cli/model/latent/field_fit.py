"""Fit of the spatial prior: range, variance and nugget of each factor by maximum marginal likelihood.

The likelihood is exact on a few patches of neighbouring spots, so that its cost does not grow with the tissue. In a
patch, the evidence of each spot's own entries on a factor is one Gaussian observation y_i of the latent, with a
variance d_i, and y ~ N(0, variance K + (nugget + d) I), where K is the correlation of the field. Each of the three
parameters moves over a grid of values, one step at a time, as long as the likelihood increases.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from stmcdi_cli.model.latent.gaussian import LatentPosterior
from stmcdi_cli.model.latent.spatial_field import FieldParameters
from stmcdi_cli.model.latent.spatial_graph import RANGES, SpatialGraph

_SHARES = np.array([0.02, 0.1, 0.25, 0.4, 0.55, 0.7, 0.8, 0.88, 0.94, 0.98])
"""Shares of the field in the variance of a factor."""
_VARIANCES = np.array([0.06, 0.12, 0.25, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0, 5.6, 8.0])
"""Variances of a factor; usually 1 is the unit of the latents, the rest is in the loadings."""
_FIRST = (5, 6, 5)  # positions on these grids
_USUAL_RANGE, _SD_LOG2_RANGE = 6.0, 2.0  # a weak prior: the range of a factor with little evidence stays finite
_LARGEST = 3.0
"""Largest latent in the likelihood, in standard deviations at the largest variance: a single odd spot must not make a
factor of its own with a large nugget."""
_NO_EVIDENCE = 1e-5
"""Precision below which the entries of a spot say nothing about a factor."""


class FieldFit:
    """Likelihood of the parameters of the prior on patches of one graph.

    Parameters
    ----------
    graph
        The graph.
    largest_variance
        Largest variance of a factor; above 1 where the loadings are given, in the unit of other data.
    """

    def __init__(self, graph: SpatialGraph, largest_variance: float = 1.0) -> None:
        self._graph = graph
        self._variances = _VARIANCES[largest_variance >= _VARIANCES]
        self._largest = _LARGEST * largest_variance**0.5

    def first(self, rank: int) -> FieldParameters:
        """Parameters to start from."""
        return self._parameters(np.repeat(np.array(_FIRST)[:, None], rank, axis=1), 0.5 * torch.ones(rank))

    def improve(self, parameters: FieldParameters, latents: LatentPosterior) -> FieldParameters:
        """Give parameters of a larger likelihood, at most two steps away on each grid.

        Parameters
        ----------
        parameters
            The present ones, with which the latents were found.
        latents
            Posterior of the latents.
        """
        y, d = _own_evidence(latents, parameters, self._largest)
        total = (parameters.variance + parameters.nugget).numpy()
        position = np.stack(
            [
                _nearest(RANGES, parameters.range),
                _nearest(_SHARES, parameters.variance.numpy() / total),
                _nearest(self._variances, total),
            ]
        )
        last = len(RANGES) - 1, len(_SHARES) - 1, len(self._variances) - 1
        moving, likelihood = np.arange(len(total)), self._likelihood(position, y, d)
        for _ in range(2):
            before = position.copy()
            for axis, step in ((0, 1), (0, -1), (1, 1), (1, -1), (2, 1), (2, -1)):
                there = before[axis, moving] + step
                possible = moving[(there >= 0) & (there <= last[axis])]
                other = before[:, possible]
                other[axis] += step
                found = self._likelihood(other, y[:, possible], d[:, possible])
                better = found > likelihood[possible]
                position[:, possible[better]], likelihood[possible[better]] = other[:, better], found[better]
            moving = np.flatnonzero((position != before).any(0))
        return self._parameters(position, torch.from_numpy(self._uncertainty(position, d)).float())

    def _parameters(self, position: np.ndarray, uncertainty: Tensor) -> FieldParameters:
        at_range, at_share, at_variance = position
        total, share = _VARIANCES[at_variance], _SHARES[at_share]
        values = (RANGES[at_range], total * share, self._graph.scales[at_range], total * (1 - share))
        ranges, variance, scale, nugget = (torch.from_numpy(value).float() for value in values)
        return FieldParameters(ranges, variance, scale, nugget, uncertainty)

    def _covariances(
        self, position: np.ndarray, d: np.ndarray, dtype: type = np.float64
    ) -> Iterator[tuple[np.ndarray, Tensor, np.ndarray]]:
        """For every patch: its spots, the covariance of y of each factor [r, p, p], its independent part [r, p]."""
        total, share = _VARIANCES[position[2]], _SHARES[position[1]]
        per_tau = (total * share / self._graph.scales[position[0]]).astype(dtype)
        for spots, of_field in self._graph.patches:
            noise = (total * (1 - share))[:, None] + d[spots].T
            covariance: np.ndarray = np.empty((len(total), len(spots), len(spots)), dtype)
            for own, at_range, scale, own_noise in zip(covariance, position[0], per_tau, noise, strict=True):
                np.multiply(of_field[at_range], scale, out=own, casting="same_kind")
                own.flat[:: len(spots) + 1] += own_noise
            yield spots, torch.from_numpy(covariance), noise

    def _likelihood(self, position: np.ndarray, y: np.ndarray, d: np.ndarray) -> np.ndarray:
        """Log marginal likelihood of each factor [r], up to a constant, with the prior of its range."""
        total = -0.5 * (np.log2(RANGES[position[0]] / _USUAL_RANGE) / _SD_LOG2_RANGE) ** 2
        # Single precision is enough: the nugget keeps the smallest eigenvalue at a ten-thousandth of the largest.
        for patch, covariance, _ in self._covariances(position, d, np.float32):
            factor = torch.linalg.cholesky(covariance)
            observed = torch.from_numpy(np.ascontiguousarray(y[patch].T))[:, :, None].float()
            half = torch.linalg.solve_triangular(factor, observed, upper=False)
            total -= (factor.diagonal(dim1=1, dim2=2).log().sum(1) + half.square().sum((1, 2)) / 2).double().numpy()
        return total

    def _uncertainty(self, position: np.ndarray, d: np.ndarray) -> np.ndarray:
        """Variance of the field at a spot given the others [r], on average over spots with evidence."""
        total, number = np.zeros(position.shape[1]), np.zeros(position.shape[1])
        for patch, covariance, noise in self._covariances(position, d):
            inverse = torch.cholesky_inverse(torch.linalg.cholesky(covariance))
            alone = 1 / inverse.diagonal(dim1=1, dim2=2).numpy() - noise
            seen = d[patch].T < 1 / _NO_EVIDENCE
            total += np.where(seen, alone, 0).sum(1)
            number += seen.sum(1)
        at_most = _VARIANCES[position[2]] * _SHARES[position[1]]
        return np.where(number > 0, np.clip(total / np.maximum(number, 1), 1e-3, None), at_most)


def _own_evidence(
    latents: LatentPosterior, parameters: FieldParameters, largest: float
) -> tuple[np.ndarray, np.ndarray]:
    """What the entries of each spot alone say about each latent: a mean and a variance [n, r].

    Both follow from the posterior and the prior given the other spots, of which the posterior is the product.
    """
    posterior, variance = latents.variances.double().numpy(), latents.prior_variance.double().numpy()
    prior = latents.prior_mean(parameters.nugget).double().numpy()
    precision = 1 / posterior - 1 / variance
    seen = precision > _NO_EVIDENCE
    precision = np.where(seen, precision, _NO_EVIDENCE)
    y = (latents.mean.double().numpy() / posterior - prior / variance) / precision
    return np.where(seen, np.clip(y, -largest, largest), 0), 1 / precision


def _nearest(grid: np.ndarray, values: Tensor | np.ndarray) -> np.ndarray:
    """Position of the nearest value of a grid, in ratio [r]."""
    return np.abs(np.log(np.asarray(values, np.float64)[:, None] / grid)).argmin(1)
