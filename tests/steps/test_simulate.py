import numpy as np
import pytest
from helpers import dense, same

import stmcdi_cli as stmcdi
from stmcdi_cli.errors import InputError
from stmcdi_cli.steps.simulate import SPACING


@pytest.fixture(scope="module")
def usual():
    return stmcdi.simulate(n_spots=1500)


def test_the_same_seed_gives_the_same_tissue_and_another_seed_another(tissue):
    again = stmcdi.simulate(n_spots=200, n_genes=150, n_sections=2, depth=400, seed=1)
    same(tissue, again)
    other = stmcdi.simulate(n_spots=200, n_genes=150, n_sections=2, depth=400, seed=2)
    assert (dense(tissue.X) != dense(other.X)).any()


def test_defaults_look_like_real_data(usual):
    nonzero = usual.X.nnz / np.prod(usual.shape)
    assert 0.10 < nonzero < 0.20
    totals = dense(usual.X).sum(1)
    assert abs(np.median(totals) - 600) < 30
    assert np.percentile(totals, 95) > 2 * np.percentile(totals, 5)
    assert usual.X.format == "csr" and usual.X.dtype == np.float32
    assert (usual.X.data == np.rint(usual.X.data)).all()


def test_counts_scatter_around_the_rates_as_a_negative_binomial_does(usual):
    rate, counts = usual.layers["rates"].astype(float), dense(usual.X)
    assert usual.layers["rates"].dtype == np.float32
    deviation = counts - rate
    assert abs(deviation.sum() / counts.sum()) < 0.01
    for low, high in ((0.05, 0.2), (0.5, 2), (3, 10)):
        at = (low < rate) & (rate < high)
        expected = (rate + 0.2 * rate**2)[at].mean()
        assert (deviation[at] ** 2).mean() == pytest.approx(expected, rel=0.1)


def test_no_dispersion_is_poisson():
    adata = stmcdi.simulate(n_spots=500, n_genes=300, dispersion=0)
    rate = adata.layers["rates"].astype(float)
    assert (((dense(adata.X) - rate) ** 2).sum() / rate.sum()) == pytest.approx(1, rel=0.03)


def test_rates_have_the_rank_of_the_programmes_around_the_gene_means(usual):
    log_rate = np.log(usual.layers["rates"].astype(float))
    log_rate -= log_rate.mean(1, keepdims=True)  # library size
    log_rate -= log_rate.mean(0)
    singular = np.linalg.svd(log_rate, compute_uv=False)
    assert singular[7] > 1000 * singular[8]


def test_activities_are_smooth_over_the_tissue_and_follow_domains(usual):
    graph = stmcdi.build_graph(usual, method="grid").obsp["spatial_connectivities"].tocoo()
    activity = usual.obsm["programmes"]
    between_neighbours = np.mean((activity[graph.row] - activity[graph.col]) ** 2)
    shuffled = np.random.default_rng(0).permutation(graph.col)
    assert between_neighbours < 0.2 * np.mean((activity[graph.row] - activity[shuffled]) ** 2)
    domain = usual.obs["domain"].cat.codes.to_numpy()
    assert (domain[graph.row] == domain[graph.col]).mean() > 0.85
    assert usual.obs["domain"].nunique() > 1


def test_sections_overlap_on_a_hexagonal_grid(tissue):
    assert list(tissue.obs["section"].value_counts()) == [100, 100]
    xy = tissue.obsm["spatial"]
    np.testing.assert_array_equal(xy[:100], xy[100:])
    graph = stmcdi.build_graph(tissue, method="grid", section_key="section")
    degree = np.diff(graph.obsp["spatial_connectivities"].indptr)
    assert degree.max() == 6 and np.median(degree) == 6
    nearest = np.sort(np.linalg.norm(xy[:100, None] - xy[None, :100], axis=2), axis=1)[:, 1]
    np.testing.assert_allclose(nearest, SPACING)


def test_neighbouring_sections_resemble_each_other(tissue):
    activity = tissue.obsm["programmes"]
    assert np.corrcoef(activity[:100].ravel(), activity[100:].ravel())[0, 1] > 0.5
    assert (activity[:100] != activity[100:]).any()


def test_rates_can_be_left_out():
    whole = stmcdi.simulate(n_spots=2100, n_genes=20)
    assert whole.shape == (2100, 20)
    lean = stmcdi.simulate(n_spots=2100, n_genes=20, rates=False)
    assert "rates" not in lean.layers
    np.testing.assert_array_equal(dense(whole.X), dense(lean.X))


@pytest.mark.parametrize(
    "option",
    [{"n_spots": 1, "n_sections": 2}, {"n_genes": 0}, {"depth": 0}, {"dispersion": -1}, {"seed": -1}, {"n_domains": 0}],
)
def test_options_out_of_range_are_refused(option):
    with pytest.raises(InputError, match="expected"):
        stmcdi.simulate(**option)
