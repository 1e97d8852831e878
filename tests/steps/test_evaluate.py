import json
import subprocess
import sys

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from helpers import dense

import stmcdi_cli as stmcdi
from stmcdi_cli import metrics
from stmcdi_cli.errors import InputError
from stmcdi_cli.steps.evaluate import evaluate_genes


def imputed_like(masked, truth, noise=0.3, seed=0):
    """Plausible imputation: the truth plus noise at every entry, with spread layers."""
    random = np.random.default_rng(seed)
    result = masked.copy()
    values = np.maximum(dense(truth.X) + random.normal(0, noise, truth.shape), 0).astype(np.float32)
    result.layers["imputed"] = values
    result.layers["imputed_median"] = values * 0.9
    result.layers["imputed_sd"] = np.full(truth.shape, noise, np.float32)
    result.layers["imputed_q05"] = np.maximum(values - 1.645 * noise, 0)
    result.layers["imputed_q95"] = values + 1.645 * noise
    return result


@pytest.fixture(scope="module")
def pair(tissue):
    masked, truth = stmcdi.hold_out(stmcdi.select_hvg(stmcdi.normalize(tissue)), fraction=0.25)
    return imputed_like(masked, truth), truth


def test_equations_25_to_28(pair):
    imputed, truth = pair
    hidden = dense(truth.layers["missing"])
    t, p = dense(truth.X)[hidden].astype(float), dense(imputed.layers["imputed"])[hidden].astype(float)
    scores = stmcdi.evaluate(imputed, truth)
    assert scores["pcc"] == pytest.approx(np.corrcoef(p, t)[0, 1])
    assert scores["cs"] == pytest.approx((p * t).sum() / np.sqrt((p**2).sum() * (t**2).sum()))
    assert scores["rmse"] == pytest.approx(np.sqrt(((p - t) ** 2).mean()))
    assert scores["mae"] == pytest.approx(abs(p - t).mean())
    assert scores["mae_median"] == pytest.approx(abs(0.9 * p - t).mean(), rel=1e-5)
    assert scores["n_hidden"] == hidden.sum() and scores["n_genes"] == truth.n_vars
    assert all(value is None or isinstance(value, float | int) for value in scores.values())


def test_the_gene_mean_has_no_skill_and_the_truth_all(pair):
    imputed, truth = pair
    hidden, values = dense(truth.layers["missing"]), dense(truth.X).astype(float)
    other = imputed.copy()
    other.layers["imputed"] = values
    perfect = stmcdi.evaluate(other, truth)
    assert perfect["skill"] == 1 and perfect["rmse"] == 0 and perfect["pcc"] == pytest.approx(1)
    mean = np.ma.masked_array(values, hidden).mean(0).filled(0)
    other.layers["imputed"] = np.broadcast_to(mean, values.shape).copy()
    trivial = stmcdi.evaluate(other, truth)
    assert trivial["skill"] == pytest.approx(0, abs=1e-9) and trivial["gene_pcc"] == 0


def test_only_hidden_entries_count(pair):
    imputed, truth = pair
    other = imputed.copy()
    visible = ~dense(truth.layers["missing"])
    for layer in ("imputed", "imputed_sd", "imputed_q05"):
        values = dense(other.layers[layer]).copy()
        values[visible] = np.nan
        other.layers[layer] = values
    assert stmcdi.evaluate(other, truth) == stmcdi.evaluate(imputed, truth)


def test_sparse_and_dense_layers_score_alike(pair):
    imputed, truth = pair
    other = imputed.copy()
    for layer in ("imputed", "imputed_median", "imputed_sd", "imputed_q05", "imputed_q95"):
        other.layers[layer] = sp.csr_matrix(imputed.layers[layer])
    assert stmcdi.evaluate(other, truth) == stmcdi.evaluate(imputed, truth)


def test_entries_missing_from_the_start_are_not_zeros_in_the_guess(tissue):
    raw = tissue.copy()
    values = dense(raw.X).copy()
    values[np.random.default_rng(0).random(values.shape) < 0.5] = np.nan
    raw.X = sp.csr_matrix(values)
    masked, truth = stmcdi.hold_out(stmcdi.normalize(raw))
    imputed = masked.copy()
    mean = np.ma.masked_array(dense(masked.X).astype(float), dense(masked.layers["missing"])).mean(0).filled(0)
    imputed.layers["imputed"] = np.broadcast_to(mean, masked.shape).copy()
    assert stmcdi.evaluate(imputed, truth)["skill"] == pytest.approx(0, abs=1e-9)


def test_per_gene(pair):
    imputed, truth = pair
    table = stmcdi.steps.evaluate.evaluate_genes(imputed, truth)
    hidden = dense(truth.layers["missing"])
    assert list(table.index) == list(truth.var_names)
    for j in (0, 5, 17):
        t, p = dense(truth.X)[hidden[:, j], j], dense(imputed.layers["imputed"])[hidden[:, j], j]
        assert table["n_hidden"].iloc[j] == t.size
        assert table["pcc"].iloc[j] == pytest.approx(np.corrcoef(p, t)[0, 1], rel=1e-5)
        assert table["rmse"].iloc[j] == pytest.approx(np.sqrt(((p - t) ** 2).mean()), rel=1e-5)
    assert stmcdi.evaluate(imputed, truth)["gene_pcc"] == pytest.approx(table["pcc"].mean())


@pytest.mark.real_data
def test_the_same_numbers_as_the_benchmarks_own_script(pair, benchmark_scripts, tmp_path):
    imputed, truth = pair
    imputed.write_h5ad(tmp_path / "imputed.h5ad")
    truth.write_h5ad(tmp_path / "truth.h5ad")
    command = [sys.executable, benchmark_scripts / "score.py", tmp_path / "imputed.h5ad", tmp_path / "truth.h5ad"]
    theirs = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    ours = stmcdi.evaluate(imputed, truth)
    assert {name: round(ours[name], 4) for name in theirs} == pytest.approx(theirs, abs=1e-4)


@pytest.mark.parametrize("log", [True, False])
def test_a_truth_in_counts_is_scaled_as_the_imputed_file_was(tissue, log):
    """The strict run: values hidden before normalisation and gene choice."""
    masked, truth = stmcdi.hold_out(tissue)
    normalized = stmcdi.normalize(masked, log=log)
    chosen = stmcdi.select_hvg(normalized, n_genes=60)
    assert (truth.X.data == np.rint(truth.X.data)).all()
    expected = dense(truth[:, chosen.var_names].X) / chosen.obs["size_factor"].to_numpy()[:, None]
    chosen.layers["imputed"] = np.log1p(expected) if log else expected
    scores = stmcdi.evaluate(chosen, truth)
    assert scores["skill"] == pytest.approx(1) and scores["rmse"] < 1e-5
    assert scores["n_genes"] == 60


def test_crps_and_pinball():
    random = np.random.default_rng(0)
    truth = random.normal(1, 2, 4000)
    mean, sd = np.full(4000, 1.0), np.full(4000, 2.0)
    draws = random.normal(1, 2, (2000, 2))
    expected = np.mean([np.mean(abs(draws[:, 0] - t)) for t in truth[:500]]) - 0.5 * np.mean(
        abs(draws[:, 0] - draws[:, 1])
    )
    assert metrics.crps_gaussian(mean[:500], sd[:500], truth[:500]) == pytest.approx(expected, rel=0.05)
    assert metrics.crps_gaussian(mean, sd, truth) < metrics.crps_gaussian(mean + 1, sd, truth)
    assert metrics.crps_gaussian(mean, sd, truth) < metrics.crps_gaussian(mean, 3 * sd, truth)
    assert metrics.crps_gaussian(mean, 0 * sd, truth) == pytest.approx(metrics.mae(mean, truth))
    assert metrics.pinball({0.5: mean}, truth) == pytest.approx(metrics.mae(mean, truth))
    right = {q: np.full(4000, np.quantile(truth, q)) for q in (0.05, 0.5, 0.95)}
    wrong = {q: value + 1 for q, value in right.items()}
    assert metrics.pinball(right, truth) < metrics.pinball(wrong, truth)


def test_absent_layers_give_null(pair, h5ad, cli, tmp_path):
    imputed, truth = pair
    bare = imputed.copy()
    for layer in ("imputed_median", "imputed_sd", "imputed_q05"):
        del bare.layers[layer]
    run = cli("evaluate", h5ad(bare), h5ad(truth, "truth.h5ad"), tmp_path / "metrics.json")
    assert run.exit_code == 0
    scores = json.loads((tmp_path / "metrics.json").read_text())
    assert scores["mae_median"] is scores["coverage_90"] is scores["crps_gaussian"] is scores["pinball"] is None
    table = pd.read_csv(tmp_path / "metrics.tsv", sep="\t", index_col=0)
    assert list(table.columns) == ["n_hidden", "pcc", "rmse", "skill"] and table.index.name == "gene"


def test_constant_values_give_numbers_or_null(pair):
    imputed, truth = pair
    flat = truth.copy()
    flat.X = sp.csr_matrix(np.ones(truth.shape, np.float32))
    with np.errstate(all="raise"):
        scores = stmcdi.evaluate(imputed, flat)
    assert scores["pcc"] == 0 and scores["skill"] is None and scores["gene_pcc"] is None


def test_files_that_do_not_belong_together_are_refused(pair):
    imputed, truth = pair
    cases = {
        "spots were lost or reordered": (imputed[::-1].copy(), truth),
        "genes were reordered": (imputed[:, ::-1].copy(), truth),
        "genes of the truth, found": (imputed, truth[:, 1:].copy()),
        "run impute": (ad.AnnData(imputed.X, imputed.obs, imputed.var), truth),
        "run hold-out": (imputed, ad.AnnData(truth.X, truth.obs, truth.var)),
    }
    for message, files in cases.items():
        with pytest.raises(InputError, match=message):
            stmcdi.evaluate(*files)
    with_nan = imputed.copy()
    with_nan.layers["imputed"] = np.full(imputed.shape, np.nan)
    with pytest.raises(InputError, match="NaN or infinite"):
        stmcdi.evaluate(with_nan, truth)


def test_genes_that_impute_was_not_asked_for_take_no_part(pair, caplog):
    imputed, truth = (each.copy() for each in pair)
    asked = list(truth.var_names[:5])
    imputed.layers["imputed"][:, 5:] = 0
    imputed.uns["stmcdi"] = {**imputed.uns["stmcdi"], "impute": {"version": "1", "parameters": {"genes": asked}}}
    with caplog.at_level("INFO"):
        found = stmcdi.evaluate(imputed, truth)
    assert found["n_genes"] == 5 and found["n_hidden"] == dense(truth.layers["missing"])[:, :5].sum()
    assert found == pytest.approx(stmcdi.evaluate(pair[0][:, :5].copy(), truth[:, :5].copy()))
    assert f"{truth.n_vars - 5} that impute was not asked to fill" in caplog.text
    per_gene = evaluate_genes(imputed, truth)
    assert (per_gene["n_hidden"][5:] == 0).all() and (per_gene["n_hidden"][:5] > 0).any()


def test_a_file_that_shows_the_hidden_values_is_refused(pair):
    imputed, truth = pair
    seen = imputed.copy()
    seen.X = truth.X
    assert stmcdi.evaluate(seen, truth) == stmcdi.evaluate(imputed, truth)  # marked: no step looks at them
    del seen.layers["missing"]
    with pytest.raises(InputError, match="found them in X.*impute the first output of hold-out"):
        stmcdi.evaluate(seen, truth)
    seen.X = imputed.layers["imputed"]  # as other tools write it
    assert stmcdi.evaluate(seen, truth)["rmse"] == stmcdi.evaluate(imputed, truth)["rmse"]


def test_the_file_that_values_were_hidden_in_is_no_truth(pair):
    imputed, truth = pair
    with pytest.raises(InputError, match="found 0 at every hidden entry.*give the second output of hold-out"):
        stmcdi.evaluate(imputed, imputed)
    masked = imputed.copy()
    for name in list(masked.layers):
        if name.startswith("imputed"):
            del masked.layers[name]
    for each in (imputed, imputed_like(truth, truth)):  # the second: hold-out's outputs in each other's place
        with pytest.raises(InputError, match="give the second output of hold-out"):
            stmcdi.evaluate(each, masked)
