import numpy as np
import pytest
import scipy.sparse as sp
import torch
from helpers import make_raw

import stmcdi_cli as stmcdi
from stmcdi_cli.baselines import base
from stmcdi_cli.errors import InputError
from stmcdi_cli.model.gene_scaler import GeneScaler, gene_mean, gene_sd


def test_the_mean_over_neighbors_heeds_what_is_seen():
    neighbors = sp.csr_matrix(np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]], np.float32))
    x = np.array([[1, 4], [3, 0], [0, 0]], np.float32)
    seen = np.array([[True, True], [True, False], [False, False]])
    mean = base.mean_over(neighbors, x, seen)
    # gene 0: mean 2, which counts as 3 neighbours; gene 1: mean 4
    np.testing.assert_allclose(mean, [[(3 + 6) / 4, 4], [(1 + 6) / 4, 4], [(4 + 6) / 5, 4]])


def test_means_and_deviations_are_of_visible_entries():
    random = np.random.default_rng(0)
    seen = random.random((50, 4)) < 0.7
    x = np.where(seen, random.normal(3, 2, seen.shape), 1e6).astype(np.float32)
    expected = [x[seen[:, j], j] for j in range(4)]
    np.testing.assert_allclose(gene_mean(x, seen), [e.mean() for e in expected], rtol=1e-5)
    np.testing.assert_allclose(gene_sd(x, seen), [e.std() for e in expected], rtol=1e-5)
    z = base.masked_tensor(GeneScaler.fit(x, seen), x, seen).numpy()
    assert (z[~seen] == 0).all()
    np.testing.assert_allclose([z[seen[:, j], j].std() for j in range(4)], 1, rtol=1e-5)


def test_the_scale_is_inverted():
    x = np.random.default_rng(1).normal(2, 3, (20, 5)).astype(np.float32)
    for power in (0, 0.5, 1):
        scaler = GeneScaler.fit(x, np.ones_like(x, bool), power)
        np.testing.assert_allclose(scaler.inverse(scaler.transform(x)), x, rtol=1e-4, atol=1e-5)


def test_the_residuals_deviation_is_found_and_few_entries_lean_on_all():
    random = np.random.default_rng(2)
    scale = np.array([1, 2, 4, 4])
    x = (random.normal(size=(4000, 4)) * scale).astype(np.float32)
    seen = np.ones_like(x, bool)
    chosen = seen.copy()
    chosen[2:, 3] = False
    sd = base.residual_sd(x, seen, np.zeros_like(x), chosen)
    np.testing.assert_allclose(sd, scale, rtol=0.15)


def test_the_validation_mask_is_of_visible_entries_and_of_the_seed():
    seen = np.random.default_rng(3).random((100, 80)) < 0.8
    one, again, other = (base.choose_entries(seen, 0.1, seed) for seed in (0, 0, 1))
    assert not (one & ~seen).any() and 0.08 < one.sum() / seen.sum() < 0.12
    assert (one == again).all() and (one != other).any()


def test_leading_directions_are_the_singular_vectors():
    random = np.random.default_rng(4)
    z = random.normal(size=(200, 3)) @ np.diag([9, 6, 4]) @ random.normal(size=(3, 60)) + random.normal(size=(200, 60))
    found = base.leading_directions(torch.tensor(z, dtype=torch.float32), 3, seed=0).numpy()
    true = np.linalg.svd(z)[2][:3].T
    assert np.linalg.svd(found.T @ true)[1].min() > 0.999


def test_the_section_is_the_graphs_unless_given(raw):
    plain = stmcdi.normalize(raw)
    by_section = stmcdi.build_graph(plain, section_key="section")
    assert set(base.DenseTissue.from_anndata(plain, None).section) == {0}
    for adata, key in ((by_section, None), (plain, "section")):
        data = base.DenseTissue.from_anndata(adata, key)
        assert set(data.section) == {0, 1}
        rows, columns = data.nearest(4).nonzero()
        assert (data.section[rows] == data.section[columns]).all()
        rows, columns = data.tissue.graph.nonzero()
        assert (data.section[rows] == data.section[columns]).all()
    with pytest.raises(InputError, match="correct the section key"):
        base.DenseTissue.from_anndata(plain, "slide")


def test_without_hides_more(raw):
    data = base.DenseTissue.from_anndata(stmcdi.normalize(raw), None)
    hidden = np.random.default_rng(5).random(data.x.shape) < 0.5
    part = data.without(hidden)
    assert not part.seen[hidden].any() and (part.seen == data.seen)[~hidden].all()
    assert (part.x[hidden] == 0).all() and (part.x == data.x)[~hidden].all()
    np.testing.assert_array_equal(part.tissue.x.toarray(), part.x)


def test_needs_coordinates_only_where_they_are_used():
    adata = stmcdi.normalize(make_raw())
    del adata.obsm["spatial"]
    data = base.DenseTissue.from_anndata(adata, None)
    assert data.tissue.graph.nnz == 0
    with pytest.raises(InputError, match="expected spot coordinates in obsm"):
        data.nearest(3)
