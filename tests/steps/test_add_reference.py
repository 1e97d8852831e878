import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from helpers import dense, make_raw, same

import stmcdi_cli as stmcdi
from stmcdi_cli import sparse
from stmcdi_cli.errors import InputError


@pytest.fixture
def panel() -> ad.AnnData:
    return make_raw(30, 40, seed=1)[:, :25].copy()


@pytest.fixture
def cells() -> ad.AnnData:
    """Genes 3 to 39, in another order, of single cells."""
    made = make_raw(50, 40, seed=2)[:, :2:-1].copy()
    made.X = sp.csr_matrix(dense(made.X) + (np.arange(50) == 0)[:, None])  # every gene is seen
    made.obs_names = [f"cell{i}" for i in range(50)]
    del made.obsm
    return made


def test_spots_then_cells_and_the_union_of_genes(panel, cells):
    before = panel.copy(), cells.copy()
    both = stmcdi.add_reference(panel, cells)
    same(panel, before[0])
    same(cells, before[1])
    added = [gene for gene in cells.var_names if gene not in panel.var_names]
    assert list(both.var_names) == [*panel.var_names, *added] and both.shape == (80, 40)
    assert list(both.obs_names) == [*panel.obs_names, *cells.obs_names]
    assert both.obs["stmcdi_role"].tolist() == ["target"] * 30 + ["reference"] * 50
    assert both.var["measured"].tolist() == [True] * 25 + [False] * 15
    np.testing.assert_array_equal(dense(both[:30, :25].X), dense(panel.X))
    shared = both.var_names[3:]
    np.testing.assert_array_equal(dense(both[30:, shared].X), dense(cells[:, shared].X))
    missing = np.zeros((80, 40), bool)
    missing[:30, 25:] = missing[30:, :3] = True
    np.testing.assert_array_equal(dense(both.layers["missing"]), missing)
    assert both.layers["missing"].format == "csr" and both.layers["missing"].dtype == bool
    assert not dense(both.X)[missing].any()
    assert {key: both.uns["stmcdi"]["add-reference"]["parameters"][key] for key in ("max_reference_cells", "seed")} == {
        "max_reference_cells": 10_000,
        "seed": 0,
    }


def test_tables_of_the_panel_come_back_as_they_were(panel, cells):
    panel.obs["flag"], panel.obs["n"], panel.obs["depth"] = True, np.arange(30), 0.5
    panel.obs["stage"] = pd.Categorical(["late", "early"] * 15, ["early", "late", "never"], ordered=True)
    panel.obs["barcode"] = [f"AC{i}" for i in range(30)]
    panel.obsm["table"] = pd.DataFrame({"a": np.arange(30)}, index=panel.obs_names)
    cells.var["symbol"] = "of the reference"
    both = stmcdi.add_reference(panel, cells)
    pd.testing.assert_frame_equal(both.obs.iloc[:30][list(panel.obs)], panel.obs)
    pd.testing.assert_frame_equal(both.var.iloc[:25][["symbol"]], panel.var)
    assert set(both.var["symbol"].iloc[25:]) == {"of the reference"}
    for name in ("spatial", "X_other"):
        np.testing.assert_array_equal(both.obsm[name][:30], panel.obsm[name])
    assert both.obsm["table"]["a"].tolist()[:30] == list(range(30))
    assert np.isnan(both.obsm["spatial"][30:]).all()


def test_size_factors_come_from_shared_genes_relative_to_the_target(panel, cells):
    cells.X = cells.X * 40
    normalized = stmcdi.normalize(stmcdi.add_reference(panel, cells))
    shared = panel.var_names[3:]
    total = np.concatenate([dense(each[:, shared].X).sum(1) for each in (panel, cells)])
    np.testing.assert_allclose(normalized.obs["size_factor"], total / np.median(total[:30]))
    alone = stmcdi.normalize(panel[:, shared].copy())
    np.testing.assert_array_equal(normalized.obs["size_factor"][:30], alone.obs["size_factor"])
    np.testing.assert_array_equal(dense(normalized[:30, shared].X), dense(alone.X))


def test_values_missing_in_the_panel_stay_so_and_totals_allow_for_them(panel, cells):
    values = dense(panel.X)
    values[4, 10], values[:, 12] = np.nan, np.nan
    panel.X = values
    both = stmcdi.add_reference(panel, cells)
    missing = dense(both.layers["missing"])
    assert missing[4, 10] and missing[:30, 12].all() and not missing[5, 10] and not missing[30:, 10].any()
    assert not both.var["measured"].iloc[12] and np.isfinite(dense(both.X)).all()
    factor = stmcdi.normalize(both).obs["size_factor"]
    assert np.isfinite(factor).all() and (factor > 0).all()


def test_a_spot_without_counts_of_shared_genes_is_empty(panel, cells):
    values = dense(panel.X)
    values[7, 3:] = 0
    values[7, 0] = 5
    panel.X = values
    normalized = stmcdi.normalize(stmcdi.add_reference(panel, cells))
    assert normalized.obs["empty_spot"].iloc[7] and normalized.obs["size_factor"].iloc[7] == 1


def test_the_reference_gets_no_edges_without_coordinates(panel, cells):
    both = stmcdi.normalize(stmcdi.add_reference(panel, cells))
    graph = stmcdi.build_graph(both, section_key="section").obsp["spatial_connectivities"]
    alone = stmcdi.build_graph(stmcdi.normalize(panel), section_key="section").obsp["spatial_connectivities"]
    assert graph[30:].nnz == graph[:, 30:].nnz == 0
    np.testing.assert_array_equal(dense(graph[:30, :30]), dense(alone))


@pytest.mark.parametrize("method", ["knn", "radius", "delaunay", "grid"])
def test_a_reference_with_coordinates_has_edges_within_its_sections(panel, cells, method, caplog):
    cells.obsm["spatial"] = panel.obsm["spatial"][np.arange(50) % 30] * 1000
    both = stmcdi.normalize(stmcdi.add_reference(panel, cells))
    assert "sections of the reference are those of obs['section'] (--reference-section-key)" in caplog.text
    options = {"radius": 20.0} if method == "radius" else {}
    graph = stmcdi.build_graph(both, method=method, **options).obsp["spatial_connectivities"].tocoo()
    of_cells = (graph.row >= 30) & (graph.col >= 30)
    assert not ((graph.row >= 30) ^ (graph.col >= 30)).any()
    assert np.count_nonzero(of_cells) == 250  # five each, whatever the method for the target
    section = cells.obs["section"].to_numpy()
    assert (section[graph.row[of_cells] - 30] == section[graph.col[of_cells] - 30]).all()


def test_clashing_names_of_cells_are_made_unique(panel, cells, caplog):
    cells.obs_names = [f"s{i}" for i in range(50)]
    both = stmcdi.add_reference(panel, cells)
    assert both.obs_names[30] == "s0-reference" and both.obs_names.is_unique
    assert list(both.obs_names[:30]) == list(panel.obs_names)
    assert (
        "cells of the reference are now called NAME-reference, since spots of the panel have the same names: s0, s1, "
        "s2, ... (30 in all)" in caplog.text
    )


def test_a_sample_of_many_cells_is_drawn_by_seed(panel, cells, caplog):
    one, other = (stmcdi.add_reference(panel, cells, max_reference_cells=20, seed=seed) for seed in (0, 1))
    assert one.n_obs == 50 and "20 of the 50 cells of the reference are used, drawn at random" in caplog.text
    assert list(one.obs_names) != list(other.obs_names)
    same(one, stmcdi.add_reference(panel, cells, max_reference_cells=20, seed=0))
    order = [list(cells.obs_names).index(name) for name in one.obs_names[30:]]
    assert order == sorted(order)


def test_cells_without_counts_of_shared_genes_are_left_out(panel, cells, caplog):
    values = dense(cells.X)
    values[[3, 8]] = 0
    cells.X = values
    assert stmcdi.add_reference(panel, cells).n_obs == 78
    assert "2 cells without a count of a shared gene are left out" in caplog.text


def test_genes_by_name(panel, cells, caplog):
    both = stmcdi.add_reference(panel, cells, genes=["G39", "g30", "g5"])
    assert list(both.var_names[25:]) == ["g39", "g30"]
    assert "1 of the 3 genes listed are in the panel already" in caplog.text
    assert "genes of the reference that are added: g39, g30" in caplog.text
    assert "2 of 15 genes that the panel lacks are added; left out: 13 not in the list" in caplog.text
    assert "genes of the panel that the reference lacks: g0, g1, g2" in caplog.text


def test_a_number_of_genes_takes_those_that_vary_most(panel, cells):
    both = stmcdi.add_reference(panel, cells, n_genes=4)
    absent = cells[:, [gene for gene in cells.var_names if gene not in panel.var_names]].copy()
    shared_total = dense(cells[:, panel.var_names[3:]].X).sum(1)
    absent.layers["counts"], absent.obs["size_factor"] = absent.X, shared_total / np.median(shared_total)
    chosen = stmcdi.select_hvg(absent, n_genes=4)
    assert list(both.var_names[25:]) == list(chosen.var_names)
    assert stmcdi.add_reference(panel, cells, n_genes="all").n_vars == 40


def test_select_hvg_keeps_the_panel_and_what_was_added(panel, cells, monkeypatch):
    monkeypatch.setattr("stmcdi_cli.steps.select_hvg.USUAL_N_GENES", 10)
    both = stmcdi.normalize(stmcdi.add_reference(panel, cells))
    assert stmcdi.select_hvg(both).n_vars == 40
    assert stmcdi.select_hvg(stmcdi.normalize(panel)).n_vars == 10


def test_few_shared_genes_give_a_warning(panel, cells, caplog):
    stmcdi.add_reference(panel, cells)
    assert (
        "add-reference: panel and reference share only 22 genes: intervals will be wide; 40 or more are better"
        in caplog.text
    )


def test_what_was_joined_by_case_is_said(panel, cells, caplog):
    cells.var_names = cells.var_names.str.upper()
    both = stmcdi.add_reference(panel, cells)
    assert list(both.var_names[:25]) == list(panel.var_names)
    assert "the reference and the panel share 22 genes (22 by name without regard to case)" in caplog.text
    assert (
        "22 of the 22 shared genes differ in case (the reference has G24, the panel has g24), as those of human and "
        "mouse do; make sure that both are of one species" in caplog.text
    )


def test_what_the_panel_has_besides_is_named(panel, cells, caplog):
    panel.layers["other"], panel.raw, panel.obsp["near"] = panel.X, panel, sp.identity(30, format="csr")
    stmcdi.add_reference(panel, cells)
    assert "left out, since the reference has no such thing: layers['other'], .raw, obsp['near']" in caplog.text


@pytest.mark.parametrize("entries", [41, sparse.CHUNK_ENTRIES])
@pytest.mark.parametrize("form", [sp.csr_matrix, sp.csc_matrix, np.asarray])
def test_from_files_as_in_memory(form, entries, panel, cells, cli, h5ad, tmp_path, monkeypatch):
    panel.X, cells.X = form(dense(panel.X)), form(dense(cells.X))
    cells.obsm["spatial"] = np.random.default_rng(0).random((50, 2))
    expected = stmcdi.add_reference(panel, cells, n_genes=5, max_reference_cells=30)
    monkeypatch.setattr(sparse, "CHUNK_ENTRIES", entries)
    options = ["--n-genes", 5, "--max-reference-cells", 30]
    files = h5ad(panel, "panel.h5ad"), h5ad(cells, "cells.h5ad")
    assert cli("add-reference", *files, tmp_path / "both.h5ad", *options).exit_code == 0
    back = ad.read_h5ad(tmp_path / "both.h5ad")
    expected.strings_to_categoricals()
    same(back, expected)
    assert {"input_sha256", "reference_sha256"} <= set(back.uns["stmcdi"]["add-reference"])


def refuse_none_shared(panel, cells):
    cells.var_names = [f"other{i}" for i in range(cells.n_vars)]
    return "panel.h5ad: expected at least 20 genes that the panel and the reference share, found none"


def refuse_few_shared(panel, cells):
    cells.var_names = [name if i >= 18 else f"other{i}" for i, name in enumerate(cells.var_names)]
    return (
        "expected at least 20 genes that the panel and the reference share, found 19: the panel has g0, g1, g2, ... "
        "(25 in all), the reference has other0, other1, other2, ... (37 in all); give both the same names, or Ensembl "
        "identifiers in a column of var"
    )


def refuse_normalised_reference(panel, cells):
    cells.layers["raw counts"], cells.X = cells.X.copy(), np.log1p(dense(cells.X))
    return "cells.h5ad: expected whole counts in X, found 0.693147; layers['raw counts'] holds whole counts: " + (
        "--reference-layer 'raw counts'"
    )


def refuse_normalised_panel(panel, cells):
    panel.layers["counts"], panel.X = panel.X.copy(), np.log1p(dense(panel.X))
    return "panel.h5ad: expected whole counts in X, found 1.38629; layers['counts'] holds whole counts: --layer counts"


def refuse_nan(panel, cells):
    values = dense(cells.X)
    values[3, 4] = np.nan
    cells.X = values
    return "cells.h5ad: expected a count in every entry, found NaN in 1; remove those genes or cells"


def refuse_twice(panel, cells):
    panel.obs["stmcdi_role"] = "target"
    return "panel.h5ad: expected a panel without a reference, found obs['stmcdi_role']; give the file that it was made"


def refuse_nothing_to_add(panel, cells):
    cells._inplace_subset_var(cells.var_names.isin(panel.var_names))
    return "expected genes of the reference that the panel lacks, found none; there is nothing to add"


@pytest.mark.parametrize("case", [value for name, value in sorted(globals().items()) if name.startswith("refuse_")])
def test_refusals(case, panel, cells, h5ad, refused, tmp_path):
    message = case(panel, cells)
    files = h5ad(panel, "panel.h5ad"), h5ad(cells, "cells.h5ad")
    assert message in refused("add-reference", *files, tmp_path / "out.h5ad")


def test_advice_about_layers_works(panel, cells):
    for each in (panel, cells):
        each.layers["raw counts"], each.X = each.X.copy(), 1.3 * dense(each.X)  # corrected counts
    both = stmcdi.add_reference(panel, cells, layer="raw counts", reference_layer="raw counts")
    np.testing.assert_array_equal(dense(both.X)[:30, :25], dense(panel.layers["raw counts"]))
    stmcdi.add_reference(panel, cells, skip=True)
    assert sparse.to_csr(stmcdi.add_reference(panel, cells, round=True).X).data.max() % 1 == 0


def test_repeated_genes_and_unknown_ones(panel, cells, h5ad, refused, tmp_path):
    (tmp_path / "genes.txt").write_text("g30\nnope\n")
    files = h5ad(panel, "panel.h5ad"), h5ad(cells, "cells.h5ad"), tmp_path / "out.h5ad"
    assert refused("add-reference", *files, "--genes", tmp_path / "genes.txt").endswith(
        "expected genes that reference or panel have, did not find nope; correct the list (--genes)"
    )
    line = refused("add-reference", *files, "--n-genes", 16)
    assert line.endswith("found 12; lower --n-genes, or name genes (--genes)")
    cells.var_names = ["g39", "g39", *cells.var_names[2:]]
    h5ad(cells, "cells.h5ad")
    assert "cells.h5ad: expected unique gene names, found g39 more than once" in refused("add-reference", *files)
    with pytest.raises(InputError, match="either `n_genes` or `genes`"):
        stmcdi.add_reference(panel, cells, genes=["g30"], n_genes=3)


@pytest.mark.parametrize("where", ["var", "obs"])
def test_texts_of_one_side_alone_are_kept(panel, cells, cli, h5ad, tmp_path, where):
    """As `import` writes identifiers: all different, so that h5ad holds them as texts and not as categories."""
    table = getattr(panel, where)
    table["gene_ids"] = [f"ENSG{i:011d}" for i in range(len(table))]
    assert cli("add-reference", h5ad(panel, "p.h5ad"), h5ad(cells, "r.h5ad"), tmp_path / "o.h5ad").exit_code == 0
    kept = getattr(ad.read_h5ad(tmp_path / "o.h5ad"), where)["gene_ids"]
    assert kept[: len(table)].tolist() == table["gene_ids"].tolist() and kept[len(table) :].isna().all()


def test_it_counts_the_cells_in_which_a_gene_is_seen(panel, cells):
    both = stmcdi.add_reference(panel, cells)
    seen = pd.Series((dense(cells.X) > 0).sum(0), cells.var_names)
    assert both.var["n_reference_cells"].tolist() == seen.reindex(both.var_names, fill_value=0).tolist()


def test_counts_beside_logarithms_are_refused_and_beside_other_values_warned_of(panel, cells, caplog):
    counts = cells.X
    cells.X = sp.csr_matrix(np.log1p(dense(counts) / 3.7))
    with pytest.raises(InputError, match="reference: .*found .*; give raw counts .these look log1p-normalised."):
        stmcdi.add_reference(panel, cells)
    with pytest.raises(InputError, match="found counts in the panel and logarithms of normalised counts in the ref"):
        stmcdi.add_reference(panel, cells, skip=True)
    with pytest.raises(InputError, match="reference: .*log1p-normalised ones, which cannot be rounded; give raw"):
        stmcdi.add_reference(panel, cells, round=True)
    panel.X, cells.X = sp.csr_matrix(np.log1p(dense(panel.X) / 3.7)), counts
    with pytest.raises(InputError, match="found counts in the reference and logarithms of normalised counts in the p"):
        stmcdi.add_reference(panel, cells, skip=True)
    panel.X = sp.csr_matrix(dense(panel.X) * np.random.default_rng(0).uniform(1, 2, panel.shape))  # intensities
    stmcdi.add_reference(panel, cells, skip=True)
    assert "the reference holds whole counts, and the panel other values" in caplog.text


def test_control_probes_are_no_genes_of_a_reference(panel, cells, caplog):
    cells.var_names = ["NegControlProbe_00042", "BLANK_0069", *cells.var_names[2:]]
    both = stmcdi.add_reference(panel, cells)
    assert not {"NegControlProbe_00042", "BLANK_0069"} & set(both.var_names) and both.n_vars == 38
    assert "control probes of the reference, which are no genes, are not added: NegControlProbe_00042" in caplog.text
    assert "BLANK_0069" in stmcdi.add_reference(panel, cells, genes=["BLANK_0069"]).var_names
