"""A gene without a value in any spot: nothing is known about it, so nothing is said about it."""

import anndata as ad
import numpy as np
import pytest
from helpers import dense

import stmcdi_cli as stmcdi

LAYERS = ("imputed", "imputed_sd", "imputed_median", "imputed_q05", "imputed_q95")


@pytest.fixture(scope="module")
def failed_probe() -> ad.AnnData:
    """A tissue whose gene 7 has no value, and whose gene 3 lacks some; with a graph."""
    raw = stmcdi.simulate(n_spots=80, n_genes=20, depth=300, seed=2)
    values = dense(raw.X).astype(np.float32)
    values[:, 7] = values[:30, 3] = np.nan
    raw.X = values
    return stmcdi.build_graph(stmcdi.normalize(raw))


@pytest.fixture(scope="module")
def model(failed_probe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unmeasured") / "model"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stmcdi_cli.model.latent.diffusion.Masking.rounds", lambda self, n_spots: 2)
        stmcdi.train(failed_probe, folder, epochs=1, device="cpu", quiet=True)
    return folder


@pytest.mark.parametrize("target", ["missing", "zeros", "all"])
def test_it_stays_without_a_value_and_it_is_said(failed_probe, model, target, caplog):
    imputed = stmcdi.impute(failed_probe, model, target=target, n_samples=4, device="cpu")
    assert "impute: 1 gene(s) had no value in any spot the model was trained on (gene_8): left without one (NaN)" in (
        caplog.messages
    )
    for name in LAYERS:
        layer = dense(imputed.layers[name])
        assert np.isnan(layer[:, 7]).all() and np.isfinite(np.delete(layer, 7, axis=1)).all()
    assert (dense(imputed.layers["imputed"])[:30, 3] > 0).all()
    assert dense(imputed.layers["missing"])[:, 7].all()
    assert list(imputed.uns["stmcdi"]["impute"]["parameters"]["unmeasured"]) == ["gene_8"]


def test_a_model_that_has_seen_it_elsewhere_fills_it(imputed_run):
    """The other tissue is the reference."""
    other = imputed_run.masked.copy()
    other.layers["missing"] = dense(other.layers["missing"])
    other.layers["missing"][:, 5] = True
    layer = stmcdi.impute(other, imputed_run.model, n_samples=2, device="cpu", quiet=True).layers["imputed"]
    assert np.isfinite(dense(layer)).all() and dense(layer)[:, 5].mean() > 0.1


@pytest.mark.parametrize("method", ["gene-mean", "spatial-neighbors", "soft-impute", "factor-analysis"])
@pytest.mark.parametrize("target", ["missing", "all"])
def test_baselines_leave_it_as_well(failed_probe, method, target, caplog):
    imputed = stmcdi.baseline(failed_probe, method=method, target=target)
    assert caplog.messages == ["baseline: 1 gene(s) have no value in any spot (gene_8): left without one (NaN)"]
    for name in ("imputed", "imputed_sd", "imputed_q05", "imputed_q95"):
        layer = dense(imputed.layers[name])
        assert np.isnan(layer[:, 7]).all() and np.isfinite(np.delete(layer, 7, axis=1)).all()


def test_the_report_names_it_and_the_metrics_leave_it_out(failed_probe, model, cli, h5ad, caplog, tmp_path):
    truth = failed_probe.copy()
    hidden = np.zeros(truth.shape, bool)
    hidden[30:50, 3] = hidden[:, 7] = True  # the last values of gene 7 were hidden, say
    truth.layers["missing"] = hidden
    masked = failed_probe.copy()
    masked.layers["missing"] = dense(masked.layers["missing"]) | hidden
    imputed = stmcdi.impute(masked, model, target="missing", n_samples=4, device="cpu", quiet=True)
    found = stmcdi.evaluate(imputed, truth)
    assert (found["n_hidden"], found["n_genes"]) == (20, 1)
    assert caplog.messages[-1] == "evaluate: 19 of 20 genes kept; left out: 1 without any visible value"
    files = h5ad(imputed, "imputed.h5ad"), h5ad(truth, "truth.h5ad"), h5ad(stmcdi.baseline(masked, method="gene-mean"))
    (tmp_path / "genes.txt").write_text("gene_8\n")
    words = ["--truth", files[1], "--baseline", files[2], "--model-dir", model, "--genes", tmp_path / "genes.txt"]
    assert cli("report", files[0], tmp_path / "report.html", *words).exit_code == 0
    row = next(line for line in (tmp_path / "report.tsv").read_text().splitlines() if line.startswith("gene_8\t"))
    assert "not filled" in row


def test_it_is_not_chosen_unless_it_is_named(failed_probe, caplog):
    assert "gene_8" not in stmcdi.select_hvg(failed_probe).var_names
    assert caplog.messages == ["select-hvg: 19 of 20 genes kept; left out: 1 without a value in any spot"]
    assert list(stmcdi.select_hvg(failed_probe, genes=["gene_8", "gene_1"]).var_names) == ["gene_8", "gene_1"]
