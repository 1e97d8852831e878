"""Every step gives the same from a file as in memory, whatever the number of spots it holds at a time."""

import json

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
from helpers import dense, make_raw, same

import stmcdi_cli as stmcdi
from stmcdi_cli import sparse
from stmcdi_cli.io import shards

FORMS = {"csr": sp.csr_matrix, "csc": sp.csc_matrix, "dense": np.asarray}


@pytest.fixture(scope="module", params=FORMS)
def full(request) -> ad.AnnData:
    """Counts in each form, some missing, with raw and other layers that must survive."""
    adata = make_raw(seed=3)
    values = dense(adata.X).copy()
    values[np.random.default_rng(0).random(adata.shape) < 0.1] = np.nan
    adata.X = FORMS[request.param](values)
    adata.layers["other"] = np.nan_to_num(values) * 2
    adata.raw = make_raw(seed=3)
    return adata


def prepared(adata: ad.AnnData) -> ad.AnnData:
    return stmcdi.normalize(adata)


STEPS = {
    "normalize": (lambda a: a, stmcdi.normalize, []),
    "normalize-skip": (lambda a: a, lambda a: stmcdi.normalize(a, skip=True), ["--skip"]),
    "normalize-again": (prepared, lambda a: stmcdi.normalize(a, layer="counts"), ["--layer", "counts"]),
    "select-hvg": (prepared, lambda a: stmcdi.select_hvg(a, n_genes=15), ["--n-genes", 15]),
    "select-hvg-flag": (prepared, lambda a: stmcdi.select_hvg(a, subset=False), ["--no-subset"]),
    "select-hvg-seurat": (
        prepared,
        lambda a: stmcdi.select_hvg(a, method="seurat_v3", n_genes=15),
        ["--method", "seurat_v3", "--n-genes", 15],
    ),
    "build-graph": (prepared, stmcdi.build_graph, []),
    "hold-out": (lambda a: a, stmcdi.hold_out, []),
    "hold-out-later": (prepared, lambda a: stmcdi.hold_out(a, of="nonzero", seed=1), ["--of", "nonzero", "--seed", 1]),
}


@pytest.mark.parametrize("entries", [41, sparse.CHUNK_ENTRIES])
@pytest.mark.parametrize("name", STEPS)
def test_from_a_file_as_in_memory(name, entries, full, cli, h5ad, tmp_path, monkeypatch):
    before, function, options = STEPS[name]
    given = before(full)
    expected = function(given)
    expected = list(expected) if isinstance(expected, tuple) else [expected]
    monkeypatch.setattr(sparse, "CHUNK_ENTRIES", entries)
    step = next(step for step in ("normalize", "select-hvg", "build-graph", "hold-out") if name.startswith(step))
    outputs = [tmp_path / f"{i}.h5ad" for i in range(len(expected))]
    assert cli(step, h5ad(given), *outputs, *options).exit_code == 0
    for result, file in zip(expected, outputs, strict=True):
        back = ad.read_h5ad(file)
        result.strings_to_categoricals()
        same(back, result)
        assert back.obs_names.equals(given.obs_names)
        assert (back.raw is None) == (result.raw is None)
        if back.raw is not None:
            np.testing.assert_array_equal(dense(back.raw.X), dense(full.raw.X))
        for layer in back.layers:
            assert back.layers[layer].dtype == result.layers[layer].dtype
            assert getattr(back.layers[layer], "format", "dense") == getattr(result.layers[layer], "format", "dense")
        assert "input_sha256" in back.uns["stmcdi"][step]


@pytest.mark.parametrize("rates", [True, False])
def test_a_tissue_simulated_into_a_file(rates, cli, tmp_path, monkeypatch):
    options = {"n_spots": 2500, "n_genes": 12, "n_sections": 2, "rates": rates}
    expected = stmcdi.simulate(**options)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    arguments = ["--n-spots", 2500, "--n-genes", 12, "--n-sections", 2, "--rates" if rates else "--no-rates"]
    assert cli("simulate", tmp_path / "a.h5ad", *arguments).exit_code == 0
    same(ad.read_h5ad(tmp_path / "a.h5ad"), expected)


@pytest.mark.parametrize("form", FORMS)
def test_scores_of_files_are_those_in_memory_to_the_last_digit(form, cli, h5ad, tmp_path, monkeypatch):
    masked, truth = stmcdi.hold_out(stmcdi.normalize(make_raw()))
    for name, factor in {"imputed": 1, "imputed_median": 0.9, "imputed_q05": 0.5, "imputed_q95": 2}.items():
        values = factor * np.random.default_rng(0).random(masked.shape)
        masked.layers[name] = FORMS[form](values.astype(np.float32))
    masked.layers["imputed_sd"] = np.full(masked.shape, 0.3)
    expected = stmcdi.evaluate(masked, truth)
    imputed, answer = h5ad(masked, "imputed.h5ad"), h5ad(truth, "truth.h5ad")
    tables = set()
    for entries in (41, sparse.CHUNK_ENTRIES):
        monkeypatch.setattr(sparse, "CHUNK_ENTRIES", entries)
        assert cli("evaluate", imputed, answer, tmp_path / "metrics.json").exit_code == 0
        assert json.loads((tmp_path / "metrics.json").read_text()) == expected
        tables.add((tmp_path / "metrics.tsv").read_text())
    assert len(tables) == 1


@pytest.mark.parametrize("entries", [41, sparse.CHUNK_ENTRIES])
@pytest.mark.parametrize("form", FORMS)
def test_joined_files_are_what_anndata_makes_of_them(form, entries, cli, h5ad, tmp_path, monkeypatch):
    tissues = [make_raw(30, 40, seed=1), make_raw(20, 40, seed=2)[:, ::-1][:, :35].copy()]
    for tissue in tissues:
        tissue.layers["other"] = FORMS[form](dense(tissue.X) * 2)
        tissue.raw = tissue[:, :30].copy()
        tissue.X = FORMS[form](dense(tissue.X))
    tissues[0].layers["alone"] = tissues[0].X.copy()
    expected = stmcdi.join(tissues, section_key="section")
    whole = ad.concat({"1": tissues[0], "2": tissues[1]}, merge="same", index_unique="-")[:, expected.var_names]
    np.testing.assert_array_equal(dense(expected.X), dense(whole.X))
    np.testing.assert_array_equal(dense(expected.raw.X), dense(whole.raw.X))
    assert set(sparse.layers_of(expected)) == {"other"} and expected.raw.var_names.equals(whole.raw.var_names)
    monkeypatch.setattr(sparse, "CHUNK_ENTRIES", entries)
    files = [h5ad(tissue, f"{i}.h5ad") for i, tissue in enumerate(tissues)]
    assert cli("join", *files, tmp_path / "out.h5ad", "--section-key", "section").exit_code == 0
    back = ad.read_h5ad(tmp_path / "out.h5ad")
    expected.strings_to_categoricals()
    same(back, expected)
    assert isinstance(back.layers["other"], np.ndarray) == (form == "dense")
    np.testing.assert_array_equal(dense(back.raw.X), dense(expected.raw.X))


@pytest.mark.parametrize("form", FORMS)
def test_merged_files_are_whole_again(form, cli, h5ad, tmp_path, monkeypatch):
    adata = stmcdi.build_graph(stmcdi.normalize(make_raw()))
    adata.layers["imputed"], adata.raw = FORMS[form](dense(adata.X) * 2), make_raw()
    files = []
    for i in range(1, 4):
        shard = f"{i}/3"
        part = shards.cut(adata, shards.spots_of(shard, adata.n_obs))
        parameters = {"shard": shard, "device": "cpu"}
        part.uns["stmcdi"] = {**part.uns["stmcdi"], "impute": {"parameters": parameters, "version": "1"}}
        files.append(h5ad(part, f"{i}.h5ad"))
    monkeypatch.setattr(sparse, "CHUNK_ENTRIES", 41)
    assert cli("merge", *reversed(files), tmp_path / "out.h5ad").exit_code == 0
    back = ad.read_h5ad(tmp_path / "out.h5ad")
    adata.strings_to_categoricals()
    same(back, adata)
    np.testing.assert_array_equal(dense(back.raw.X), dense(adata.raw.X))
    assert back.raw.var.equals(adata.raw.var)
