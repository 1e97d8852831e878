from types import SimpleNamespace

import numpy as np
import torch
from scipy.spatial.distance import pdist

from stmcdi_cli.model.latent.embedding import principal_coordinates, standardised_loadings

RANDOM = torch.Generator().manual_seed(0)
LATENTS = torch.randn(200, 4, generator=RANDOM) * torch.tensor([1.0, 3.0, 0.2, 0.0])
LOADINGS = torch.randn(60, 4, generator=RANDOM) * torch.tensor([2.0, 0.5, 1.0, 0.0])
VARIANCE = torch.tensor([1.0, 9.0, 0.04, 1e-6])  # of LATENTS


def encoder(loadings=LOADINGS, variance=VARIANCE, *, noise=1.0, slope=1.0, weight=1.0):
    """What `standardised_loadings` takes of an encoder."""
    n_genes = len(loadings)
    moments = (torch.zeros(1, n_genes), torch.ones(1, n_genes) * slope, torch.ones(1, n_genes) * noise)
    return SimpleNamespace(
        loadings=torch.cat([loadings, torch.full((n_genes, 1), 5.0)], dim=1),  # and a constant
        psi=torch.ones(n_genes),
        field=SimpleNamespace(variance=0.75 * variance, nugget=0.25 * variance),
        moments=lambda depth: moments,
        weight_of_depth=lambda depth: weight * np.ones(len(depth)),
    )


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


def test_genes_count_in_their_standard_deviations():
    """A gene without noise varies by 1 over the spots; one that is nine tenths noise by a tenth of the variance."""
    of_latents = LOADINGS**2 @ VARIANCE
    for noise, share in ((1e-9, 1.0), (9 * of_latents, 0.1)):
        scaled = standardised_loadings(encoder(noise=noise))
        np.testing.assert_allclose(scaled**2 @ VARIANCE, np.full(60, share), rtol=1e-4)


def test_standardised_loadings_do_not_depend_on_units():
    usual = standardised_loadings(encoder())
    latents_halved = standardised_loadings(encoder(2 * LOADINGS, VARIANCE / 4))
    torch.testing.assert_close(latents_halved, 2 * usual)
    genes_halved = standardised_loadings(encoder(LOADINGS / 2, slope=2.0))  # the same expression
    torch.testing.assert_close(genes_halved, usual)


def test_shallow_spots_are_noisier():
    deep, shallow = (standardised_loadings(encoder(weight=weight))[:, :3].abs() for weight in (1.0, 0.1))
    assert (shallow < deep).all()


def test_a_gene_that_no_latent_explains_does_not_count():
    loadings = LOADINGS.clone()
    loadings[3] = 0
    assert (standardised_loadings(encoder(loadings))[3] == 0).all()
