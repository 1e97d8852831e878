"""What holds for every method, and how they rank on a tissue whose structure is known."""

import numpy as np
import pytest
import scipy.sparse as sp
from helpers import dense
from scipy.stats import norm

import stmcdi_cli as stmcdi
from stmcdi_cli.baselines import METHODS, DenseTissue

NAMES = sorted(METHODS)


@pytest.mark.parametrize("name", NAMES)
def test_hidden_values_reach_no_method(case, estimate, name):
    """Other values in X and in the counts where entries are hidden: not a bit of the result changes."""
    told = case.masked.copy()
    random = np.random.default_rng(0)
    for matrix in ("X", "counts"):
        values = dense(told.X if matrix == "X" else told.layers["counts"]).copy()
        values[case.hidden] = random.integers(1, 50, case.hidden.sum())
        if matrix == "X":
            told.X = sp.csr_matrix(values)
        else:
            told.layers["counts"] = sp.csr_matrix(values)
    told.layers["imputed"] = case.truth
    one = estimate(name)
    other = METHODS[name](DenseTissue.from_anndata(told, None), seed=0)
    np.testing.assert_array_equal(one.mean, other.mean)
    np.testing.assert_array_equal(one.sd, other.sd)


@pytest.mark.parametrize("name", NAMES)
def test_every_entry_gets_a_finite_value_and_a_spread(case, estimate, name):
    found = estimate(name)
    assert found.mean.shape == case.truth.shape and found.mean.dtype == np.float32
    assert np.isfinite(found.mean).all() and np.isfinite(found.sd).all()
    assert (np.broadcast_to(found.sd, case.truth.shape) > 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_the_spread_is_that_of_the_hidden_values(case, estimate, name):
    """The standardised residuals have unit variance, give or take."""
    sd = np.broadcast_to(estimate(name).sd, case.truth.shape)[case.hidden]
    residual = (case.truth - estimate(name).mean)[case.hidden]
    assert 0.85 < np.sqrt(np.mean((residual / sd) ** 2)) < 1.15
    assert 0.86 < np.mean(np.abs(residual) < norm.ppf(0.95) * sd) < 0.97


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(2, 1), (3, 5), (40, 2)])
def test_tiny_tables(name, shape):
    raw = stmcdi.simulate(n_spots=60, n_genes=30, seed=2)[: shape[0], : shape[1]].copy()
    raw.X = sp.csr_matrix(dense(raw.X) + np.eye(*shape))
    masked, _ = stmcdi.hold_out(stmcdi.normalize(raw), fraction=0.3, seed=0)
    estimate = METHODS[name](DenseTissue.from_anndata(masked, None), seed=0)
    assert np.isfinite(estimate.mean).all() and np.isfinite(estimate.sd).all()


@pytest.mark.parametrize("name", NAMES)
def test_genes_and_spots_without_a_visible_value(case, name):
    """A gene hidden everywhere, one that is 0 everywhere it is seen, and a spot of which nothing is seen."""
    masked = case.masked.copy()
    hidden, x = case.hidden.copy(), dense(masked.X).copy()
    hidden[:, 3] = True
    hidden[7] = True
    hidden[:, 5], x[:, 5] = False, 0
    masked.X, masked.layers["missing"] = sp.csr_matrix(np.where(hidden, 0, x)), sp.csr_matrix(hidden)
    estimate = METHODS[name](DenseTissue.from_anndata(masked, None), seed=0)
    assert np.isfinite(estimate.mean).all() and np.isfinite(estimate.sd).all()
    assert np.abs(estimate.mean[:, 5]).max() < 0.1
    means = np.where(hidden, 0, x).sum(0) / (~hidden).sum(0).clip(1)
    assert np.abs(estimate.mean[7] - means).mean() < 0.5


RANKING = [  # better, worse
    ("spatial-neighbors", "gene-mean"),
    ("expression-neighbors", "gene-mean"),
    ("soft-impute", "spatial-neighbors"),
    ("factor-analysis", "spatial-neighbors"),
    ("factor-analysis", "expression-neighbors"),
    ("mlp", "spatial-neighbors"),
    ("vae", "spatial-neighbors"),
    ("gan", "spatial-neighbors"),
]


@pytest.mark.parametrize(("better", "worse"), RANKING)
def test_ranks_as_it_should_on_a_low_rank_tissue(skill, better, worse):
    assert skill(better) > skill(worse) + 0.01
