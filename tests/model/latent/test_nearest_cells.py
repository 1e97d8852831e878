"""Genes that were not measured, in the cells of a reference that resemble a spot most."""

import numpy as np

from stmcdi_cli.model.latent.nearest_cells import NearestCells


def test_the_mean_of_the_nearest_cells_on_the_scale_of_the_target(pair):
    z, standard = pair.standardised()
    of_cells = standard[:, pair.measured]
    cosine = z @ of_cells.T / np.linalg.norm(z, axis=1)[:, None] / np.linalg.norm(of_cells, axis=1)
    nearest = np.argsort(-cosine, axis=1)[:, : len(standard) // 10]
    expected = 1.5 + 0.5 * standard[nearest].mean(1)[:, pair.unmeasured]
    np.testing.assert_allclose(NearestCells(pair.shared()).expected(pair.spots), expected, atol=1e-4)
