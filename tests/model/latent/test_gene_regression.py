"""Genes that were not measured, by ridge regression on those that were."""

import numpy as np
import pytest

from stmcdi_cli.model.latent import gene_regression
from stmcdi_cli.model.latent.gene_regression import GeneRegression


def test_the_ridge_regression_on_the_scale_of_the_target(pair):
    """Of the penalties, the one with the least generalised cross-validation error, written out."""
    z, standard = pair.standardised()
    x, y, n = standard[:, pair.measured], standard[:, pair.unmeasured], len(standard)
    errors, predictions = [], []
    for penalty in (0.5, 1, 2, 4, 8):
        inverse = np.linalg.inv(x.T @ x + penalty * n * np.eye(x.shape[1]))
        n_free = 1 + np.trace(x @ inverse @ x.T)
        errors.append(((y - x @ inverse @ x.T @ y) ** 2).sum(0) / (n - n_free) ** 2)
        predictions.append(z @ inverse @ x.T @ y)
    best = np.argmin(errors, axis=0)
    deviation = np.stack([predictions[k][:, gene] for gene, k in enumerate(best)], axis=1)
    found = GeneRegression(pair.shared()).expected(pair.spots)
    np.testing.assert_allclose(found, 1.5 + 0.5 * deviation, atol=1e-4)


def test_a_gene_alone_that_follows_a_shared_one_gets_a_weak_penalty_and_noise_a_strong_one(pair):
    rng = np.random.default_rng(1)
    x = pair.reference.x.toarray()
    copied, noise = pair.unmeasured
    x[:, copied], x[:, noise] = x[:, 0], rng.permutation(x[:, noise])
    found = GeneRegression(pair.with_cells(x).shared()).expected(pair.spots)
    assert found[:, 0].std() > 3 * found[:, 1].std()
    assert np.corrcoef(found[:, 0], pair.target.x.toarray()[:, 0])[0, 1] > 0.9


def test_of_very_many_shared_genes_those_that_vary_most(pair, monkeypatch):
    monkeypatch.setattr(gene_regression, "_MOST_GENES", 4)
    varies = pair.measured[np.argsort(-pair.reference.x.toarray().std(0)[pair.measured])]
    few = GeneRegression(pair.shared()).expected(pair.spots)
    for gene, matters in ((varies[0], True), (varies[-1], False)):
        changed = np.zeros(pair.target.x.shape, bool)
        changed[:, gene] = np.arange(len(changed)) % 2
        found = GeneRegression(pair.shared(changed)).expected(pair.spots)
        assert (np.abs(found - few).max() > 1e-3) == matters


@pytest.mark.filterwarnings("error")
def test_a_gene_that_no_cell_has(pair):
    x = pair.reference.x.toarray()
    x[:, pair.unmeasured[1]] = 0
    found = GeneRegression(pair.with_cells(x).shared()).expected(pair.spots)
    assert np.isfinite(found).all() and np.allclose(found[:, 1], 1.5)


def test_no_gene_to_predict(pair):
    nothing = pair.shared(wanted=np.zeros(12, bool))
    assert GeneRegression(nothing).expected(pair.spots).shape == (30, 0)
