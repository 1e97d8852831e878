"""Factor analysis of the visible entries, its spot scores smoothed over the nearest spots.

Each gene, standardised, is linear in a few scores of the spot, with noise of its own; fitted by EM in which an entry
that is not visible does not occur (Ghahramani and Hinton 1996), with a ridge on the loadings.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stmcdi_cli.baselines import base
from stmcdi_cli.model.gene_scaler import GeneScaler

RANKS = (4, 8, 15)
SHARES = (0.0, 0.2, 0.4, 0.6)
"""Weights of the neighbours' mean score in the smoothed one to choose from."""
N_NEIGHBORS = 6
ITERATIONS = 40
RIDGE = 30.0
VALIDATION = 0.1


@dataclass(frozen=True)
class Factors:
    """What was fitted, for standardised expression.

    Attributes
    ----------
    loadings
        Of each gene; the last column is its intercept [G, r + 1].
    noise
        Variance that the scores do not explain [G].
    scores, cov
        Posterior mean [n, r] and covariance [n, r, r] of each spot's scores.
    """

    loadings: Tensor
    noise: Tensor
    scores: Tensor
    cov: Tensor

    def predict(self, smooth: "Smoother", share: float) -> Tensor:
        """Expected values [n, G] from scores that take a share from the neighbours' mean."""
        return _with_one(smooth(self.scores, share)) @ self.loadings.T

    def variance(self) -> Tensor:
        """Variance of what would be observed [n, G]: the scores' and the noise."""
        slopes = self.loadings[:, :-1]
        return self.cov.flatten(1) @ _squares(slopes).T + self.noise


class Smoother:
    """Draws the scores of a spot towards the mean of its neighbours'."""

    def __init__(self, data: base.DenseTissue) -> None:
        neighbors = data.nearest(N_NEIGHBORS)
        self._neighbors = neighbors
        self._number = np.asarray(neighbors.sum(1))

    def __call__(self, scores: Tensor, share: float) -> Tensor:
        """Smoothed scores [n, r]; those of a spot without neighbours stay."""
        mean = (self._neighbors @ scores.numpy()) / np.maximum(self._number, 1)
        return scores + share * torch.from_numpy(
            np.where(self._number > 0, mean - scores.numpy(), 0).astype(np.float32)
        )


def impute(data: base.DenseTissue, *, seed: int) -> base.Estimate:
    """Predict every entry by the factor model whose rank and smoothing did best on an inner validation mask.

    Raises
    ------
    InputError
        The file has no coordinates.
    """
    smooth = Smoother(data)
    chosen = base.choose_validation(data.seen, VALIDATION, seed)
    part = data.seen & ~chosen
    scaler = GeneScaler.fit(data.x, part)
    error = {}
    for rank in RANKS:
        factors = fit(base.masked_tensor(scaler, data.x, part), torch.from_numpy(part), rank, seed)
        for share in SHARES:
            predicted = scaler.inverse(factors.predict(smooth, share).numpy())
            error[rank, share] = float(((predicted - data.x) ** 2 * chosen).sum(dtype=np.float64))
    rank, share = min(error, key=lambda setting: error[setting])

    scaler = GeneScaler.fit(data.x, data.seen)
    factors = fit(base.masked_tensor(scaler, data.x, data.seen), torch.from_numpy(data.seen), rank, seed)
    mean = scaler.inverse(factors.predict(smooth, share).numpy())
    return base.Estimate(mean, scaler.scale * factors.variance().sqrt().numpy())


def fit(z: Tensor, seen: Tensor, rank: int, seed: int) -> Factors:
    """EM on standardised values z [n, G], of which those not seen are 0 and do not count."""
    rank = max(1, min(rank, *(size - 1 for size in z.shape)))
    weight = seen.float()
    scores = torch.linalg.qr(z @ base.leading_directions(z, rank, seed))[0] * len(z) ** 0.5
    cov = torch.zeros(len(z), scores.shape[1], scores.shape[1])
    loadings, noise = torch.empty(0), torch.ones(z.shape[1])
    for _ in range(ITERATIONS):
        loadings, noise = _maximize(z, weight, scores, cov, noise)
        scores, cov = _expect(z, weight, loadings, noise)
    return Factors(loadings, noise, scores, cov)


def _expect(z: Tensor, weight: Tensor, loadings: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Posterior mean [n, r] and covariance [n, r, r] of the scores, which are standard normal a priori."""
    slopes, intercept = loadings[:, :-1], loadings[:, -1]
    rank = slopes.shape[1]
    information = (weight @ (_squares(slopes) / noise[:, None])).reshape(-1, rank, rank)
    cov = torch.linalg.inv(information + torch.eye(rank))
    target = (weight * (z - intercept)) @ (slopes / noise[:, None])
    return torch.einsum("nab,nb->na", cov, target), cov


def _maximize(z: Tensor, weight: Tensor, scores: Tensor, cov: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Loadings [G, r + 1] and noise [G] that make the visible entries likeliest, given the scores' posterior."""
    score = _with_one(scores)
    width = score.shape[1]
    second = score[:, :, None] * score[:, None, :]
    second[:, :-1, :-1] += cov
    products = (weight.T @ second.flatten(1)).reshape(-1, width, width)
    targets = z.T @ score  # z is 0 where nothing is seen
    ridge = RIDGE * noise[:, None, None] * torch.eye(width)
    loadings = torch.linalg.solve(products + ridge, targets)
    residual = z.square().sum(0) - 2 * (targets * loadings).sum(1)
    residual = residual + torch.einsum("ga,gab,gb->g", loadings, products, loadings)
    return loadings, (residual.clamp(min=0) + 1) / (weight.sum(0) + 1)


def _with_one(scores: Tensor) -> Tensor:
    """Scores with the constant that the intercept multiplies."""
    return torch.cat([scores, torch.ones_like(scores[:, :1])], dim=1)


def _squares(slopes: Tensor) -> Tensor:
    """Outer product of each gene's slopes with themselves, flattened [G, r * r]."""
    return (slopes[:, :, None] * slopes[:, None, :]).flatten(1)
