import json
from types import SimpleNamespace

import numpy as np
import pytest
import scanpy as sc
from helpers import dense, same

import stmcdi_cli as stmcdi
from stmcdi_cli.errors import InputError

LAYERS = ("imputed", "imputed_sd", "imputed_median", "imputed_q05", "imputed_q95")


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """All steps at once."""
    raw = stmcdi.simulate(n_spots=150, n_genes=80, n_sections=2, depth=300, seed=6)
    path = tmp_path_factory.mktemp("run") / "model"
    options = {"n_samples": 4, "device": "cpu", "quiet": True, "seed": 2, "fraction": 0.2}
    before = raw.copy()
    imputed, truth = stmcdi.run(raw, path, section_key="section", n_genes=50, **options)
    same(raw, before)
    return SimpleNamespace(raw=raw, imputed=imputed, truth=truth, model=path)


def test_gives_what_the_steps_give_by_hand(done, tmp_path):
    chosen = stmcdi.select_hvg(stmcdi.normalize(done.raw), n_genes=50)
    masked, truth = stmcdi.hold_out(stmcdi.build_graph(chosen, section_key="section"), fraction=0.2, seed=2)
    stmcdi.train(masked, tmp_path / "model", seed=2, device="cpu", quiet=True)
    imputed = stmcdi.impute(masked, tmp_path / "model", n_samples=4, seed=2, device="cpu", quiet=True)
    same(imputed, done.imputed)
    same(truth, done.truth)
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == (done.model / "model.safetensors").read_bytes()


def test_what_was_hidden_is_imputed_better_than_by_gene_means(done):
    assert stmcdi.evaluate(done.imputed, done.truth)["skill"] > 0.05
    assert done.imputed.shape == (150, 50)


def test_without_a_fraction_nothing_is_hidden(done, tmp_path):
    options = {"n_samples": 2, "device": "cpu", "quiet": True}
    imputed, truth = stmcdi.run(done.raw, tmp_path / "model", target="zeros", genes=["gene_5", "gene_2"], **options)
    assert truth is None
    assert list(imputed.var_names) == ["gene_5", "gene_2"]
    x, filled = dense(imputed.X), dense(imputed.layers["imputed"])
    np.testing.assert_array_equal(filled[x > 0], x[x > 0])
    assert (filled[x == 0] > 0).mean() > 0.9


def test_nan_is_missing_and_is_filled(done, tmp_path):
    raw = done.raw.copy()
    values = dense(raw.X).copy()
    unknown = np.random.default_rng(0).random(values.shape) < 0.1
    values[unknown] = np.nan
    raw.X = values
    imputed, _ = stmcdi.run(raw, tmp_path / "model", n_samples=2, device="cpu", quiet=True)
    unknown = unknown[:, np.isin(raw.var_names, imputed.var_names)]
    np.testing.assert_array_equal(dense(imputed.layers["missing"]), unknown)
    filled = dense(imputed.layers["imputed"])
    assert np.isfinite(filled).all() and (filled[unknown] > 0).mean() > 0.9


def test_the_command_writes_what_the_function_gives(done, cli, h5ad, tmp_path):
    options = ("--section-key", "section", "--n-genes", 50, "--n-samples", 4, "--seed", 2, "--device", "cpu", "--quiet")
    out, metrics = tmp_path / "out.h5ad", tmp_path / "metrics.json"
    result = cli("run", h5ad(done.raw), out, *options, "--evaluate", metrics)
    assert (result.exit_code, result.output) == (0, "")
    adata = sc.read_h5ad(out)
    for name in LAYERS:
        np.testing.assert_array_equal(dense(adata.layers[name]), dense(done.imputed.layers[name]))
    assert json.loads(metrics.read_text())["skill"] == pytest.approx(
        stmcdi.evaluate(done.imputed, done.truth)["skill"], rel=1e-6
    )
    truth = tmp_path / "out.truth.h5ad"
    same(sc.read_h5ad(truth), done.truth)
    options = ("--model-dir", tmp_path / "out.model", "--truth", truth)
    assert cli("report", out, tmp_path / "report.html", *options).exit_code == 0
    assert "measured r" in (tmp_path / "report.html").read_text()


def test_hiding_without_scoring_is_refused(done, cli, h5ad, tmp_path):
    result = cli("run", h5ad(done.raw), tmp_path / "out.h5ad", "--fraction", 0.1)
    assert result.exit_code == 2 and "--evaluate" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["input.h5ad"]


def test_bad_options_are_refused_before_any_work(done, refused, h5ad, tmp_path, monkeypatch):
    """Minutes of training must not end in a typing error."""
    source = h5ad(done.raw)

    def trained(*arguments, **options):
        raise AssertionError("trained first")

    monkeypatch.setattr("stmcdi_cli.steps.train.train", trained)
    refused("run", source, tmp_path / "no" / "out.h5ad")
    refused("run", source, tmp_path / "out.h5ad", "--section-key", "slice")
    refused("run", source, tmp_path / "out.h5ad", "--n-samples", 0)


def test_genes_of_a_model_that_are_not_there_are_named(done):
    """Nothing about a list of genes, which the user has not given."""
    lacking = done.raw[:, done.raw.var_names != done.imputed.var_names[0]].copy()
    with pytest.raises(InputError, match=f"genes are not the model's: the data lack {done.imputed.var_names[0]}"):
        stmcdi.run(lacking, model=done.model, device="cpu", quiet=True)
