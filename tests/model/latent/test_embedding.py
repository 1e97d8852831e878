import numpy as np
import torch
from scipy.spatial.distance import pdist

from stmcdi_cli.model.latent.embedding import principal_coordinates

RANDOM = torch.Generator().manual_seed(0)
LATENTS = torch.randn(200, 4, generator=RANDOM) * torch.tensor([1.0, 3.0, 0.2, 0.0])
LOADINGS = torch.randn(60, 4, generator=RANDOM) * torch.tensor([2.0, 0.5, 1.0, 0.0])


def test_distances_are_those_of_the_expression():
    found = principal_coordinates(LATENTS, LOADINGS)
    assert found.dtype == np.float32 and found.shape == (200, 4)
    np.testing.assert_allclose(pdist(found), pdist((LATENTS @ LOADINGS.T).numpy()), rtol=1e-4, atol=1e-4)


def test_axes_are_uncorrelated_and_the_first_vary_most():
    covariance = np.cov(principal_coordinates(LATENTS, LOADINGS).T)
    variances = np.diag(covariance)
    assert np.all(np.diff(variances) <= 1e-6) and variances[0] > 0
    np.testing.assert_allclose(covariance, np.diag(variances), atol=1e-4 * variances[0])


def test_they_do_not_depend_on_the_angle_of_the_latents():
    turn = torch.linalg.qr(torch.randn(4, 4, generator=RANDOM))[0]
    turned = principal_coordinates(LATENTS @ turn, LOADINGS @ turn)
    usual = principal_coordinates(LATENTS, LOADINGS)
    for one, other in zip(turned.T, usual.T, strict=True):
        assert min(np.abs(one - other).max(), np.abs(one + other).max()) < 1e-3
