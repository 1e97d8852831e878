import json
import subprocess
import sys

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
from scipy.stats import norm

from benchmarks import scoring


def write(tmp_path, truth, imputed):
    truth.write_h5ad(tmp_path / "truth.h5ad")
    imputed.write_h5ad(tmp_path / "imputed.h5ad")
    return tmp_path / "imputed.h5ad", tmp_path / "truth.h5ad"


@pytest.mark.real_data
def test_agrees_with_score_py(small, tmp_path, benchmark_scripts):
    truth, imputed, hidden = small
    values = truth.X.toarray()
    random = np.random.default_rng(1)
    guess = np.where(hidden, np.maximum(values + random.normal(0, 0.5, values.shape), 0), values)
    guess[:, 3] = 0.5  # a constant gene
    imputed.layers["imputed"] = guess
    imputed.layers["imputed_q05"], imputed.layers["imputed_q95"] = guess - 0.6, guess + 0.8
    files = write(tmp_path, truth, imputed)
    script = [sys.executable, benchmark_scripts / "score.py", *files]
    theirs = json.loads(subprocess.run(script, check=True, capture_output=True, text=True).stdout)
    ours = scoring.score(*files)
    assert {key: round(ours[key], 4) for key in theirs} == theirs


def test_a_perfect_guess(small, tmp_path):
    truth, imputed, _ = small
    imputed.layers["imputed"] = truth.X.toarray()
    scores = scoring.score(*write(tmp_path, truth, imputed))
    assert scores["skill"] == 1 and scores["rmse"] == 0
    assert (scores["var_ratio"], scores["zero_error"], scores["corr_error"]) == pytest.approx((1, 0, 0))
    assert scores["spread_from"] is None and "crps" not in scores


def test_a_constant_guess_keeps_nothing_of_the_distribution(small, tmp_path):
    truth, imputed, hidden = small
    imputed.layers["imputed"] = np.where(hidden, 1.0, truth.X.toarray())
    scores = scoring.score(*write(tmp_path, truth, imputed))
    assert scores["var_ratio"] == 0
    zeros = [np.mean(truth.X.toarray()[hidden[:, j], j] == 0) for j in range(12)]
    assert scores["zero_error"] == pytest.approx(np.mean(zeros))
    assert scores["corr_error"] > 0.02


def test_a_standard_deviation_alone_is_a_gaussian(small, tmp_path):
    truth, imputed, hidden = small
    values = truth.X.toarray()
    random = np.random.default_rng(2)
    imputed.layers["imputed"] = values + 10 + random.normal(0, 0.5, values.shape)  # far from 0, where draws are cut
    truth.X = truth.X.toarray() + 10
    imputed.layers["imputed_sd"] = np.full(values.shape, 0.5)
    scores = scoring.score(*write(tmp_path, truth, imputed))
    assert scores["spread_from"] == "gaussian"
    assert scores["coverage_90"] == pytest.approx(0.9, abs=0.06)
    assert scores["crps"] == pytest.approx(0.5 / np.sqrt(np.pi), rel=0.1)  # of a calibrated Gaussian
    assert scores["draw_var_ratio"] > scores["var_ratio"]


def test_crps_of_draws_is_that_of_their_distribution():
    random = np.random.default_rng(3)
    truth = random.normal(size=4000)
    draws = random.normal(0.3, 1.2, (5, 4000))
    z = (truth - 0.3) / 1.2
    exact = 1.2 * np.mean(z * (2 * norm.cdf(z) - 1) + 2 * norm.pdf(z) - 1 / np.sqrt(np.pi))
    assert scoring.crps_draws(draws, truth) == pytest.approx(exact, rel=0.03)  # 5 draws are enough: no bias


def test_draws_go_before_the_standard_deviation(small, tmp_path):
    truth, imputed, _ = small
    values = truth.X.toarray()
    imputed.layers["imputed"] = values + 1
    imputed.layers["imputed_sd"] = np.full(values.shape, 9.0)
    for i in range(3):
        imputed.layers[f"{scoring.SAMPLE}{i:02d}"] = values
    scores = scoring.score(*write(tmp_path, truth, imputed))
    assert scores["spread_from"] == "draws"
    assert scores["crps"] == pytest.approx(0, abs=1e-6)
    assert (scores["draw_var_ratio"], scores["draw_zero_error"]) == pytest.approx((1, 0))


def test_sums_of_genes_tell_whether_their_errors_hang_together():
    random = np.random.default_rng(0)
    hidden = np.ones((2000, 60), dtype=bool)
    own = random.normal(size=(21, 2000, 60))
    together = own + random.normal(size=(21, 2000, 1))
    right = scoring.joint(together[1:], together[0], hidden)
    assert (right["set_coverage"], right["spot_coverage"]) == pytest.approx((0.9, 0.9), abs=0.02)
    # Each gene by itself has the right spread, but what the genes share is missing.
    wrong = scoring.joint(own[1:] * np.sqrt(2), together[0], hidden)
    assert wrong["spot_coverage"] < 0.5 and wrong["spot_crps"] > 1.1 * right["spot_crps"]


def test_denoised_values_are_scored_on_the_other_molecules():
    random = np.random.default_rng(1)
    half, other, predicted = random.uniform(0, 3, (3, 20, 4))
    truth = ad.AnnData(other, layers={"missing": sp.csr_matrix(np.repeat(np.arange(20)[:, None] > 1, 4, axis=1))})
    layers = {"imputed": predicted, "imputed_q05": predicted - 1, "imputed_q95": predicted + 1}
    scores = scoring.denoising(ad.AnnData(half, layers=layers), truth)
    p, t, mean = predicted[2:], other[2:], half[2:].mean(0)  # of the first two spots the other half has nothing
    assert scores["skill"] == pytest.approx(1 - ((p - t) ** 2).sum() / ((mean - t) ** 2).sum())
    assert scores["gene_pcc"] == pytest.approx(np.mean([np.corrcoef(p[:, j], t[:, j])[0, 1] for j in range(4)]))
    assert scores["coverage_90"] == pytest.approx((np.abs(p - t) <= 1).mean())
    assert scores["mae_median"] is None and scores["rmse"] == pytest.approx(np.sqrt(((p - t) ** 2).mean()))
