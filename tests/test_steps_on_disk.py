"""Every step gives the same from a file as in memory, whatever the number of spots it holds at a time."""

import json

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
from helpers import dense, make_raw, same

import stmcdi_cli as stmcdi
from stmcdi_cli import sparse

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
