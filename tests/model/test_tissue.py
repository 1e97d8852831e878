import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
from helpers import dense, same

import stmcdi_cli as stmcdi
from stmcdi_cli.errors import InputError
from stmcdi_cli.model.scales import SCALES
from stmcdi_cli.model.tissue import Tissue


@pytest.fixture(scope="module")
def masked(tissue) -> ad.AnnData:
    masked, _ = stmcdi.hold_out(stmcdi.build_graph(stmcdi.normalize(tissue), section_key="section"), seed=0)
    return masked


def test_holds_what_the_file_holds(masked):
    t = Tissue.from_anndata(masked)
    hidden = dense(masked.layers["missing"])
    np.testing.assert_array_equal(t.x.toarray(), dense(masked.X))
    np.testing.assert_array_equal(t.missing.toarray(), hidden)
    np.testing.assert_array_equal(t.n_visible, (~hidden).sum(0))
    np.testing.assert_array_equal(t.depth, masked.obs["size_factor"])
    assert (t.n_spots, t.n_genes) == masked.shape and t.genes == tuple(masked.var_names)
    assert t.count_scale == "log1p"


@pytest.mark.parametrize("value", [7.5, np.nan, np.inf, -1.0])
def test_whatever_stands_at_missing_entries_is_dropped(masked, value):
    odd = masked.copy()
    x = dense(odd.X).copy()
    x[dense(odd.layers["missing"])] = value
    for odd.X in (x, sp.csr_matrix(x)):
        t = Tissue.from_anndata(odd)
        np.testing.assert_array_equal(t.x.toarray(), dense(masked.X))
        assert t.count_scale == "log1p"


@pytest.mark.parametrize("form", [np.asarray, sp.csr_matrix, sp.csc_matrix])
def test_any_matrix_will_do(masked, form):
    other = masked.copy()
    other.X = form(dense(masked.X))
    other.layers["missing"] = form(dense(masked.layers["missing"]))
    one, two = Tissue.from_anndata(masked), Tissue.from_anndata(other)
    np.testing.assert_array_equal(one.x.toarray(), two.x.toarray())
    np.testing.assert_array_equal(one.missing.toarray(), two.missing.toarray())


def test_the_file_is_not_changed(masked):
    """Not even where it stores zeros, self-loops or unsorted rows."""
    odd = masked.copy()
    x = sp.csr_matrix(dense(masked.X))
    x.data[:5] = 0
    reverse = np.concatenate([np.arange(a, b)[::-1] for a, b in zip(x.indptr, x.indptr[1:], strict=False)])
    odd.X = sp.csr_matrix((x.data[reverse], x.indices[reverse], x.indptr), shape=x.shape)
    graph = sp.csr_matrix(odd.obsp["spatial_connectivities"], dtype=np.float32).tolil()
    graph.setdiag(1)
    odd.obsp["spatial_connectivities"] = graph.tocsr()
    del odd.layers["missing"]
    before, stored = odd.copy(), odd.X.data.copy()
    Tissue.from_anndata(odd)
    same(odd, before)
    np.testing.assert_array_equal(odd.X.data, stored)


def test_a_spot_is_no_neighbour_of_itself(masked):
    odd = masked.copy()
    odd.obsp["spatial_connectivities"] = sp.csr_matrix(dense(odd.obsp["spatial_connectivities"]) + np.eye(odd.n_obs))
    graph = Tissue.from_anndata(odd).graph
    assert graph.diagonal().max() == 0
    np.testing.assert_array_equal(graph.toarray(), Tissue.from_anndata(masked).graph.toarray())


def test_without_size_factors_all_spots_are_equally_deep(tissue):
    adata = stmcdi.build_graph(stmcdi.normalize(tissue, skip=True))
    t = Tissue.from_anndata(adata)
    assert (t.depth == 1).all() and t.count_scale == "counts" and t.missing.nnz == 0


def test_empty_spots_have_a_depth_above_zero(masked):
    odd = masked.copy()
    odd.obs["size_factor"] = odd.obs["size_factor"].to_numpy() * (np.arange(odd.n_obs) > 0)
    odd.X = sp.csr_matrix(dense(odd.X) * (np.arange(odd.n_obs) > 0)[:, None])
    t = Tissue.from_anndata(odd)
    assert t.depth.min() > 0 and t.count_scale == "log1p"


@pytest.mark.parametrize("scale", SCALES)
def test_counts_are_those_the_values_came_from(tissue, scale):
    options = {"log1p": {}, "linear": {"log": False}, "counts": {"skip": True}}[scale]
    t = Tissue.from_anndata(stmcdi.build_graph(stmcdi.normalize(tissue, **options)))
    assert t.count_scale == scale
    np.testing.assert_array_equal(t.counts().toarray(), dense(tissue.X))


def test_hiding_more_takes_the_values_with_it(masked):
    t = Tissue.from_anndata(masked)
    more = sp.csr_matrix((np.random.default_rng(0).random(t.x.shape) < 0.3) & ~t.missing.toarray())
    less = t.without(more)
    np.testing.assert_array_equal(less.missing.toarray(), (t.missing + more).toarray())
    np.testing.assert_array_equal(less.x.toarray(), np.where(more.toarray(), 0, t.x.toarray()))
    assert less.count_scale == t.count_scale and less.x.data.all()


def test_no_graph_is_refused_with_the_remedy(masked):
    odd = masked.copy()
    del odd.obsp["spatial_connectivities"]
    with pytest.raises(InputError, match="run `stmcdi build-graph` first"):
        Tissue.from_anndata(odd)


def test_graphs_that_are_no_graph_are_refused(masked):
    for key, message in (("connectivities", "negative weights"), ("distances", "NaN, infinite or negative values")):
        odd = masked.copy()
        odd.obsp[f"spatial_{key}"] = sp.csr_matrix(-1 * odd.obsp[f"spatial_{key}"])
        with pytest.raises(InputError, match=rf"obsp\['spatial_{key}'\] has {message}; run `stmcdi build-graph` again"):
            Tissue.from_anndata(odd)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_visible_values_that_are_no_numbers_are_refused(masked, value):
    odd = masked.copy()
    x = dense(odd.X).copy()
    x[tuple(np.argwhere(~dense(odd.layers["missing"]))[0])] = value
    odd.X = x
    with pytest.raises(InputError, match="NaN or infinite"):
        Tissue.from_anndata(odd)


def test_negative_values_are_refused(masked):
    """Scaled or centred values: a model that never draws below zero cannot be meant for them."""
    odd = masked.copy()
    odd.X = dense(odd.X) - 1
    with pytest.raises(InputError, match="negative"):
        Tissue.from_anndata(odd)
