"""A model on a tissue whose spots were scaled to other totals than those it was trained on."""

import copy
import dataclasses
from types import SimpleNamespace

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
import torch
from helpers import dense

import stmcdi_cli as stmcdi
from stmcdi_cli.model import save_load
from stmcdi_cli.model.tissue import Tissue
from stmcdi_cli.model.totals import _recorded_ratio, _scaled, on_totals_of, ratio_of_totals
from stmcdi_cli.provenance import Totals
from stmcdi_cli.steps.train import _found_in

OPTIONS = {"n_samples": 20, "device": "cpu", "quiet": True}


def prepared(tissue: ad.AnnData, times: float, seed: int) -> tuple[ad.AnnData, ad.AnnData]:
    """Counts of the same rates, so many times as deep; a fifth hidden."""
    counts = np.random.default_rng(seed).poisson(times * dense(tissue.layers["rates"]))
    adata = ad.AnnData(sp.csr_matrix(counts.astype(np.float32)), tissue.obs[[]], tissue.var[[]])
    adata.obsm["spatial"] = tissue.obsm["spatial"]
    return stmcdi.hold_out(stmcdi.build_graph(stmcdi.normalize(adata)), fraction=0.2, seed=1)


@pytest.fixture(scope="module")
def tissue():
    return stmcdi.simulate(n_spots=250, n_genes=60, depth=200, seed=5)


@pytest.fixture(scope="module")
def trained(tissue, tmp_path_factory):
    """A model, its folder and the tissue it was trained on."""
    masked, truth = prepared(tissue, 1, seed=1)
    folder = tmp_path_factory.mktemp("totals") / "model"
    return stmcdi.train(masked, folder, epochs=3, device="cpu", quiet=True), folder, masked, truth


@pytest.mark.parametrize("times", [0.3, 1.7, 4.0])
def test_a_tissue_of_another_depth_is_imputed_well(trained, tissue, tmp_path, times, caplog):
    model, _, _, _ = trained
    masked, truth = prepared(tissue, times, seed=2)
    imputed = stmcdi.impute(masked, model, **OPTIONS)
    ratio = imputed.uns["stmcdi"]["impute"]["parameters"]["ratio_of_totals"]
    assert ratio == pytest.approx(times, rel=0.1)
    totals = [save_load.load(trained[1]).config["median_total"], Tissue.from_anndata(masked).totals.median]
    assert ratio == totals[1] / totals[0]
    said = f"this tissue has {ratio:.4g} times the counts of the one that the model was trained on"
    assert (said in caplog.text) == (times != 1.7)  # quiet hides what is no warning
    on_totals_of(model, Tissue.from_anndata(masked))
    assert said in caplog.text
    own = stmcdi.impute(masked, stmcdi.train(masked, tmp_path / "own", epochs=3, device="cpu", quiet=True), **OPTIONS)
    metrics, best = stmcdi.evaluate(imputed, truth), stmcdi.evaluate(own, truth)
    assert metrics["skill"] > 0.75 * best["skill"] > 0
    hidden = dense(truth.layers["missing"])
    assert abs((dense(imputed.layers["imputed"]) - dense(truth.X))[hidden].mean()) < 0.05
    assert metrics["coverage_90"] > 0.8


def test_the_model_itself_is_not_changed(trained, tissue):
    model, folder, masked, _ = trained
    before = stmcdi.impute(masked, model, **OPTIONS)
    stmcdi.impute(prepared(tissue, 3.0, seed=2)[0], model, **OPTIONS)
    for again in (model, folder):
        after = stmcdi.impute(masked, again, **OPTIONS)
        np.testing.assert_array_equal(dense(after.layers["imputed"]), dense(before.layers["imputed"]))
    assert "ratio_of_totals" not in before.uns["stmcdi"]["impute"]["parameters"]
    assert (
        save_load.load(folder).config["median_total"] == masked.uns["stmcdi"]["normalize"]["parameters"]["median_total"]
    )


def test_a_part_of_the_tissue_is_as_before_whatever_it_is_made_of(trained):
    """Its spots were scaled to the same total: a part with other cells is no tissue of another depth."""
    model, _, masked, _ = trained
    x = dense(masked.layers["counts"]).sum(1) / masked.obs["size_factor"].to_numpy()
    part = masked[np.sort(np.argsort(x)[-40:])].copy()
    assert on_totals_of(model, Tissue.from_anndata(part)) is model


@pytest.mark.parametrize("totals", [None, Totals(1e6, 20_000)], ids=["no record", "of other genes"])
def test_without_totals_of_the_same_genes_the_ratio_is_estimated(trained, tissue, totals):
    """A small difference may be one of composition."""
    model, _, _, _ = trained
    for times, is_scaled in ((1.6, False), (3.0, True)):
        other = dataclasses.replace(Tissue.from_anndata(prepared(tissue, times, 2)[0]), totals=totals)
        scaled = on_totals_of(model, other)
        assert (scaled is not model) == is_scaled
        if is_scaled:
            assert scaled.config["ratio_of_totals"] == pytest.approx(times, rel=0.15)


@pytest.mark.parametrize("wrong", [None, "many", float("inf"), float("nan"), -1, [2]])
def test_totals_that_are_none_are_as_if_there_were_none(trained, tissue, wrong):
    model, other = copy.copy(trained[0]), Tissue.from_anndata(prepared(tissue, 1.6, 2)[0])
    for name in ("median_total", "n_genes_of_totals"):
        model.config = trained[0].config | {name: wrong}
        assert on_totals_of(model, other) is model
    assert on_totals_of(trained[0], other) is not trained[0]


def test_a_model_of_an_earlier_version_has_no_totals(trained, tissue):
    model = copy.copy(trained[0])
    model.config = {name: value for name, value in model.config.items() if "total" not in name}
    assert on_totals_of(model, Tissue.from_anndata(prepared(tissue, 1.6, 2)[0])) is model
    assert on_totals_of(model, Tissue.from_anndata(prepared(tissue, 3.0, 2)[0])) is not model


def test_hidden_values_have_no_say(trained, tissue):
    model, _, _, _ = trained
    masked, truth = prepared(tissue, 4.0, seed=2)
    seen = masked.copy()
    seen.X = truth.X  # marked as missing all the same
    rates = [on_totals_of(model, Tissue.from_anndata(each)).branches[0].encoder.rate for each in (masked, seen)]
    assert torch.equal(*rates) and not torch.equal(rates[0], model.branches[0].encoder.rate)


def test_genes_that_are_more_active_do_not_change_the_ratio(trained):
    model, _, masked, _ = trained
    counts, factors = dense(masked.layers["counts"]), masked.obs["size_factor"].to_numpy()[:, None]
    counts[:, :10] *= 5
    masked = masked.copy()
    masked.X = sp.csr_matrix(np.log1p(counts / factors).astype(np.float32))
    ratio = ratio_of_totals(Tissue.from_anndata(masked), model.branches[0].encoder.rate.numpy())
    assert ratio == pytest.approx(1, abs=0.05)


def test_means_and_deviations_of_the_gaussian_link_follow(trained):
    encoder = trained[0].branches[0].encoder
    encoder = type(encoder)(rank=encoder.rank, full_depth=0.25, link="gaussian")
    counts = np.random.default_rng(0).gamma(400, 0.01, 100_000)  # about 4, not far from it
    encoder.rate, encoder.scale = (
        torch.tensor([float(part)]) for part in (np.log1p(counts).mean(), np.log1p(counts).std())
    )
    scaled = _scaled(encoder, 3.0, "log1p")
    assert scaled.rate.item() == pytest.approx(np.log1p(3 * counts).mean(), rel=0.01)
    assert scaled.scale.item() == pytest.approx(np.log1p(3 * counts).std(), rel=0.02)
    linear = _scaled(encoder, 3.0, "linear")
    assert linear.rate == 3 * encoder.rate and linear.scale == 3 * encoder.scale


def test_a_model_that_cannot_follow_says_so(tissue, tmp_path, caplog):
    masked, _ = prepared(tissue, 1, seed=1)
    model = stmcdi.train(masked, tmp_path / "model", preset="paper", epochs=1, device="cpu", quiet=True)
    other = Tissue.from_anndata(prepared(tissue, 3.0, seed=2)[0])
    assert on_totals_of(model, other) is model
    assert "a model of this variant cannot follow: train one on this tissue" in caplog.text


def test_totals_of_other_panels_are_not_compared(tissue):
    """Totals are of the genes that panel and reference share: other panels have other totals at the same depth."""
    panel, cells = tissue[:120, :40].copy(), tissue[120:].copy()
    panels = {
        "first": stmcdi.add_reference(panel, cells),
        "deeper": stmcdi.add_reference(_times(panel, 3), cells),
        "other genes": stmcdi.add_reference(_times(tissue[:120, 15:].copy(), 1.7), cells, genes=list(tissue.var_names)),
    }
    first, deeper, other = (stmcdi.build_graph(stmcdi.normalize(each)) for each in panels.values())
    model = SimpleNamespace(config=_found_in(Tissue.from_anndata(first)), genes=tuple(first.var_names))
    assert _recorded_ratio(model, Tissue.from_anndata(deeper)) == pytest.approx(3)
    assert _recorded_ratio(model, Tissue.from_anndata(other)) is None
    assert first.uns["stmcdi"]["normalize"]["parameters"]["n_genes"] == 40


def _times(adata, factor):
    adata.X = sp.csr_matrix(np.round(dense(adata.X) * factor).astype(np.float32))
    return adata
