import numpy as np
import pytest
import scipy.sparse as sp

import stmcdi_cli as stmcdi
from stmcdi_cli.model.tissue import Tissue, graph_of
from stmcdi_cli.model.training import patches as module
from stmcdi_cli.model.training.patches import patches


@pytest.fixture(scope="module")
def adata():
    """Two sections, the second a fifth of the first; a spot without neighbours."""
    raw = stmcdi.simulate(n_spots=4000, n_genes=12, n_sections=2, depth=40, seed=0)
    raw = raw[(raw.obs["section"].cat.codes == 0) | (np.arange(4000) % 5 == 0)].copy()
    made = stmcdi.build_graph(stmcdi.normalize(raw), section_key="section")
    graph = made.obsp["spatial_connectivities"].tolil()
    graph[7] = graph[:, 7] = 0
    made.obsp["spatial_connectivities"] = sp.csr_matrix(graph)
    return made


@pytest.mark.parametrize("n", [1, 50, 700, 2390])
def test_as_many_as_asked_for_each_once(adata, monkeypatch, n):
    monkeypatch.setattr(module, "SIZE", 100)
    chosen = patches(graph_of(adata), n, seed=3)
    assert len(chosen) == n and (np.diff(chosen) > 0).all() and chosen[0] >= 0 and chosen[-1] < adata.n_obs


def test_all_where_there_are_no_more(adata):
    np.testing.assert_array_equal(patches(graph_of(adata), adata.n_obs, seed=0), np.arange(adata.n_obs))


def test_the_seed_decides(adata):
    one, again, other = (patches(graph_of(adata), 300, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)


def test_neighbours_come_along_from_every_section(adata, monkeypatch):
    monkeypatch.setattr(module, "SIZE", 100)
    graph = graph_of(adata)
    chosen = patches(graph, 600, seed=0)
    kept = graph[chosen][:, chosen].sum() / graph[chosen].sum()
    alone = np.sort(np.random.default_rng(0).permutation(adata.n_obs)[:600])
    assert kept > 0.7 > 2 * graph[alone][:, alone].sum() / graph[alone].sum()
    sections = adata.obs["section"].cat.codes.to_numpy()
    assert (sections[chosen] == 1).mean() == pytest.approx((sections == 1).mean(), abs=0.1)


def test_a_tissue_of_some_spots_is_that_of_the_file_cut_to_them(adata, tmp_path):
    from stmcdi_cli.io.h5ad import open_h5ad

    adata.write_h5ad(tmp_path / "a.h5ad")
    chosen = patches(graph_of(adata), 500, seed=0)
    expected = Tissue.from_anndata(adata[chosen].copy())
    with open_h5ad(tmp_path / "a.h5ad") as on_disk:
        for found in (Tissue.from_anndata(adata, chosen), Tissue.from_anndata(on_disk, chosen)):
            assert (found.x != expected.x).nnz == (found.missing != expected.missing).nnz == 0
            assert (found.graph != expected.graph).nnz == 0
            np.testing.assert_array_equal(found.depth, expected.depth)
            assert (found.count_scale, found.genes) == (expected.count_scale, expected.genes)


def test_a_large_tissue_is_learnt_from_patches_and_imputed_whole(adata, tmp_path, monkeypatch, caplog):
    import yaml

    masked, truth = stmcdi.hold_out(adata, seed=0)
    safe_load = yaml.safe_load

    def fewer(text):
        config = safe_load(text)
        config["training"]["spots"] = 400
        return config

    monkeypatch.setattr(yaml, "safe_load", fewer)
    model = stmcdi.train(masked, tmp_path / "model", epochs=2, device="cpu")
    assert f"400 spots of {adata.n_obs}, in patches, x 12 genes" in caplog.text
    imputed = stmcdi.impute(masked, model, n_samples=4, device="cpu", quiet=True)
    assert imputed.shape == adata.shape and stmcdi.evaluate(imputed, truth)["skill"] > 0
