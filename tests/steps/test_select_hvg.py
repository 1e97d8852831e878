import subprocess
import sys

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scipy.sparse as sp
from helpers import dense, same

import stmcdi_cli as stmcdi
from stmcdi_cli.errors import InputError


@pytest.fixture(scope="module")
def normalized(tissue):
    return stmcdi.normalize(tissue)


@pytest.mark.real_data
@pytest.mark.parametrize("name", ["mob_rep11", "visium_prostate_normal_cancer_1255genes", "mouse_hippo_2k_sec5"])
def test_the_default_picks_the_genes_of_the_benchmark(name, shared_data, benchmark_scripts, tmp_path):
    source = shared_data / f"{name}.h5ad"
    n_genes = 1000 if name != "visium_prostate_normal_cancer_1255genes" else 500
    command = [sys.executable, benchmark_scripts / "make_case.py", source, tmp_path, "--n-genes", str(n_genes)]
    subprocess.run(command, check=True)
    case, truth = ad.read_h5ad(tmp_path / "masked.h5ad"), ad.read_h5ad(tmp_path / "truth.h5ad")

    chosen = stmcdi.select_hvg(stmcdi.normalize(ad.read_h5ad(source)), n_genes=n_genes)
    assert list(chosen.var_names) == list(case.var_names)
    masked, answer = stmcdi.hold_out(chosen, fraction=0.2, seed=0)
    np.testing.assert_allclose(dense(answer.X), dense(truth.X), rtol=1e-5)
    np.testing.assert_array_equal(dense(masked.layers["missing"]), dense(case.layers["missing"]))
    np.testing.assert_allclose(dense(masked.X), dense(case.X), rtol=1e-5)
    np.testing.assert_array_equal(dense(masked.layers["counts"]), dense(case.layers["counts"]))
    np.testing.assert_allclose(masked.obs["size_factor"], case.obs["size_factor"])


def test_equation_30(normalized):
    scaled = np.expm1(dense(normalized.X).astype(float))
    with np.errstate(invalid="ignore"):
        cv = scaled.std(0) / scaled.mean(0)
    result = stmcdi.select_hvg(normalized, method="cv", n_genes=20, subset=False)
    np.testing.assert_allclose(result.var["cv"], cv, rtol=1e-4)
    np.testing.assert_allclose(result.var["means"], scaled.mean(0), rtol=1e-4)
    assert set(np.flatnonzero(result.var["highly_variable"])) == set(np.argsort(-cv)[:20])


@pytest.mark.parametrize("n_genes", [10, 60])
def test_seurat_v3_gives_scanpys_numbers(normalized, n_genes):
    result = stmcdi.select_hvg(normalized, method="seurat_v3", n_genes=n_genes, subset=False)
    theirs = normalized.copy()
    sc.pp.highly_variable_genes(theirs, flavor="seurat_v3", layer="counts", n_top_genes=n_genes)
    np.testing.assert_allclose(result.var["variances_norm"], theirs.var["variances_norm"], rtol=1e-6)
    np.testing.assert_array_equal(result.var["highly_variable"], theirs.var["highly_variable"])


def test_seurat_v3_without_scikit_misc_names_the_extra(normalized, monkeypatch):
    monkeypatch.setitem(sys.modules, "skmisc.loess", None)
    with pytest.raises(InputError, match=r"pip install 'stmcdi\[seurat\]'"):
        stmcdi.select_hvg(normalized, method="seurat_v3")


@pytest.mark.parametrize("method", ["cv2-trend", "cv", "seurat_v3"])
def test_hidden_values_have_no_say(tissue, method):
    """Statistics of a file with values hidden are those over visible entries, whatever stood at the others."""
    random = np.random.default_rng(0)
    hidden = sp.csr_matrix(random.random(tissue.shape) < 0.3)
    results = []
    for other in (0, 50):
        adata = tissue.copy()
        values = dense(tissue.X).copy()
        values[dense(hidden)] = other
        adata.X, adata.layers["missing"] = sp.csr_matrix(values), hidden
        results.append(stmcdi.select_hvg(stmcdi.normalize(adata), method=method, n_genes=30))
    same(*results)


@pytest.mark.parametrize(
    ("method", "has_counts"),
    [("cv2-trend", True), ("cv2-trend", False), ("cv", True), ("cv", False), ("seurat_v3", True)],
)
def test_values_that_are_marked_later_have_no_say_either(normalized, method, has_counts):
    """Whoever hides a region of a normalised file by hand sets the mask alone."""
    hidden = np.zeros(normalized.shape, dtype=bool)
    hidden[:100] = np.random.default_rng(0).random((100, normalized.n_vars)) < 0.6
    chosen = []
    for other in (0, 1, 9999):
        adata = normalized.copy()
        adata.layers["missing"] = sp.csr_matrix(hidden)
        for matrix in (adata.X, adata.layers["counts"]):
            matrix.data[hidden[matrix.nonzero()]] *= other
        if not has_counts:
            del adata.layers["counts"]
        chosen.append(stmcdi.select_hvg(adata, method=method, n_genes=30))
    for each in chosen[1:]:
        pd.testing.assert_frame_equal(each.var, chosen[0].var)


def test_statistics_divide_by_the_visible_spots(tissue):
    masked, _ = stmcdi.hold_out(stmcdi.normalize(tissue), fraction=0.4)
    result = stmcdi.select_hvg(masked, subset=False)
    scaled = dense(masked.layers["counts"]) / masked.obs["size_factor"].to_numpy()[:, None]
    visible = np.ma.masked_array(scaled, dense(masked.layers["missing"]))
    np.testing.assert_allclose(result.var["means"], visible.mean(0), rtol=1e-5)
    np.testing.assert_allclose(result.var["cv"], visible.std(0) / visible.mean(0), rtol=1e-5)


def test_spots_without_counts_are_not_counted(normalized):
    empty = normalized[:3].copy()
    for part in ("X",):
        setattr(empty, part, sp.csr_matrix(empty.shape, dtype=np.float32))
    empty.layers["counts"] = empty.X.copy()
    empty.obs["size_factor"] = 1.0
    empty.obs_names = ["e1", "e2", "e3"]
    both = ad.concat([normalized, empty], merge="same")
    one, other = stmcdi.select_hvg(normalized, subset=False), stmcdi.select_hvg(both, subset=False)
    np.testing.assert_allclose(one.var["cv2_residual"], other.var["cv2_residual"], rtol=1e-5)


def test_subset_keeps_spots_and_the_order_of_genes(normalized):
    before = normalized.copy()
    flagged = stmcdi.select_hvg(normalized, n_genes=25, subset=False)
    kept = stmcdi.select_hvg(normalized, n_genes=25)
    same(normalized, before)
    assert flagged.shape == normalized.shape and kept.shape == (normalized.n_obs, 25)
    assert list(kept.var_names) == list(normalized.var_names[flagged.var["highly_variable"]])
    np.testing.assert_array_equal(dense(kept.X), dense(normalized[:, kept.var_names].X))
    assert kept.layers["counts"].shape == kept.shape == kept.layers["rates"].shape


def test_listed_genes_come_in_the_order_of_the_list(normalized, h5ad, cli, tmp_path):
    """So do those of a model, which a panel may have in another order."""
    names = [*normalized.var_names[[17, 3, 40, 8]], normalized.var_names[3]]
    kept = stmcdi.select_hvg(normalized, genes=names)
    assert list(kept.var_names) == names[:4]
    np.testing.assert_array_equal(dense(kept.X), dense(normalized[:, names[:4]].X))
    np.testing.assert_array_equal(dense(kept.layers["counts"]), dense(normalized[:, names[:4]].layers["counts"]))
    assert kept.X.has_canonical_format
    flagged = stmcdi.select_hvg(normalized, genes=names, subset=False)
    assert list(flagged.var_names) == list(normalized.var_names) and flagged.var["highly_variable"].sum() == 4
    (tmp_path / "names.txt").write_text("\n".join(names))
    assert cli("select-hvg", h5ad(normalized), tmp_path / "out.h5ad", "--genes", tmp_path / "names.txt").exit_code == 0
    same(ad.read_h5ad(tmp_path / "out.h5ad"), kept)


def test_rare_genes_are_not_chosen_by_default(normalized):
    seen = (dense(normalized.X) > 0).mean(0)
    result = stmcdi.select_hvg(normalized, min_spots=0.1)
    assert result.n_vars == (seen >= 0.1).sum() < normalized.n_vars
    assert seen[stmcdi.select_hvg(normalized, method="cv", n_genes=10, subset=False).var["highly_variable"]].max() < 0.1


def test_fewer_genes_than_asked_are_refused_but_not_by_default(normalized, h5ad, refused, tmp_path):
    source = h5ad(normalized)
    line = refused("select-hvg", source, tmp_path / "out.h5ad", "--n-genes", "1000")
    assert "expected 1000 genes that are seen in at least 0.05 of the spots, found" in line
    assert "lower --n-genes" in line
    assert stmcdi.select_hvg(normalized).n_vars <= normalized.n_vars


def test_a_panel(normalized, h5ad, cli, refused, tmp_path):
    source = h5ad(normalized)
    (tmp_path / "panel.txt").write_text("gene_9\n\n# markers\ngene_2\ngene_2\n")
    assert cli("select-hvg", source, tmp_path / "out.h5ad", "--genes", tmp_path / "panel.txt").exit_code == 0
    assert list(ad.read_h5ad(tmp_path / "out.h5ad").var_names) == ["gene_9", "gene_2"]
    (tmp_path / "panel.txt").write_text("gene_9\nACTB\nGAPDH\nx\ny\n")
    line = refused("select-hvg", source, tmp_path / "no.h5ad", "--genes", tmp_path / "panel.txt")
    assert "did not find ACTB, GAPDH, x, ... (4 in all)" in line
    (tmp_path / "panel.txt").write_text("\n")
    assert "found none" in refused("select-hvg", source, tmp_path / "no.h5ad", "--genes", tmp_path / "panel.txt")
    assert "cannot be read" in refused("select-hvg", source, tmp_path / "no.h5ad", "--genes", tmp_path / "nowhere")
    with pytest.raises(InputError, match="leave one out"):
        stmcdi.select_hvg(normalized, genes=["gene_2"], n_genes=3)


def test_genes_without_a_trend(raw):
    """One, two and three genes, and genes all alike, still give an answer."""
    for n in (1, 2, 3):
        assert stmcdi.select_hvg(stmcdi.normalize(raw)[:, :n].copy()).n_vars <= n
    raw.X = sp.csr_matrix(np.tile(np.arange(60)[:, None] % 3, (1, 40)).astype(np.float32))
    assert stmcdi.select_hvg(stmcdi.normalize(raw, skip=True)).n_vars == 40


def test_genes_that_never_vary_are_refused(raw):
    raw.X = sp.csr_matrix(np.ones(raw.shape, np.float32))
    with pytest.raises(InputError, match="found none; lower --min-spots"):
        stmcdi.select_hvg(stmcdi.normalize(raw))


def panel(n_genes: int) -> ad.AnnData:
    """Counts of many rare genes, of one that is never seen and of one that is the same everywhere."""
    random = np.random.default_rng(0)
    counts = random.poisson(np.geomspace(0.01, 5, n_genes), (100, n_genes)).astype(np.float32)
    counts[:, 0], counts[:, 1], counts[:, 2] = 0, 0, random.permutation(100) < 3
    adata = ad.AnnData(sp.csr_matrix(counts))
    adata.obsm["spatial"] = random.uniform(0, 1, (100, 2))
    adata.layers["counts"], adata.obs["size_factor"] = adata.X.copy(), 1.0
    return adata


def test_a_small_panel_keeps_all_genes_seen_at_all_and_says_so(caplog):
    adata = panel(400)
    seen = (dense(adata.X) > 0).any(0)
    chosen = stmcdi.select_hvg(adata)
    assert list(chosen.var_names) == list(adata.var_names[seen]) and len(chosen.var_names) > 350
    assert caplog.messages == [f"select-hvg: {seen.sum()} of 400 genes kept; left out: {(~seen).sum()} never seen"]
    assert chosen.uns["stmcdi"]["select-hvg"]["parameters"]["min_spots"] == 0
    assert stmcdi.select_hvg(adata, min_spots=0.05).n_vars == ((dense(adata.X) > 0).mean(0) >= 0.05).sum()


def test_large_files_keep_1000_genes_or_all_on_demand(caplog):
    adata = panel(1500)
    share = (dense(adata.X) > 0).mean(0)
    rare, never = ((share < 0.05) & (share > 0)).sum(), (share == 0).sum()
    assert stmcdi.select_hvg(adata).n_vars == min(1000, (share >= 0.05).sum())
    assert stmcdi.select_hvg(adata, n_genes="all").n_vars == (share > 0).sum()
    caplog.clear()
    assert stmcdi.select_hvg(adata, n_genes=20).n_vars == 20
    less = 1500 - 20 - rare - never
    assert caplog.messages == [
        f"select-hvg: 20 of 1500 genes kept; left out: {never} never seen, {rare} seen in less than 0.05 of the spots, "
        f"{less} that vary less"
    ]
    assert stmcdi.select_hvg(adata, n_genes=1100, min_spots=0).n_vars == 1100
    with pytest.raises(InputError, match="a number or all, found `most`"):
        stmcdi.select_hvg(adata, n_genes="most")


@pytest.mark.parametrize("step", ["select-hvg", "run"])
def test_a_number_or_all_from_the_command_line_or_a_file(step, refused, tmp_path):
    words = [step, tmp_path / "in.h5ad", tmp_path / "out.h5ad"]
    assert "'some' is neither a valid integer nor all" in refused(*words, "--n-genes", "some")
    assert "no such file" in refused(*words, "--n-genes", "all", "--min-spots", "0", "--ignore-missing-genes")
    (tmp_path / "options.yaml").write_text("n-genes: all\nmin-spots: 0\n")
    assert "no such file" in refused(*words, "--config", tmp_path / "options.yaml")


def test_names_that_are_not_in_the_data_are_left_out_on_demand(normalized, caplog, refused, h5ad, tmp_path):
    chosen = stmcdi.select_hvg(normalized, genes=["ACTB", "gene_2", "GAPDH"], ignore_missing_genes=True)
    assert list(chosen.var_names) == ["gene_2"]
    assert caplog.messages[0] == "select-hvg: left out of the panel, since not in the data: ACTB, GAPDH"
    assert caplog.messages[1].endswith("not in the panel")
    with pytest.raises(InputError, match="gene of the panel in the data, found none"):
        stmcdi.select_hvg(normalized, genes=["ACTB"], ignore_missing_genes=True)
    (tmp_path / "panel.txt").write_text("ACTB\ngene_2\n")
    line = refused("select-hvg", h5ad(normalized), tmp_path / "out.h5ad", "--genes", tmp_path / "panel.txt")
    assert line.endswith("did not find ACTB; correct it, or leave these out (--ignore-missing-genes)")


def test_categories_without_a_spot_and_their_colours_stay(raw):
    raw.obs["grade"] = pd.Categorical(["lo", "hi"] * (raw.n_obs // 2), ["lo", "mid", "hi"], ordered=True)
    raw.uns["grade_colors"] = ["red", "green", "blue"]
    found = stmcdi.select_hvg(stmcdi.normalize(raw), n_genes=5)
    assert found.obs["grade"].dtype == raw.obs["grade"].dtype
    assert list(found.uns["grade_colors"]) == ["red", "green", "blue"]


def test_names_that_stand_in_another_column_are_pointed_at(normalized, h5ad, refused, tmp_path):
    data = normalized.copy()
    data.var["feature_name"] = data.var_names
    data.var_names = [f"ENSMUSG{i:011d}" for i in range(data.n_vars)]
    (tmp_path / "genes.txt").write_text("gene_3\ngene_7\n")
    line = refused("select-hvg", h5ad(data), tmp_path / "out.h5ad", "--genes", tmp_path / "genes.txt")
    assert "found gene_3, gene_7 in var['feature_name'] alone; give names as var_names has them (ENSMUSG" in line
