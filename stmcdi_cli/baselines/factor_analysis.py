"""Factor analysis of the visible entries, with latents smoothed over the nearest spots.

Each gene, standardised, is linear in a few latents of the spot, with its own noise variance. The model is fitted by EM
on the visible entries alone (Ghahramani and Hinton 1996), with a ridge penalty on the loadings.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stmcdi_cli.baselines import base
from stmcdi_cli.model.gene_scaler import GeneScaler

RANKS = (4, 8, 15)
SHARES = (0.0, 0.2, 0.4, 0.6)
"""Weights of the neighbours' mean in the smoothed latents, to choose from."""
N_NEIGHBORS = 6
ITERATIONS = 40
RIDGE = 30.0
VALIDATION = 0.1


@dataclass(frozen=True)
class Factors:
    """A fitted model of standardised expression.

    Attributes
    ----------
    loadings
        Of each gene; the last column is its intercept [G, r + 1].
    noise
        Variance that the latents do not explain [G].
    latents, cov
        Posterior mean [n, r] and covariance [n, r, r] of each spot's latents.
    """

    loadings: Tensor
    noise: Tensor
    latents: Tensor
    cov: Tensor

    def predict(self, smooth: "Smoother", share: float) -> Tensor:
        """Expected values [n, G] from latents that take a share from the neighbours' mean."""
        return _with_one(smooth(self.latents, share)) @ self.loadings.T

    def variance(self) -> Tensor:
        """Variance of an observation [n, G]: that of the latents and the noise."""
        slopes = self.loadings[:, :-1]
        return self.cov.flatten(1) @ _squares(slopes).T + self.noise


class Smoother:
    """Moves the latents of a spot towards the mean of its neighbours'."""

    def __init__(self, data: base.DenseTissue) -> None:
        neighbors = data.nearest(N_NEIGHBORS)
        self._neighbors = neighbors
        self._number = np.asarray(neighbors.sum(1))

    def __call__(self, latents: Tensor, share: float) -> Tensor:
        """Smoothed latents [n, r]; a spot without neighbours keeps its own."""
        mean = (self._neighbors @ latents.numpy()) / np.maximum(self._number, 1)
        return latents + share * torch.from_numpy(
            np.where(self._number > 0, mean - latents.numpy(), 0).astype(np.float32)
        )


def impute(data: base.DenseTissue, *, seed: int) -> base.Estimate:
    """Predict every entry by the factor model whose rank and smoothing were best on an inner validation mask.

    Raises
    ------
    InputError
        The file has no coordinates.
    """
    smooth = Smoother(data)
    validation_mask = base.choose_entries(data.seen, VALIDATION, seed)
    part = data.seen & ~validation_mask
    scaler = GeneScaler.fit(data.x, part)
    error = {}
    for rank in RANKS:
        factors = fit(base.masked_tensor(scaler, data.x, part), torch.from_numpy(part), rank, seed)
        for share in SHARES:
            predicted = scaler.inverse(factors.predict(smooth, share).numpy())
            error[rank, share] = float(((predicted - data.x) ** 2 * validation_mask).sum(dtype=np.float64))
    rank, share = min(error, key=lambda setting: error[setting])

    scaler = GeneScaler.fit(data.x, data.seen)
    factors = fit(base.masked_tensor(scaler, data.x, data.seen), torch.from_numpy(data.seen), rank, seed)
    mean = scaler.inverse(factors.predict(smooth, share).numpy())
    return base.fill_gaps(data, base.Estimate(mean, scaler.scale * factors.variance().sqrt().numpy()))


def fit(z: Tensor, seen: Tensor, rank: int, seed: int) -> Factors:
    """EM on standardised values z [n, G], which are 0 where not seen; these are not used."""
    rank = max(1, min(rank, *(size - 1 for size in z.shape)))
    weight = seen.float()
    latents = torch.linalg.qr(z @ base.leading_directions(z, rank, seed))[0] * len(z) ** 0.5
    cov = torch.zeros(len(z), latents.shape[1], latents.shape[1])
    loadings, noise = torch.empty(0), torch.ones(z.shape[1])
    for _ in range(ITERATIONS):
        loadings, noise = _maximize(z, weight, latents, cov, noise)
        latents, cov = _expect(z, weight, loadings, noise)
    return Factors(loadings, noise, latents, cov)


def _expect(z: Tensor, weight: Tensor, loadings: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Posterior mean [n, r] and covariance [n, r, r] of the latents, whose prior is standard normal."""
    slopes, intercept = loadings[:, :-1], loadings[:, -1]
    rank = slopes.shape[1]
    information = (weight @ (_squares(slopes) / noise[:, None])).reshape(-1, rank, rank)
    cov = torch.linalg.inv(information + torch.eye(rank))
    target = (weight * (z - intercept)) @ (slopes / noise[:, None])
    return torch.einsum("nab,nb->na", cov, target), cov


def _maximize(z: Tensor, weight: Tensor, latents: Tensor, cov: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Loadings [G, r + 1] and noise [G] of maximum likelihood, given the posterior of the latents."""
    extended = _with_one(latents)
    width = extended.shape[1]
    second = extended[:, :, None] * extended[:, None, :]
    second[:, :-1, :-1] += cov
    products = (weight.T @ second.flatten(1)).reshape(-1, width, width)
    targets = z.T @ extended  # z is 0 where nothing is seen
    ridge = RIDGE * noise[:, None, None] * torch.eye(width)
    loadings = torch.linalg.solve(products + ridge, targets)
    residual = z.square().sum(0) - 2 * (targets * loadings).sum(1)
    residual = residual + torch.einsum("ga,gab,gb->g", loadings, products, loadings)
    return loadings, (residual.clamp(min=0) + 1) / (weight.sum(0) + 1)


def _with_one(latents: Tensor) -> Tensor:
    """Latents with the constant that the intercept multiplies."""
    return torch.cat([latents, torch.ones_like(latents[:, :1])], dim=1)


def _squares(slopes: Tensor) -> Tensor:
    """Outer product of each gene's slopes with themselves, flattened [G, r * r]."""
    return (slopes[:, :, None] * slopes[:, None, :]).flatten(1)
