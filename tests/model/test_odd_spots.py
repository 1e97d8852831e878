"""One odd spot among many changes no other spot's value by more than its own share."""

import numpy as np
import pytest
import scipy.sparse as sp

import stmcdi_cli as stmcdi
from stmcdi_cli.model.device import single_threaded
from stmcdi_cli.model.latent.factor_model import LINKS, SpatialFactorModel
from stmcdi_cli.model.tissue import Rows, Tissue

N, GENES, SPOT = 240, 60, 100


def one_count(x):
    x[SPOT] = 0
    x[SPOT, 5] = 1


def no_count(x):
    x[SPOT] = 0


def no_whole_count(x):
    x[SPOT, 7] = 3.3333


def huge_value(x):
    x[SPOT, 7] = 300.0


IN_COUNTS = (one_count, no_count)
IN_X = (no_whole_count, huge_value)


@pytest.fixture(scope="module")
def raw():
    return stmcdi.simulate(n_spots=N, n_genes=GENES, depth=600, seed=3)


def changed(adata, change):
    x = adata.X.toarray()
    change(x)
    adata = adata.copy()
    adata.X = sp.csr_matrix(x)
    return adata


def decoded(adata, link):
    """Expected expression of every spot at depth 1, from the encoder alone."""
    tissue = Tissue.from_anndata(adata)
    assert tissue.count_scale == "log1p"
    model = SpatialFactorModel(rank=6, full_depth=0.05, link=link)
    with single_threaded():
        model.fit(tissue, sweeps=10, seed=0)
        return model.decoder(np.ones(N))(model.encode(tissue).mean).numpy()


@pytest.mark.parametrize("link", LINKS)
def test_one_odd_spot_changes_little_elsewhere(raw, link):
    graph = stmcdi.build_graph(stmcdi.normalize(raw))
    near = graph.obsp["spatial_connectivities"]
    far = ~(near + near.T)[SPOT].toarray().ravel().astype(bool) & (np.arange(N) != SPOT)
    usual = decoded(graph, link)
    for change in (*IN_COUNTS, *IN_X):
        if change in IN_COUNTS:
            odd = stmcdi.build_graph(stmcdi.normalize(changed(raw, change)))
        else:
            odd = changed(graph, change)
        difference = np.abs(decoded(odd, link) - usual)[far].mean() / usual.std(0).mean()
        assert difference < 0.02, (change.__name__, difference)


@pytest.mark.parametrize("small", [0, 2**28])
def test_odd_spots_are_missing_for_the_model_in_memory_and_on_disk(raw, h5ad, monkeypatch, small):
    from stmcdi_cli.io.h5ad import open_h5ad

    monkeypatch.setattr("stmcdi_cli.model.tissue._SMALL", small)
    adata = changed(stmcdi.build_graph(stmcdi.normalize(raw)), no_whole_count)
    tissue = Tissue.from_anndata(adata)
    np.testing.assert_array_equal(np.flatnonzero(tissue.odd_spots), [SPOT])
    assert tissue.missing[[SPOT]].nnz == GENES and tissue.x[[SPOT]].nnz == 0
    with open_h5ad(h5ad(adata)) as on_disk:
        other = Tissue.from_anndata(on_disk, on_disk=True)
        assert isinstance(other.x, Rows) == (small == 0)
        spots = np.arange(90, 110)
        np.testing.assert_array_equal(other.x[spots].toarray(), tissue.x[spots].toarray())
        np.testing.assert_array_equal(other.missing[spots].toarray(), tissue.missing[spots].toarray())
        assert (other.x.nnz, other.missing.nnz) == (tissue.x.nnz, tissue.missing.nnz)


def test_odd_spots_keep_their_values_and_are_named(raw, tmp_path, caplog):
    adata = changed(stmcdi.build_graph(stmcdi.normalize(raw)), no_whole_count)
    masked, _ = stmcdi.hold_out(adata, seed=0)
    model = stmcdi.train(masked, tmp_path / "model", epochs=1)
    said = f"1 of {N} spots hold no whole counts, unlike the others ({adata.obs_names[SPOT]})"
    assert f"train: {said}" in caplog.text
    assert model.config["scale"] == "log1p" and model.config["odd_spots"] == 1
    imputed = stmcdi.impute(masked, model, n_samples=2)
    assert f"impute: {said}" in caplog.text
    assert imputed.uns["stmcdi"]["train"]["parameters"]["odd_spots"] == 1
    for result in (imputed, stmcdi.baseline(masked, method="gene-mean")):
        visible = ~masked.layers["missing"][SPOT].toarray().ravel()
        filled, given = result.layers["imputed"][SPOT].toarray().ravel(), masked.X[SPOT].toarray().ravel()
        np.testing.assert_array_equal(filled[visible], given[visible])
        assert (given[visible] > 0).any()
    assert f"baseline: {said}" in caplog.text


def test_values_on_no_scale_are_said_to_be_taken_as_gaussian(raw, tmp_path, caplog):
    adata = stmcdi.build_graph(stmcdi.normalize(raw))
    adata.X = adata.X.power(0.7)
    model = stmcdi.train(adata, tmp_path / "model", epochs=1)
    assert "X is no count on any known scale" in caplog.text and model.config["scale"] is None
    imputed = stmcdi.impute(adata, model, n_samples=2, quiet=True)
    assert imputed.uns["stmcdi"]["train"]["parameters"]["count_scale"] == "none"
    stmcdi.report(imputed, tmp_path / "report.html")
    assert "no counts on any known scale" in (tmp_path / "report.html").read_text()
