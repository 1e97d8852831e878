"""Verdicts are reached without the truth, and the truth agrees with them."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import stmcdi_cli as stmcdi
from stmcdi_cli import sparse
from stmcdi_cli.reporting.reliability import CAUTION, DONT, TRUST, UNFILLED, filled_entries, reliability
from stmcdi_cli.steps.evaluate import evaluate_genes

ALL_MASKS = True


def synthetic(between, spread, n=2000, seed=0):
    """One gene of which every entry was filled: N(3, between^2) expected, an observation spreads by `spread`."""
    random = np.random.default_rng(seed)
    adata = ad.AnnData(sp.csr_matrix(np.ones((n, 1), np.float32)))
    adata.layers["imputed"] = random.normal(3, between, (n, 1)) if between else np.full((n, 1), 3.0)
    adata.layers["imputed_sd"] = np.full((n, 1), float(spread))
    adata.uns["stmcdi"] = {"impute": {"parameters": {"target": "all"}}}
    return adata


@pytest.mark.parametrize(("between", "spread"), [(1, 1), (1, 3), (0.2, 1), (0, 1), (2, 0.1)])
def test_expected_r_is_the_correlation_with_new_measurements(between, spread):
    adata = synthetic(between, spread, n=200_000)
    expected = reliability(adata)["expected_r"].iloc[0]
    mean = adata.layers["imputed"][:, 0]
    new = np.random.default_rng(1).normal(mean, spread)
    correlation = np.corrcoef(mean, new)[0, 1] if between else 0
    assert expected == pytest.approx(correlation, abs=0.01)


@pytest.mark.parametrize(
    ("between", "spread", "verdict"), [(1, 1, TRUST), (1, 3, CAUTION), (1, 8, DONT), (0, 1, DONT), (0, 0, DONT)]
)
def test_verdicts_follow_expected_r(between, spread, verdict):
    row = reliability(synthetic(between, spread)).iloc[0]
    assert row["verdict"] == verdict and row["reason"]


def test_rare_genes_are_not_trusted_whatever_the_model_says():
    adata = synthetic(1, 0.1)
    adata.X = sp.csr_matrix(([1.0] * 9, (range(9), [0] * 9)), shape=adata.shape)
    row = reliability(adata).iloc[0]
    assert row["expected_r"] > 0.9 and row["verdict"] == DONT and row["reason"].startswith("too rare: seen in 9 spots")


def test_genes_that_a_reference_hardly_has_are_not_trusted_either():
    adata = synthetic(1, 0.1)
    adata.X, adata.layers["missing"] = sp.csr_matrix(adata.shape), sp.csr_matrix(np.ones(adata.shape, bool))
    assert reliability(adata).iloc[0]["verdict"] == TRUST  # a file from before the number was kept
    adata.var["n_reference_cells"] = [9]
    row = reliability(adata).iloc[0]
    assert row["verdict"] == DONT and row["reason"] == "too rare: seen in 9 cells of the reference"
    adata.var["n_reference_cells"] = [10]
    assert reliability(adata).iloc[0]["verdict"] == TRUST


def test_few_filled_entries_earn_caution_at_most():
    adata = synthetic(1, 0.1, n=200)
    adata.layers["missing"] = sp.csr_matrix(np.arange(200)[:, None] < 19)
    adata.uns["stmcdi"]["impute"]["parameters"]["target"] = "missing"
    row = reliability(adata).iloc[0]
    assert row["n_filled"] == 19 and row["verdict"] == CAUTION and "19 entries only" in row["reason"]
    adata.layers["missing"] = sp.csr_matrix(adata.shape, dtype=bool)
    assert reliability(adata).iloc[0]["verdict"] == UNFILLED


def test_telling_sections_apart_is_not_enough_for_trust():
    adata = synthetic(0, 0.5)
    section = np.arange(adata.n_obs) % 2
    adata.layers["imputed"] = adata.layers["imputed"] + 2 * section[:, None]
    row = reliability(adata, section).iloc[0]
    assert row["expected_r"] > 0.8 and row["within_r"] == 0
    assert row["verdict"] == CAUTION and "difference between sections" in row["reason"]


def test_a_gene_that_a_section_lacks_is_not_trusted():
    """Nothing says how well another platform catches it."""
    adata = synthetic(1, 0.1)
    section = np.arange(adata.n_obs) % 2
    adata.layers["missing"] = sp.csr_matrix(section[:, None] == 1)
    adata.uns["stmcdi"]["impute"]["parameters"]["target"] = "missing"
    row = reliability(adata, section).iloc[0]
    assert row["verdict"] == CAUTION and "not measured in some sections" in row["reason"]
    assert reliability(adata).iloc[0]["verdict"] == TRUST  # one section
    adata.layers["missing"] = sp.csr_matrix(((section == 1) & (np.arange(adata.n_obs) > 10))[:, None])
    assert reliability(adata, section).iloc[0]["verdict"] == TRUST  # some spots of it have a value
    few = (np.arange(adata.n_obs) < 2).astype(int)  # a section of two spots, and many values hidden elsewhere
    adata.layers["missing"] = sp.csr_matrix((np.arange(adata.n_obs) < 400)[:, None])
    assert reliability(adata, few).iloc[0]["verdict"] == TRUST


def test_the_genes_option_of_impute_leaves_the_others_unfilled(imputed_run):
    some = stmcdi.impute(
        imputed_run.masked, imputed_run.model, genes=["gene_1", "gene_7"], n_samples=4, device="cpu", quiet=True
    )
    table = reliability(some)
    assert list(table.index[table["n_filled"] > 0]) == ["gene_1", "gene_7"]


@pytest.mark.parametrize("target", ["missing", "zeros", "all"])
def test_filled_entries_are_those_of_the_target(imputed_run, target):
    imputed = stmcdi.impute(imputed_run.masked, imputed_run.model, target=target, n_samples=4, device="cpu", quiet=True)
    missing, zero = imputed.layers["missing"].toarray(), imputed.X.toarray() == 0
    expected = {"missing": missing, "zeros": missing | zero, "all": np.ones_like(missing)}[target]
    np.testing.assert_array_equal(reliability(imputed)["n_filled"], expected.sum(0))


class Counted(sp.csr_matrix):
    """Counts the rows that are read."""

    read = 0

    def __getitem__(self, key):
        rows = super().__getitem__(key)
        Counted.read += rows.shape[0]
        return rows


@pytest.mark.parametrize("target", ["missing", "zeros", "all", "unknown"])
def test_blocks_of_spots_give_what_the_whole_gives(imputed_run, target):
    adata = imputed_run.imputed.copy()
    adata.uns["stmcdi"] = {"impute": {"parameters": {"target": target}}}
    whole = filled_entries(adata, slice(None))
    blocks = [filled_entries(adata, slice(start, start + 70)) for start in range(0, adata.n_obs, 70)]
    np.testing.assert_array_equal(np.concatenate(blocks), whole)
    assert whole.shape == adata.shape and whole.any()


def test_each_block_reads_its_own_rows_of_the_mask(imputed_run, monkeypatch):
    adata = imputed_run.imputed.copy()
    in_one = reliability(adata)
    monkeypatch.setattr(sparse, "CHUNK_ENTRIES", 10 * adata.n_vars)  # 30 blocks
    adata.layers["missing"] = Counted(adata.layers["missing"])
    monkeypatch.setattr(Counted, "read", 0)
    in_blocks = reliability(adata)
    assert Counted.read == 2 * adata.n_obs  # for what is visible, and block by block for what was filled
    pd.testing.assert_frame_equal(in_blocks, in_one)


def test_verdicts_agree_with_hidden_values(imputed_run):
    table = reliability(imputed_run.imputed)
    measured = evaluate_genes(imputed_run.imputed, imputed_run.truth)["pcc"]
    assert np.corrcoef(table["expected_r"], measured)[0, 1] > 0.6
    assert (table["expected_r"] - measured).mean() == pytest.approx(0, abs=0.05)


@pytest.mark.real_data
def test_on_a_real_tissue_trusted_genes_are_better_than_hopeless_ones(prostate):
    """The verdicts have not seen the hidden values; the correlations are on them alone."""
    table = reliability(prostate.imputed, prostate.imputed.obs["section"].cat.codes.to_numpy())
    measured = evaluate_genes(prostate.imputed, prostate.truth)["pcc"]
    groups = {name: measured[table["verdict"] == name] for name in (TRUST, CAUTION, DONT)}
    print({name: (len(group), round(group.median(), 3)) for name, group in groups.items()})
    assert min(map(len, groups.values())) >= 10
    assert groups[TRUST].median() > groups[CAUTION].median() + 0.1 > groups[DONT].median() + 0.2
    assert groups[TRUST].quantile(0.1) > groups[DONT].quantile(0.9)
    assert (groups[TRUST] > 0.2).sum() >= len(groups[TRUST]) - 1 and groups[TRUST].min() > 0.15  # IGHD has .19


@pytest.mark.real_data
@pytest.mark.parametrize("name", ["mob_rep11", "melanoma_mel1_rep1", "starmap_visual_cortex"])
def test_verdicts_are_calibrated_on_other_tissues(name, shared_data, tmp_path):
    """What the model expects of its genes is what is then measured, whatever the tissue and the platform."""
    raw = ad.read_h5ad(shared_data / f"{name}.h5ad")[:600].copy()
    options = {"n_genes": 200, "fraction": 0.2, "n_samples": 20, "device": "cpu", "quiet": True}
    imputed, truth = stmcdi.run(raw, tmp_path / "model", **options)
    table = reliability(imputed)
    table["measured_r"] = evaluate_genes(imputed, truth)["pcc"]
    mean = table.groupby("verdict", observed=True)[["expected_r", "measured_r"]].mean()
    print(table["verdict"].value_counts().to_dict(), mean.round(3).to_dict("index"))
    assert table["verdict"].value_counts()[[TRUST, CAUTION, DONT]].min() >= 5
    assert mean["measured_r"][TRUST] > mean["measured_r"][CAUTION] + 0.1 > mean["measured_r"][DONT] + 0.2
    assert (mean["expected_r"] - mean["measured_r"]).abs().max() < 0.1
