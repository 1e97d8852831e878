"""A panel with a reference through all steps: hidden, trained on, imputed, measured, reported."""

import re
from types import SimpleNamespace

import anndata as ad
import numpy as np
import pytest
import torch
from helpers import dense, same, untimed

import stmcdi_cli as stmcdi
from stmcdi_cli.errors import InputError, OptionError
from stmcdi_cli.model import save_load
from stmcdi_cli.model.latent.reference_predictions import PREDICTORS
from stmcdi_cli.steps.evaluate import evaluate_genes

OPTIONS = {"n_samples": 4, "device": "cpu", "quiet": True, "seed": 2}


@pytest.fixture(scope="module")
def pair():
    """A panel of 30 genes of one section, and 45 genes of the other as single cells."""
    tissue = stmcdi.simulate(n_spots=120, n_genes=45, n_sections=2, depth=400, rates=False, seed=6)
    section = tissue.obs["section"] == tissue.obs["section"].iloc[0]
    panel, cells = tissue[section, :30].copy(), tissue[~section].copy()
    del cells.obsm, cells.obs
    cells.obs_names = [f"cell{i}" for i in range(cells.n_obs)]
    return SimpleNamespace(panel=panel, cells=cells, tissue=tissue[section].copy())


@pytest.fixture(scope="module")
def few_rounds():
    """Train briefly: what comes out need not be good."""
    from stmcdi_cli.model.latent.masking import Masking
    from stmcdi_cli.steps import train

    full = train._configuration
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Masking, "rounds", lambda self, n_spots: 2)
        patch.setattr(train, "_configuration", lambda *names, **changes: full(*names, **changes | {"epochs": 2}))
        yield


@pytest.fixture(scope="module")
def done(pair, few_rounds, tmp_path_factory):
    """All steps at once, and by hand."""
    folder = tmp_path_factory.mktemp("run")
    imputed, truth = stmcdi.run(pair.panel, folder / "model", reference=pair.cells, fraction=0.2, **OPTIONS)
    both = stmcdi.normalize(stmcdi.add_reference(pair.panel, pair.cells, seed=2))
    masked, answer = stmcdi.hold_out(stmcdi.build_graph(stmcdi.select_hvg(both)), fraction=0.2, seed=2)
    return SimpleNamespace(
        imputed=imputed, truth=truth, masked=masked, answer=answer, model=folder / "model", folder=folder
    )


def test_the_panels_spots_come_back_with_all_genes(done, pair):
    out = done.imputed
    assert list(out.obs_names) == list(pair.panel.obs_names)
    assert list(out.var_names[:30]) == list(pair.panel.var_names)
    assert "stmcdi_role" not in out.obs and out.var["measured"].tolist() == [True] * 30 + [False] * (out.n_vars - 30)
    np.testing.assert_array_equal(out.obsm["spatial"], pair.panel.obsm["spatial"])
    assert out.obsp["spatial_connectivities"].shape == (pair.panel.n_obs,) * 2
    for column in pair.panel.obs:
        assert out.obs[column].equals(pair.panel.obs[column])
    missing, filled = dense(out.layers["missing"]), dense(out.layers["imputed"])
    assert missing[:, 30:].all() and (filled[:, 30:] > 0).mean() > 0.95
    np.testing.assert_array_equal(filled[~missing], dense(out.X)[~missing])
    assert (dense(out.layers["imputed_sd"])[:, 30:] > 0).mean() > 0.8  # of four draws


def test_run_gives_what_the_steps_give(done):
    by_hand = stmcdi.impute(done.masked, done.model, **{**OPTIONS, "device": "cpu"})
    same(by_hand, done.imputed)
    same(done.answer, done.truth)
    assert untimed(by_hand) == untimed(done.imputed)


def test_the_command_line_gives_the_same(done, pair, cli, h5ad, tmp_path, few_rounds):
    files = h5ad(pair.panel, "panel.h5ad"), tmp_path / "out.h5ad", "--reference", h5ad(pair.cells, "cells.h5ad")
    options = ["--n-samples", 4, "--device", "cpu", "--quiet", "--seed", 2, "--evaluate", tmp_path / "metrics.json"]
    assert cli("run", *files, *options).exit_code == 0
    back = ad.read_h5ad(tmp_path / "out.h5ad")
    expected = done.imputed.copy()
    expected.strings_to_categoricals()
    same(back, expected)
    assert {"input_sha256", "reference_sha256"} <= set(back.uns["stmcdi"]["add-reference"])
    for name in ("model.safetensors", "history.tsv"):
        assert (tmp_path / "out.model" / name).read_bytes() == (done.model / name).read_bytes()


def test_only_values_of_the_panel_are_hidden(done, pair):
    n = pair.panel.n_obs
    assert done.truth.shape[0] == n and list(done.truth.obs_names) == list(pair.panel.obs_names)
    hidden = dense(done.truth.layers["missing"])
    assert not hidden[:, 30:].any() and 0.1 < hidden[:, :30].mean() < 0.3
    alone = stmcdi.hold_out(stmcdi.normalize(pair.panel), fraction=0.2, seed=2)[1]
    np.testing.assert_array_equal(hidden[:, :30], dense(alone.layers["missing"]))  # as without a reference
    both = stmcdi.normalize(stmcdi.add_reference(pair.panel, pair.cells))
    masked, _ = stmcdi.hold_out(both, fraction=0.2, seed=2)
    np.testing.assert_array_equal(dense(masked.X)[n:], dense(both.X)[n:])
    metrics = stmcdi.evaluate(done.imputed, done.truth)
    assert metrics["n_hidden"] == hidden.sum() and metrics["n_spots"] <= n


def test_shards_and_the_report(done, tmp_path):
    parts = [stmcdi.impute(done.masked, done.model, shard=f"{i}/2", **OPTIONS) for i in (1, 2)]
    whole = stmcdi.merge(parts)
    same(whole, done.imputed)
    table = stmcdi.report(done.imputed, tmp_path / "report.html", truth=done.truth, model_dir=done.model)
    assert len(table) == done.imputed.n_vars and (table["n_filled"].iloc[30:] == done.imputed.n_obs).all()


@pytest.mark.parametrize("predictor", PREDICTORS)
def test_cells_of_the_reference_count_the_same_from_disk_and_in_shards(
    done, cli, h5ad, tmp_path, predictor, monkeypatch
):
    monkeypatch.setattr("stmcdi_cli.model.tissue._SMALL", 0)
    model = save_load.load(done.model)
    model.nearest_part = model.regression_part = torch.tensor(0.0)
    without = {}
    for part in (0.0, 0.5):
        setattr(model, predictor, torch.tensor(part))
        without[part] = stmcdi.impute(done.masked, model, **OPTIONS)
    genes = dense(without[0.5].layers["imputed"]) != dense(without[0.0].layers["imputed"])
    assert genes[:, 30:].mean() > 0.9 and not genes[:, :30].any()  # only what the panel lacks
    save_load.save(model, tmp_path / "model", [])
    files = h5ad(done.masked), tmp_path / "model", tmp_path / "out.h5ad"
    assert cli("impute", *files, "--n-samples", 4, "--device", "cpu", "--quiet", "--seed", 2).exit_code == 0
    from_disk = ad.read_h5ad(tmp_path / "out.h5ad")
    parts = [stmcdi.impute(done.masked, model, shard=f"{i}/2", **OPTIONS) for i in (1, 2)]
    for other in (from_disk, stmcdi.merge(parts)):
        for layer in ("imputed", "imputed_sd"):
            np.testing.assert_array_equal(dense(other.layers[layer]), dense(without[0.5].layers[layer]))


@pytest.mark.parametrize("predictor", PREDICTORS)
def test_predictions_from_the_cells_need_the_reference(done, predictor):
    model = save_load.load(done.model)
    model.nearest_part = model.regression_part = torch.tensor(0.0)
    setattr(model, predictor, torch.tensor(0.5))
    alone = done.masked[done.masked.obs["stmcdi_role"] == "target"].copy()
    with pytest.raises(InputError, match="needs the cells of its reference; add them"):
        stmcdi.impute(alone, model, **OPTIONS)


def test_what_genes_achieved_when_left_out_is_in_the_file_and_the_report(done, tmp_path, caplog):
    """Each shared gene of the panel, none of those that it lacks; the report corrects these by it."""
    out = done.imputed
    achieved, expected = (out.var[key].to_numpy() for key in ("left_out_r", "left_out_expected_r"))
    np.testing.assert_array_equal(np.isfinite(achieved), out.var["measured"])
    np.testing.assert_array_equal(np.isfinite(expected), out.var["measured"])
    assert np.abs(achieved[:30]).max() <= 1 and 0 <= expected[:30].min() <= expected[:30].max() <= 1
    known = out.uns["stmcdi"]["train"]["parameters"]
    assert known["left_out_n"] == 30
    assert known["left_out_mean"] == pytest.approx(achieved[:30].mean(), abs=1e-6)
    slope = (achieved[:30] * expected[:30]).sum() / (expected[:30] ** 2).sum()
    assert known["left_out_ratio"] == pytest.approx(np.clip(slope, 0, 1.25), rel=1e-5)
    table = stmcdi.report(out, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "never measured 15 of the genes" in page and "Shared genes, left out whole" in page
    assert table["reason"].iloc[30:].str.contains("never measured here|more than its mean|cells of the ref").all()
    assert not table["reason"].iloc[30:].str.contains("too rare: seen in [0-9]+ spots").any()


@pytest.mark.parametrize("change", ["genes", "column", "columns", "measured", "text", "infinite"])
def test_the_verdicts_are_the_same_whatever_became_of_the_table(done, tmp_path, change, recwarn):
    """People take the new genes alone, lose a column, or have it as text after a join in pandas."""
    table = stmcdi.report(done.imputed, tmp_path / "report.html")
    other = done.imputed.copy()
    if change == "genes":
        other = other[:, ~other.var["measured"]].copy()
    elif change == "column":
        del other.var["left_out_expected_r"]
    elif change == "columns":
        other.var = other.var.drop(columns=["left_out_r", "left_out_expected_r", "measured"])
    elif change == "measured":
        other.var["measured"] = other.var["measured"].astype("boolean").mask(np.arange(other.n_vars) == 0)
    elif change == "text":
        other.var["left_out_r"] = other.var["left_out_r"].astype(str).replace("nan", "NA")
        other.var["measured"] = other.var["measured"].astype(str)
    else:
        other.var["left_out_r"] = np.inf
    found = stmcdi.report(other, tmp_path / "other.html")
    for column in ("expected_r", "verdict", "reason"):
        assert list(found[column]) == list(table.loc[found.index, column])
    words = (tmp_path / "other.html").read_text().split('id="gene-data"')[0].split("</style>")[1]
    assert not re.search(r"\bnan\b", words)
    assert not [each for each in recwarn if issubclass(each.category, RuntimeWarning)]


@pytest.mark.parametrize("value", ["text", float("nan"), np.zeros(2), None])
def test_a_record_that_was_tampered_with_corrects_nothing(done, tmp_path, value):
    other = done.imputed.copy()
    parameters = other.uns["stmcdi"]["train"]["parameters"]
    parameters.pop("left_out_ratio") if value is None else parameters.update(left_out_ratio=value)
    stmcdi.report(other, tmp_path / "report.html")
    assert "left out whole" not in (tmp_path / "report.html").read_text()


def test_a_reference_that_does_not_fit_lowers_what_is_expected(done, tmp_path):
    table = stmcdi.report(done.imputed, tmp_path / "report.html")
    misfit = done.imputed.copy()
    parameters = misfit.uns["stmcdi"]["train"]["parameters"]
    parameters.update(left_out_mean=0.03, left_out_ratio=0.1 * parameters["left_out_ratio"])
    lower = stmcdi.report(misfit, tmp_path / "misfit.html")
    assert "The reference does not fit this tissue" in (tmp_path / "misfit.html").read_text()
    np.testing.assert_allclose(lower["expected_r"].iloc[30:], 0.1 * table["expected_r"].iloc[30:])
    np.testing.assert_array_equal(lower["expected_r"].iloc[:30], table["expected_r"].iloc[:30])


def test_what_an_earlier_reference_achieved_leaves_the_file_with_the_next_imputation(done, tmp_path, few_rounds):
    again, _ = stmcdi.hold_out(done.imputed, fraction=0.1, seed=3)
    model = stmcdi.train(again, tmp_path / "model", device="cpu", quiet=True)
    out = stmcdi.impute(again, model, n_samples=2, device="cpu", quiet=True)
    assert not {"left_out_r", "left_out_expected_r"} & set(out.var)
    assert not any(name.startswith("left_out") for name in out.uns["stmcdi"]["train"]["parameters"])


def test_training_says_what_the_reference_is_good_for(done, tmp_path, caplog, few_rounds, monkeypatch):
    from stmcdi_cli.steps import train

    options = {"device": "cpu", "seed": 2}
    with caplog.at_level("INFO"):
        stmcdi.train(done.masked, tmp_path / "model", **options)
    assert "30 genes that both have, left out whole, are predicted with a mean correlation of 0." in caplog.text
    assert "does not fit" not in caplog.text
    monkeypatch.setattr(train, "POOR_R", 0.9)
    stmcdi.train(done.masked, tmp_path / "other", **options)
    assert "train: the reference does not fit" in caplog.text


def test_baselines_give_the_panels_spots(done):
    for method in ("gene-mean", "spatial-neighbors", "idw", "kriging", "expression-neighbors"):
        filled = stmcdi.baseline(done.masked, method=method)
        assert list(filled.obs_names) == list(done.imputed.obs_names) and "stmcdi_role" not in filled.obs
        assert filled.layers["missing"].shape == filled.shape
        assert stmcdi.evaluate(filled, done.truth)["n_hidden"] > 0


def test_what_was_hidden_before_the_reference_came_is_measured(pair, caplog):
    """The strict order: gene choice and totals see nothing hidden."""
    masked, truth = stmcdi.hold_out(pair.panel, fraction=0.2, seed=1)
    both = stmcdi.build_graph(stmcdi.normalize(stmcdi.add_reference(masked, pair.cells)))
    filled = stmcdi.baseline(both, method="gene-mean")
    assert filled.n_vars == 45 and truth.n_vars == 30
    metrics = stmcdi.evaluate(filled, truth)
    assert metrics["n_hidden"] == dense(truth.layers["missing"]).sum()
    alone = stmcdi.baseline(stmcdi.normalize(masked), method="gene-mean")
    assert metrics["rmse"] == pytest.approx(stmcdi.evaluate(alone, truth)["rmse"], rel=0.3)
    assert evaluate_genes(filled, truth)["n_hidden"].iloc[30:].sum() == 0
    assert "left out" not in caplog.text.split("evaluate:")[-1]


def test_values_under_the_mask_change_nothing(done, pair):
    """Not a byte of the result may depend on what is stored where the target has no value."""
    both = stmcdi.add_reference(pair.panel, pair.cells, seed=2)
    changed, missing = both.copy(), dense(both.layers["missing"])
    changed.X = np.where(missing, 77, dense(both.X)).astype(np.float32)
    prepared, other = (stmcdi.build_graph(stmcdi.select_hvg(stmcdi.normalize(each))) for each in (both, changed))
    same(prepared, other)
    later = done.masked.copy()
    missing = dense(later.layers["missing"])
    later.X = np.where(missing, 3.5, dense(later.X)).astype(np.float32)
    later.layers["counts"] = np.where(missing, 9, dense(later.layers["counts"])).astype(np.float32)
    out = stmcdi.impute(later, done.model, **OPTIONS)
    for layer in ("imputed", "imputed_sd", "imputed_median", "imputed_q05", "imputed_q95"):
        np.testing.assert_array_equal(dense(out.layers[layer]), dense(done.imputed.layers[layer]))


def test_training_says_how_many_cells_it_learns_from(done, pair, few_rounds, tmp_path, caplog):
    stmcdi.train(done.masked, tmp_path / "model", device="cpu", seed=2)
    line = f"train: {pair.panel.n_obs} spots and {pair.cells.n_obs} cells of the reference x {done.masked.n_vars} genes"
    assert line in caplog.text


def test_training_sees_nothing_under_the_mask(done, few_rounds, tmp_path):
    later = done.masked.copy()
    missing = dense(later.layers["missing"])
    later.X = np.where(missing, 3.5, dense(later.X)).astype(np.float32)
    stmcdi.train(later, tmp_path / "model", device="cpu", quiet=True, seed=2)
    assert (tmp_path / "model/model.safetensors").read_bytes() == (done.model / "model.safetensors").read_bytes()


def test_values_that_are_no_counts(pair, few_rounds, tmp_path):
    """Levels of the target come back, on a scale that no count has."""
    panel, cells = pair.panel.copy(), pair.cells.copy()
    for adata in (panel, cells):
        adata.X = (1.37 * np.log1p(dense(adata.X))).astype(np.float32)
    both = stmcdi.normalize(stmcdi.add_reference(panel, cells, skip=True), skip=True)
    model = stmcdi.train(stmcdi.build_graph(both), tmp_path / "model", device="cpu", quiet=True)
    assert model.config["scale"] is None
    out = stmcdi.impute(stmcdi.build_graph(both), model, **OPTIONS)
    added, true = out.var_names[30:], 1.37 * np.log1p(dense(pair.tissue[:, out.var_names[30:]].X))
    filled = dense(out[:, added].layers["imputed"])
    assert np.abs(filled.mean(0) - true.mean(0)).mean() < 0.25 * true.mean()
    assert np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(filled.T, true.T, strict=True)]) > 0.25


def test_roles_out_of_order_are_refused(done):
    mixed = done.masked[::-1].copy()
    with pytest.raises(InputError) as error:
        stmcdi.impute(mixed, done.model, **OPTIONS)
    assert str(error.value) == (
        "expected spots of the target, then those of the reference, in obs['stmcdi_role'], found others; run "
        "add-reference again, and keep the order of the spots"
    )


@pytest.mark.parametrize("option", [{"n_reference_genes": 3}, {"max_reference_cells": 50}, {"reference_layer": "raw"}])
def test_options_about_a_reference_need_one(pair, tmp_path, option):
    with pytest.raises(OptionError, match=r"expected `reference` beside options about it, found none; give it"):
        stmcdi.run(pair.panel, tmp_path / "model", **option)


def test_all_cells_of_a_reference_are_trained_on(done):
    from stmcdi_cli.steps.train import _training_spots

    n_target = done.imputed.n_obs
    fewer = done.masked[: n_target + 30]
    spots = _training_spots(fewer, {"training": {"spots": 70}}, 0)
    assert len(spots) == 70 and set(range(n_target, n_target + 30)) <= set(spots)
    spots = _training_spots(done.masked, {"training": {"spots": 40}}, 0)
    assert len(spots) == 40 and (spots < n_target).sum() == 20 and (np.diff(spots) > 0).all()


def test_a_model_is_applied_to_another_panel(done, pair, cli, h5ad, tmp_path):
    """With its genes, which that panel lacks in part; nothing is trained."""
    other = pair.panel[20:, 2:].copy()  # has two genes less
    genes = save_load.load(done.model).genes
    both = stmcdi.normalize(stmcdi.add_reference(other, pair.cells, genes=genes, seed=2))
    by_hand = stmcdi.impute(stmcdi.build_graph(stmcdi.select_hvg(both, genes=genes)), done.model, **OPTIONS)
    imputed, truth = stmcdi.run(other, model=done.model, reference=pair.cells, **OPTIONS)
    assert truth is None and tuple(imputed.var_names) == genes and imputed.n_obs == pair.panel.n_obs - 20
    assert imputed.var["measured"].sum() == 28
    same(imputed, by_hand)
    files = h5ad(other, "other.h5ad"), tmp_path / "out.h5ad", "--reference", h5ad(pair.cells, "cells.h5ad")
    found = cli("run", *files, "--model", done.model, "--n-samples", 4, "--device", "cpu", "--quiet", "--seed", 2)
    assert found.exit_code == 0, found.output
    back = ad.read_h5ad(tmp_path / "out.h5ad")
    np.testing.assert_array_equal(dense(back.layers["imputed"]), dense(imputed.layers["imputed"]))
    assert not list(tmp_path.glob("*.model"))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"model_dir": "other"}, "--model-dir"),
        ({"n_genes": 20}, "--n-genes"),
        ({"genes": np.array(["gene_1", "gene_2"])}, "--genes"),
        ({"n_reference_genes": 20}, "--n-reference-genes"),
        ({"preset": "paper"}, "--preset"),
    ],
)
def test_a_trained_model_and_what_it_has_itself_are_refused(done, pair, options, named):
    with pytest.raises(OptionError, match=f"expected --model or {named}, found both"):
        stmcdi.run(pair.panel, model=done.model, reference=pair.cells, **options, **OPTIONS)
    with pytest.raises(OptionError, match="found neither"):
        stmcdi.run(pair.panel, **OPTIONS)


def test_quiet_keeps_the_warning_that_a_reference_is_of_no_use(pair, few_rounds, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("stmcdi_cli.steps.train.POOR_R", 0.99)
    stmcdi.run(pair.panel, tmp_path / "model", reference=pair.cells, **OPTIONS)
    assert {record.levelname for record in caplog.records} == {"WARNING"}
    assert "the reference does not fit" in caplog.text
