"""Kriged principal components: each is interpolated over its section by a Gaussian process.

A component at distance d covaries by v ((1 - e) m(d / r) + e [d = 0]), with the Matern function of smoothness 3/2,
m(u) = (1 + sqrt(3) u) exp(-sqrt(3) u). Mean and variance v are those of largest likelihood for every pair of a range r
and a share of noise e; the pair is chosen by marginal likelihood, of a grid, for each component and section.

The eigenvalues of m give the likelihood of all components and shares at once, in time n^3 for each range. A section of
more than 1,500 visible spots is therefore fitted on a fixed sample of these, in patches of 10 so that short distances
occur. Predictions use the 50 nearest visible spots: others have hardly any weight.
"""

from typing import NamedTuple

import numpy as np
import torch
from scipy.spatial import KDTree
from torch import Tensor

from stmcdi_cli.baselines import base
from stmcdi_cli.model.gene_scaler import GeneScaler
from stmcdi_cli.resources import n_workers

N_COMPONENTS = 10
N_NEIGHBORS = 50
MOST_FITTED, PATCH = 1500, 10
FEWEST_FITTED = 4
"""A section with fewer visible spots gets their mean."""
RANGES = 2.0 ** np.arange(-0.5, 6.5, 0.5)
"""Ranges to choose from, in units of the usual distance between neighbours."""
NOISES = np.linspace(0.02, 1, 50)
"""Shares of noise to choose from."""


class Process(NamedTuple):
    """Gaussian processes of a section: range, share of noise, mean and variance of each component, float64 [c]."""

    reach: Tensor
    noise: Tensor
    mean: Tensor
    variance: Tensor


def impute(data: base.DenseTissue, *, seed: int) -> base.Estimate:
    """Predict every entry from the interpolated components.

    Hidden entries of a visible spot are taken as the gene's mean when its components are computed.

    Raises
    ------
    InputError
        The file has no coordinates.
    """
    xy, visible = torch.from_numpy(np.asarray(data.positions, np.float64)), data.visible
    scaler = GeneScaler.fit(data.x, data.seen, power=0)
    z = base.masked_tensor(scaler, data.x, data.seen)
    directions = base.leading_directions(z, N_COMPONENTS, seed)
    scores = z @ directions
    field, variance = torch.zeros_like(scores), scores[visible].var(0, correction=0).repeat(len(scores), 1)
    for code in np.unique(data.section):
        spots = data.section == code
        known = spots & visible
        if known.sum() >= FEWEST_FITTED:
            process = fit(xy[known], scores[known].double(), seed)
            field[spots], variance[spots] = interpolate(process, xy[known], scores[known].double(), xy[spots])
        elif known.any():
            field[spots] = scores[known].mean(0)

    rest = np.where(data.seen, (z - scores @ directions.T).numpy() ** 2, 0).sum(0) / np.maximum(data.seen.sum(0), 1)
    sd = (variance @ directions.square().T + torch.from_numpy(rest)).sqrt()
    return base.Estimate(scaler.inverse((field @ directions.T).numpy()), sd.numpy())


def fit(xy: Tensor, scores: Tensor, seed: int) -> Process:
    """Choose the processes of components [n, c] at visible spots [n, d] by marginal likelihood."""
    step = spacing(xy)
    if len(xy) > MOST_FITTED:
        centres = np.random.default_rng(seed).choice(len(xy), MOST_FITTED // PATCH, replace=False)
        sample = np.unique(KDTree(xy.numpy()).query(xy[centres].numpy(), PATCH)[1])
        xy, scores = xy[sample], scores[sample]
    distance, noises = torch.cdist(xy, xy, compute_mode="donot_use_mm_for_euclid_dist"), torch.from_numpy(NOISES)
    found = []
    for reach in step * RANGES:
        values, vectors = torch.linalg.eigh(matern(distance / reach))
        weight = 1 / ((1 - noises)[:, None] * values.clamp(min=0) + noises[:, None])  # [e, n]
        y, one = vectors.T @ scores, vectors.sum(0)
        mean = (weight * one) @ y / (weight @ one.square())[:, None]
        variance = ((weight @ y.square()) - mean.square() * (weight @ one.square())[:, None]) / len(xy)
        variance = variance.clamp(min=1e-12)
        likelihood = (weight.log().sum(1)[:, None] - len(xy) * variance.log()) / 2  # [e, c]
        parts = (likelihood, torch.full_like(mean, reach), noises[:, None].expand_as(mean), mean, variance)
        found.append(torch.stack(parts))
    every = torch.cat(found, dim=1)  # likelihood and the four of a process, for each pair and component
    best = every[0].argmax(0)
    return Process(*every[1:, best, torch.arange(len(best))])


def interpolate(process: Process, xy: Tensor, scores: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
    """Predict components at places [m, d] from those at the nearest visible spots.

    Returns
    -------
    Mean of the smooth field and variance of an observation, noise included, float32 [m, c].
    """
    mean, variance = (values.repeat(len(at), 1) for values in (process.mean, process.variance))
    ranks = np.arange(1, min(N_NEIGHBORS, len(xy)) + 1)
    near = torch.from_numpy(KDTree(xy.numpy()).query(at.numpy(), ranks, workers=n_workers())[1])
    for block in torch.arange(len(at)).split(base.BLOCK):
        places, known = xy[near[block]], scores[near[block]]
        between = torch.cdist(places, places, compute_mode="donot_use_mm_for_euclid_dist")
        away = (places - at[block, None]).norm(dim=2)
        for c, (reach, noise) in enumerate(zip(process.reach, process.noise, strict=True)):
            cov = (1 - noise) * matern(between / reach) + noise * torch.eye(len(ranks), dtype=torch.float64)
            cross = (1 - noise) * matern(away / reach)
            weight = torch.cholesky_solve(cross[..., None], torch.linalg.cholesky(cov))[..., 0]
            mean[block, c] += (weight * (known[..., c] - process.mean[c])).sum(1)
            variance[block, c] *= 1 - (weight * cross).sum(1)
    return mean.float(), variance.float()


def matern(u: Tensor) -> Tensor:
    """Matern correlation of smoothness 3/2 at distances in units of the range."""
    u = 3**0.5 * u
    return (1 + u) * (-u).exp()


def spacing(xy: Tensor) -> float:
    """Usual distance between neighbours at different places; 1 if there is one place."""
    places = np.unique(xy.numpy(), axis=0)
    return float(np.median(KDTree(places).query(places, 2)[0][:, 1])) if len(places) > 1 else 1.0
