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
def two() -> list[ad.AnnData]:
    left, right = make_raw(30, 40, seed=1), make_raw(20, 40, seed=2)
    return [left, right[:, ::-1][:, :35].copy()]  # other genes, in another order


def test_spots_of_all_and_genes_they_share(two):
    joined = stmcdi.join(two, names=["left", "right"])
    assert joined.shape == (50, 35)
    assert list(joined.var_names) == [gene for gene in two[0].var_names if gene in set(two[1].var_names)]
    for name, tissue in zip(("left", "right"), two, strict=True):
        part = joined[joined.obs["stmcdi_sample"] == name]
        assert list(part.obs_names) == [f"{spot}-{name}" for spot in tissue.obs_names]
        np.testing.assert_array_equal(dense(part.X), dense(tissue[:, joined.var_names].X))
        np.testing.assert_array_equal(part.obsm["spatial"], tissue.obsm["spatial"])
    assert joined.uns["stmcdi"]["join"]["parameters"] == {"names": ["left", "right"]}


def test_no_edge_between_tissues_or_their_sections(two):
    joined = stmcdi.join(two, section_key="section")
    assert set(joined.obs["stmcdi_section"]) == {"1:a", "1:b", "2:a", "2:b"}
    graph = stmcdi.build_graph(joined, section_key="stmcdi_section").obsp["spatial_connectivities"].tocoo()
    section = joined.obs["stmcdi_section"].to_numpy()
    assert (section[graph.row] == section[graph.col]).all()
    assert set(stmcdi.join(two).obs["stmcdi_section"]) == {"1", "2"}


def test_the_inputs_stay_as_they_were(two):
    before = [tissue.copy() for tissue in two]
    stmcdi.join(two)
    for tissue, old in zip(two, before, strict=True):
        assert tissue.obs.equals(old.obs) and tissue.var.equals(old.var) and set(tissue.uns) == set(old.uns)


def test_command_line(cli, two, h5ad, tmp_path):
    files = [h5ad(tissue, f"{name}.h5ad") for name, tissue in zip("ab", two, strict=True)]
    assert cli("join", *files, tmp_path / "out.h5ad", "--name", "a", "--name", "b").exit_code == 0
    assert list(ad.read_h5ad(tmp_path / "out.h5ad").obs["stmcdi_sample"].cat.categories) == ["a", "b"]


def test_refusals(two):
    with pytest.raises(InputError, match="different `names`"):
        stmcdi.join(two, names=["a", "a"])
    with pytest.raises(InputError, match="different `names`"):
        stmcdi.join(two, names=["a"])
    with pytest.raises(InputError, match="found none"):
        stmcdi.join([])
    two[1].var_names = [f"other{i}" for i in range(35)]
    with pytest.raises(InputError, match="genes that all of 1, 2 have"):
        stmcdi.join(two)
    del two[1].obsm["spatial"]
    with pytest.raises(InputError, match="expected spot coordinates"):
        stmcdi.join(two)


def library(number: int) -> dict:
    """Image and scale factors of a slide."""
    factors = {"tissue_hires_scalef": 0.1 * number, "spot_diameter_fullres": 9.0}
    return {"images": {"hires": np.full((4, 4, 3), number, np.uint8)}, "scalefactors": factors}


def test_images_and_scale_factors_of_all_are_kept(two, cli, h5ad, tmp_path):
    two[0].uns["spatial"], two[1].uns["spatial"] = {"one": library(1)}, {"two": library(2)}
    files = [h5ad(tissue, f"{name}.h5ad") for name, tissue in zip("ab", two, strict=True)]
    assert cli("join", *files, tmp_path / "out.h5ad").exit_code == 0
    images = ad.read_h5ad(tmp_path / "out.h5ad").uns["spatial"]
    assert set(images) == {"one", "two"}
    np.testing.assert_array_equal(images["two"]["images"]["hires"], 2)
    assert images["one"]["scalefactors"]["tissue_hires_scalef"] == 0.1


def test_one_name_for_two_images_becomes_two_and_it_is_said(two, caplog):
    for number, tissue in enumerate(two, 1):
        tissue.uns["spatial"] = {"slide": library(number), "shared": library(9)}
        tissue.obs["library_id"] = "slide"
    joined = stmcdi.join(two, names=["left", "right"])
    assert set(joined.uns["spatial"]) == {"slide", "slide-right", "shared"}
    np.testing.assert_array_equal(joined.uns["spatial"]["slide-right"]["images"]["hires"], 2)
    assert "join: uns['spatial']['slide'] of tissue right is now 'slide-right'" in caplog.messages
    names = joined.obs.groupby("stmcdi_sample", observed=True)["library_id"].unique()
    assert (list(names["left"]), list(names["right"])) == (["slide"], ["slide-right"])
    assert set(two[1].obs["library_id"]) == {"slide"} and set(two[1].uns["spatial"]) == {"slide", "shared"}


def test_what_is_left_out_is_said(two, caplog):
    two[0].layers["scaled"], two[0].obs["age"] = two[0].X.copy(), 3
    two[1].var["symbol"] = "other"
    stmcdi.join(two)
    assert caplog.messages == [
        "join: 35 of 40 genes kept; left out: 5 not in all tissues",
        "join: left out, since not in all tissues, not the same in all, or a result for one of them: "
        "layers['scaled'], obs['age'], var['symbol'], varm['loading'], uns['source']",
    ]


def test_the_union_of_genes_marks_what_a_tissue_lacks(two, caplog):
    left, right = two[0][:, :30].copy(), two[1]  # genes 0 to 29, and 39 down to 5
    right.var["symbol"], left.var["own"] = [f"G{gene[1:]}" for gene in right.var_names], 1
    joined = stmcdi.join([left, right], names=["left", "right"], genes="union")
    assert list(joined.var_names) == [*left.var_names, *(f"g{i}" for i in range(39, 29, -1))]
    missing = np.zeros((50, 40), bool)
    missing[:30, 30:] = missing[30:, :5] = True
    np.testing.assert_array_equal(dense(joined.layers["missing"]), missing)
    np.testing.assert_array_equal(dense(joined.X)[:30, :30], dense(left.X))
    np.testing.assert_array_equal(dense(joined[30:, right.var_names].X), dense(right.X))
    assert not dense(joined.X)[missing].any()
    assert joined.var["symbol"].tolist() == [f"G{gene[1:]}" for gene in joined.var_names] and "own" not in joined.var
    assert joined.uns["stmcdi"]["join"]["parameters"]["genes"] == "union"
    assert "join: tissue right and those before it share 25 genes (25 by name)" in caplog.text
    normalized = stmcdi.normalize(joined)
    np.testing.assert_array_equal(dense(normalized.layers["missing"]), missing)
    assert set(stmcdi.join([left, left.copy()], genes="union").var_names) == set(left.var_names)


@pytest.mark.parametrize("entries", [41, sparse.CHUNK_ENTRIES])
def test_the_union_from_files_is_that_in_memory(two, entries, cli, h5ad, tmp_path, monkeypatch):
    two[1].var_names = two[1].var_names.str.upper()
    two[0].layers["other"], two[1].layers["other"] = two[0].X * 2, dense(two[1].X) * 2
    expected = stmcdi.join(two, genes="union")
    monkeypatch.setattr(sparse, "CHUNK_ENTRIES", entries)
    files = [h5ad(tissue, f"{name}.h5ad") for name, tissue in zip("ab", two, strict=True)]
    assert cli("join", *files, tmp_path / "out.h5ad", "--genes", "union").exit_code == 0
    back = ad.read_h5ad(tmp_path / "out.h5ad")
    expected.strings_to_categoricals()
    same(back, expected)
    assert list(back.var_names) == list(two[0].var_names)


def test_a_union_of_too_few_shared_genes_is_refused(two, h5ad, refused, tmp_path):
    two[1].var_names = [f"other{i}" if i < 20 else name for i, name in enumerate(two[1].var_names)]
    files = [h5ad(tissue, f"{name}.h5ad") for name, tissue in zip("ab", two, strict=True)]
    assert (
        "expected at least 20 genes that tissue 2 and those before it share, found 15: tissue 2 has other0, other1"
        in refused("join", *files, tmp_path / "out.h5ad", "--genes", "union")
    )


def test_entries_without_a_value_stay_so_where_only_one_tissue_has_any(two):
    missing = np.random.default_rng(0).random(two[0].shape) < 0.2
    two[0].layers["missing"] = sp.csr_matrix(missing)
    joined = stmcdi.join(two)
    np.testing.assert_array_equal(dense(joined.layers["missing"])[:30], missing[:, 5:])
    assert not dense(joined.layers["missing"])[30:].any()


def test_coordinates_as_tables_of_other_columns(two, cli, h5ad, tmp_path):
    for columns in (None, ["imagecol", "imagerow"]):
        tissues = [tissue.copy() for tissue in two]
        tables = [
            pd.DataFrame(t.obsm["spatial"], t.obs_names, names)
            for t, names in zip(two, (["x", "y"], columns), strict=True)
        ]
        tissues[0].obsm["spatial"] = tables[0]
        if columns:
            tissues[1].obsm["spatial"] = tables[1]
        files = [h5ad(tissue, f"{name}.h5ad") for name, tissue in zip("ab", tissues, strict=True)]
        assert cli("join", *files, tmp_path / "out.h5ad").exit_code == 0
        joined = ad.read_h5ad(tmp_path / "out.h5ad")
        np.testing.assert_array_equal(joined.obsm["spatial"], np.concatenate([t.obsm["spatial"] for t in two]))


def test_what_is_cut_or_turned_is_said(two, caplog):
    for n, tissue in zip((30, 10), two, strict=True):
        tissue.obsm["X_pca"] = np.ones((tissue.n_obs, n))
        tissue.obsm["note"] = np.full((tissue.n_obs, 1), "a")
        tissue.uns.update(clust_colors=["red", "blue"], neighbors={"params": 1})
    for tissue in two:
        tissue.obs["grade"] = pd.Categorical(["lo"] * tissue.n_obs, ["lo", "mid", "hi"], ordered=True)
        tissue.uns.update(table=pd.DataFrame({"a": [1]}), matrix=sp.eye(2, format="csr"))
    two[0].obs["cluster"], two[1].obs["cluster"] = 1, pd.Categorical(["a"] * 20)
    two[1].obsm["note"] = pd.DataFrame({"note": ["a"] * 20}, two[1].obs_names)
    with caplog.at_level("INFO"):
        joined = stmcdi.join(two)
    assert joined.obsm["X_pca"].shape == (50, 10) and "obsm['X_pca'] has 30, 10 columns" in caplog.text
    assert (
        joined.obs["cluster"].tolist() == ["1"] * 30 + ["a"] * 20
        and "obs['cluster'] is a number in some" in caplog.text
    )
    assert list(joined.uns["clust_colors"]) == ["red", "blue"] and "clust_colors" not in caplog.text
    assert set(joined.uns) == {"clust_colors", "stmcdi"} and "uns['neighbors']" in caplog.text
    assert joined.obs["grade"].dtype == two[0].obs["grade"].dtype
    assert "note" not in joined.obsm and "obsm['note']" in caplog.text


def test_joined_tissues_that_are_joined_again_keep_their_sections(two, caplog):
    """No spot becomes the neighbour of one of another tissue, however often tissues are added."""
    for tissue in two:
        tissue.obs["slide"] = ["x"] * 10 + ["y"] * (tissue.n_obs - 10)
    third = make_raw(15, 40, seed=3)
    third.obs["slide"] = ["x"] * 10 + ["y"] * 5
    pair = stmcdi.join(two, names=["left", "right"])
    joined = stmcdi.join([pair, third], names=["pair", "third"])
    assert joined.obs["stmcdi_sample"].value_counts().to_dict() == {"pair:left": 30, "pair:right": 20, "third": 15}
    assert (joined.obs["stmcdi_section"].astype(str) == joined.obs["stmcdi_sample"].astype(str)).all()
    assert "tissue pair is joined itself: its sections are pair:left, pair:right" in caplog.text
    graph = stmcdi.build_graph(joined, section_key="stmcdi_section").obsp["spatial_connectivities"].tocoo()
    tissue = joined.obs_names.str.split("-").str[1].to_numpy()
    assert (tissue[graph.row] == tissue[graph.col]).all()
    assert not {"pair:x", "pair:y"} & set(stmcdi.join([pair, third], section_key="slide").obs["stmcdi_section"])
    by_slide = stmcdi.join([stmcdi.join(two, section_key="slide"), third], section_key="slide")
    assert set(by_slide.obs["stmcdi_section"]) == {"1:1:x", "1:1:y", "1:2:x", "1:2:y", "2:x", "2:y"}


def test_values_that_are_not_on_one_scale_are_refused(cli, refused, h5ad, tmp_path):
    shallow, deep = (stmcdi.simulate(n_spots=60, n_genes=50, depth=depth, seed=1) for depth in (200, 900))
    raw = h5ad(shallow, "raw.h5ad")
    one, other = (h5ad(stmcdi.normalize(tissue), f"{i}.h5ad") for i, tissue in enumerate((shallow, deep)))
    out = tmp_path / "out.h5ad"
    line = refused("join", raw, other, out)
    assert "expected raw counts of every tissue, found logarithms of normalised ones in 2; join raw counts" in line
    line = refused("join", one, other, out)
    assert "expected values on one scale, found tissues that were normalised one by one, to totals of" in line
    counts = tmp_path / "counts.h5ad"  # as the line says
    assert cli("import", other, counts, "--layer", "counts").exit_code == 0
    assert cli("join", raw, counts, out).exit_code == 0
    np.testing.assert_array_equal(dense(ad.read_h5ad(out).X)[60:], dense(deep.X))


def test_logarithms_on_one_scale_can_be_joined():
    tissues = [stmcdi.simulate(n_spots=60, n_genes=50, depth=depth, seed=1) for depth in (200, 900)]
    for tissue in tissues:
        counts = dense(tissue.X)
        tissue.X = sp.csr_matrix(np.log1p(1e4 * counts / counts.sum(1, keepdims=True)))
    assert stmcdi.join(tissues).n_obs == 120


def test_sections_that_were_normalised_together_can_be_joined_again():
    """Where genes were chosen, their totals differ between sections; what they were scaled to does not."""
    whole = stmcdi.normalize(stmcdi.simulate(n_spots=120, n_genes=60, depth=500, seed=1))
    x = dense(whole.X)
    whole = whole[np.argsort(x[:, 0], kind="stable"), np.argsort(-x[:, 0].std() * x.std(0))[:3]].copy()
    sections = [whole[:40].copy(), whole[80:].copy()]
    totals = [np.median(np.expm1(dense(each.X)).sum(1)) for each in sections]
    assert max(totals) > 1.2 * min(totals)
    assert stmcdi.join(sections).n_obs == 80
