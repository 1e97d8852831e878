"""A correlated Gaussian, some coordinates observed: the one case in which the posterior is known exactly."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from stmcdi_cli.model.diffusion import keyed_noise as keyed
from stmcdi_cli.model.diffusion.schedule import Schedule

D, OBSERVED, TARGET = 6, [0, 2], [1, 3, 4, 5]


def covariance():
    """Unit variances, correlations up to 0.8."""
    loadings = np.array([[0.9, 0.0], [0.8, 0.3], [-0.2, 0.9], [0.0, 0.8], [0.5, -0.5], [0.6, 0.6]])
    return loadings @ loadings.T + np.diag(1 - (loadings**2).sum(1))


def posterior(x_observed):
    """Mean and covariance of the targets given the observed values."""
    c = covariance()
    gain = c[np.ix_(TARGET, OBSERVED)] @ np.linalg.inv(c[np.ix_(OBSERVED, OBSERVED)])
    return gain @ x_observed, c[np.ix_(TARGET, TARGET)] - gain @ c[np.ix_(OBSERVED, TARGET)]


def optimal_predictor(schedule: Schedule, mean, cov):
    """E[noise | x_t] where x_0 is Gaussian."""
    mean, cov = torch.tensor(mean), torch.tensor(cov)

    def predict(x_t, t):
        abar = float(schedule.alpha_bars[t])
        precision = torch.linalg.inv(abar * cov + (1 - abar) * torch.eye(len(mean), dtype=cov.dtype))
        return np.sqrt(1 - abar) * (x_t - np.sqrt(abar) * mean) @ precision

    return predict


def noise_of(n, d, dtype=torch.float64):
    """Keyed noise for n samples of one spot."""
    return lambda stream: torch.from_numpy(keyed.normal(0, np.array([0]), np.arange(n), stream, d)[:, 0]).to(dtype)


@pytest.fixture
def toy():
    return SimpleNamespace(
        covariance=covariance(),
        observed=OBSERVED,
        target=TARGET,
        posterior=posterior,
        optimal_predictor=optimal_predictor,
        noise_of=noise_of,
    )
