from contextlib import nullcontext

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
import torch

import stmcdi_cli as stmcdi
from stmcdi_cli import anndata_keys as keys
from stmcdi_cli.model.latent import field_variance, spatial_field, spatial_graph
from stmcdi_cli.model.latent.field_by_parts import by_parts
from stmcdi_cli.model.latent.field_evidence import FieldEvidence
from stmcdi_cli.model.latent.field_fit import FieldFit
from stmcdi_cli.model.latent.gaussian import LatentPosterior, pack
from stmcdi_cli.model.latent.spatial_field import FieldParameters, SpatialField
from stmcdi_cli.model.latent.spatial_graph import RANGES, SpatialGraph

SIDE = 24
N = SIDE * SIDE


def grid(side=SIDE):
    """Graph of a square grid: up to four neighbours each."""
    line = sp.diags([np.ones(side - 1)] * 2, [-1, 1])
    return sp.csr_matrix(sp.kron(sp.eye(side), line) + sp.kron(line, sp.eye(side)), dtype=np.float32)


def parameters(graph, ranges=(4.0,), variance=0.8, nugget=0.2):
    """Of fields with some ranges, each with the variance asked for on this graph."""
    one = torch.ones(len(ranges))
    start = FieldParameters(torch.tensor(ranges), variance * one, one, nugget * one, 0.3 * one)
    scale = [graph.scales[list(RANGES).index(each)] for each in ranges]
    return start._replace(scale=torch.tensor(scale, dtype=torch.float32))


def covariance(field, factor=0):
    """Dense prior covariance of the field of one factor at the spots that have neighbours."""
    n, rank = len(field.graph.connected), len(field.parameters.range)
    columns = np.zeros((n, n))
    for i in range(n):
        values = np.zeros((n, rank), np.float32)
        values[i, factor] = 1
        columns[i] = field.precision(values)[:, factor]
    return np.linalg.inv(columns)


@pytest.fixture(scope="module")
def field():
    graph = SpatialGraph(grid())
    return SpatialField(graph, parameters(graph, (4.0, 8.0)))


def middle():
    return SIDE // 2 * SIDE + SIDE // 2


def test_correlations_are_those_of_a_matern_field(field):
    """At the range, the correlation of Matern's covariance with smoothness 1 is sqrt(8) K_1(sqrt(8)) = 0.139."""
    for factor, steps in ((0, 4), (1, 8)):
        full = covariance(field, factor)
        at = middle()
        correlation = full[at, at + steps] / np.sqrt(full[at, at] * full[at + steps, at + steps])
        assert correlation == pytest.approx(0.139, abs=0.04)
        np.testing.assert_allclose(np.diag(full).mean(), 0.8, rtol=0.1)


def test_the_variance_is_nearly_the_same_everywhere(field):
    variance = np.diag(covariance(field))
    assert 0.6 < variance.min() and variance.max() < 1.5


def test_a_spot_without_neighbours_and_a_pair_have_the_variance_of_the_others():
    """Without the term for absent neighbours the variance would be 4 pi / kappa^2 = 25 times that of others."""
    extra = sp.lil_matrix((N + 3, N + 3), dtype=np.float32)
    extra[:N, :N] = grid()
    extra[N, N + 1] = extra[N + 1, N] = 1
    graph = SpatialGraph(extra.tocsr())
    field = SpatialField(graph, parameters(graph))
    pair, alone = np.diag(covariance(field))[N:], 1 / field.q_diagonal[N + 2]
    assert np.all((0.3 < pair) & (pair < 1.6)) and 0.3 < alone < 1.6
    assert graph.n_components == 3


def test_a_solution_is_that_of_the_dense_system(field):
    random = np.random.default_rng(0)
    weight = np.where(random.random((N, 2)) < 0.3, 0, 5 * random.random((N, 2))).astype(np.float32)
    information = random.normal(size=(N, 2)).astype(np.float32) * weight
    found = field.solve(lambda values: weight * values, weight, information, tolerance=1e-5)
    for factor in range(2):
        dense = np.linalg.inv(covariance(field, factor)) + np.diag(weight[:, factor])
        exact = np.linalg.solve(dense, information[:, factor])
        np.testing.assert_allclose(found[:, factor], exact, atol=2e-3)
    again = field.solve(lambda values: weight * values, weight, information, start=found, tolerance=1e-3)
    assert np.array_equal(again, found)  # nothing is left to do


def variance_by_parts(field, weight):
    """Variance of the field at each spot of a graph without lone spots."""
    ranges, tau = field.parameters.range.double().numpy(), field._tau.astype(np.float64)
    n, rank = weight.shape
    nothing = np.zeros((n, rank), np.float32), FieldEvidence(torch.eye(rank).expand(n, -1, -1), torch.ones(rank))
    everywhere = np.ones(weight.shape, dtype=bool)
    variance, correction = by_parts(field.graph, everywhere, ranges, tau, weight, *nothing)
    assert not correction.any()
    return variance


@pytest.mark.parametrize("by", ["factors", "one part", "parts", "conjugate gradients"])
def test_variances_grow_into_a_hole(field, by, monkeypatch):
    if by == "parts":
        monkeypatch.setattr(spatial_graph, "_PART_SPOTS", 100)
        monkeypatch.setattr(spatial_graph, "_SURROUNDINGS", 5)
    row, column = np.divmod(np.arange(N), SIDE)
    distance = np.hypot(row - SIDE // 2, column - SIDE // 2)
    weight = np.repeat(np.where(distance < 5, 0.0, 4.0)[:, None], 2, axis=1).astype(np.float32)
    with field.direct_solvers(weight) if by == "factors" else nullcontext() as solvers:
        variance = (
            variance_by_parts(field, weight) if "part" in by else field.posterior_variance(weight, solvers=solvers)
        )
    found = field.conditional_variance(weight, variance)
    for factor in range(2):
        exact = np.diag(np.linalg.inv(np.linalg.inv(covariance(field, factor)) + np.diag(weight[:, factor])))
        hidden = distance < 5
        ratio = (found[hidden, factor] - 0.2) / exact[hidden]
        assert ratio.mean() == pytest.approx(1, abs=0.25)  # 24 draws, alike at neighbours
        assert ratio.std() < 0.45
        rings = [found[(low <= distance) & (distance < low + 2.5), factor].mean() for low in (0, 2.5, 5)]
        assert rings == sorted(rings, reverse=True)
        beside = found[distance > 7, factor]
        assert beside.mean() == pytest.approx(0.5, abs=0.1)  # the usual value, 0.3 + 0.2
        assert beside.std() < 0.1


def test_variances_by_parts_are_exact_in_a_hole(monkeypatch):
    """Of a field that reaches far, where conjugate gradients leave out much of it on a large tissue."""
    monkeypatch.setattr(field_variance, "_SAMPLES", 400)
    monkeypatch.setattr(spatial_graph, "_PART_SPOTS", 500)
    side = 44
    graph = SpatialGraph(grid(side))
    field = SpatialField(graph, parameters(graph, ranges=(12.0,)))
    row, column = np.divmod(np.arange(side * side), side)
    hidden = np.hypot(row - side // 2, column - side // 2) < 8  # in several parts
    weight = np.where(hidden, 0.0, 1.0)[:, None].astype(np.float32)
    assert sum(hidden[part.spots[part.own]].any() for part in graph.parts) > 1
    with field.direct_solvers(weight) as solvers:
        exact = field.posterior_variance(weight, solvers=solvers)[:, 0]
    ratio = variance_by_parts(field, weight)[:, 0] / exact
    assert ratio[hidden].mean() == pytest.approx(1, abs=0.05) and ratio[~hidden].mean() == pytest.approx(1, abs=0.03)
    assert ratio.std() < 0.15  # of two times 400 draws: 0.1


@pytest.mark.parametrize("method", ["knn", "delaunay", "radius"])
def test_every_kind_of_graph_gives_the_same_field(method, field):
    """A smooth function, hidden in a hole, is filled in alike, whatever the graph of the same spots."""
    row, column = np.divmod(np.arange(N), SIDE)
    adata = ad.AnnData(sp.csr_matrix((N, 2), dtype=np.float32))
    adata.obsm["spatial"] = 55.0 * np.stack([row, column], axis=1)
    options = {"knn": {"n_neighbors": 8}, "radius": {"radius": 115.0}}.get(method, {})
    built = stmcdi.build_graph(adata, method=method, **options)
    graph = SpatialGraph(built.obsp[keys.CONNECTIVITIES], sp.csr_matrix(built.obsp[keys.DISTANCES]))
    truth = np.sin(row / 4) + np.cos(column / 5)
    hidden = np.hypot(row - SIDE // 2, column - SIDE // 2) < 3.5
    weight = np.where(hidden, 0, 20.0)[:, None].astype(np.float32)
    other = SpatialField(graph, parameters(graph))
    mean = other.solve(lambda values: weight * values, weight, weight * truth[:, None].astype(np.float32))[:, 0]
    reference = SpatialField(field.graph, parameters(field.graph))
    usual = reference.solve(lambda values: weight * values, weight, weight * truth[:, None].astype(np.float32))[:, 0]
    assert np.corrcoef(mean[hidden], usual[hidden])[0, 1] > 0.97
    assert np.abs(mean - usual)[hidden].max() < 0.35


def test_a_spot_without_neighbours_has_the_posterior_of_its_own_entries():
    """In closed form, beside a tissue that is solved for by iteration."""
    graph = SpatialGraph(sp.block_diag([grid(10), sp.csr_matrix((3, 3))], format="csr"))
    field = SpatialField(graph, parameters(graph, (4.0, 8.0)))
    random = np.random.default_rng(0)
    half = torch.from_numpy(random.normal(size=(103, 2, 2))).float()
    precision = half @ half.mT + torch.eye(2)
    information = torch.from_numpy(random.normal(size=(103, 2))).float()
    nugget = field.parameters.nugget
    smooth, latents = field.fields_and_latents(
        FieldEvidence(torch.linalg.inv(precision + torch.diag(1 / nugget)), 1 / nugget), information
    )
    prior = 1 / torch.from_numpy(field.q_diagonal[100:])
    expected = torch.linalg.solve(precision[100:] + torch.diag_embed(1 / (prior + nugget)), information[100:])
    torch.testing.assert_close(latents[100:], expected)
    torch.testing.assert_close(smooth[100:], prior / (prior + nugget) * expected)
    weight = np.ones((103, 2), np.float32)
    np.testing.assert_allclose(field.posterior_variance(weight)[100:], 1 / (1 / prior + 1))


def test_parts_of_a_graph_have_no_effect_on_each_other():
    both = sp.block_diag([grid(10), grid(10)], format="csr").astype(np.float32)
    graph = SpatialGraph(both)
    field = SpatialField(graph, parameters(graph))
    weight = np.ones((200, 1), np.float32)
    information = np.random.default_rng(0).normal(size=(200, 1)).astype(np.float32)
    first = field.solve(lambda values: weight * values, weight, information)
    information[100:] *= 50
    second = field.solve(lambda values: weight * values, weight, information)
    assert first[:100].tobytes() == second[:100].tobytes()


@pytest.mark.parametrize("size", [0.0, 1e-19, 1e-30, 1e15])
def test_numbers_of_any_size_are_solved_for(field, size):
    weight = np.ones((N, 2), np.float32)
    information = np.full((N, 2), size, np.float32)
    found = field.solve(lambda values: weight * values, weight, information)
    assert np.isfinite(found).all() and (found <= size * 1.1).all()


def test_graphs_that_people_have():
    """Directed, without edges, with spots in one place, with distances that differ by 10,000."""
    directed = sp.csr_matrix(([1.0, 1.0], ([0, 1], [1, 2])), shape=(4, 4), dtype=np.float32)
    graph = SpatialGraph(directed)
    assert (graph.weights != graph.weights.T).nnz == 0 and graph.weights.nnz == 4
    together = SpatialGraph(directed, sp.csr_matrix(([0.0, 3.0], ([0, 1], [1, 2])), shape=(4, 4)))
    assert together.weights.nnz == 4 and np.isfinite(together.weights.data).all()
    far = SpatialGraph(directed, sp.csr_matrix(([1.0, 1e4], ([0, 1], [1, 2])), shape=(4, 4)))
    assert far.area.max() <= 10 and far.weights[1, 2] < far.weights[0, 1]
    for graph in (together, far, SpatialGraph(sp.csr_matrix((5, 5), dtype=np.float32))):
        field = SpatialField(graph, parameters(graph))
        one = torch.ones(len(graph.area), 1)
        entries = FieldEvidence(0.1 * one[..., None], 1 / field.parameters.nugget)
        assert all(torch.isfinite(part).all() for part in field.fields_and_latents(entries, one))
        with field.direct_solvers(one.numpy()) as solvers:
            variance = field.posterior_variance(one.numpy(), solvers=solvers)
        assert np.isfinite(field.conditional_variance(one.numpy(), variance)).all()


@pytest.mark.parametrize(("true_range", "nugget"), [(3.0, 0.06), (8.0, 0.45)])
def test_range_and_nugget_are_found_again(true_range, nugget):
    graph = SpatialGraph(grid(28))
    n = 28 * 28
    random = np.random.default_rng(1)
    true = parameters(graph, (true_range,), variance=1 - nugget, nugget=nugget)
    root = np.linalg.cholesky(covariance(SpatialField(graph, true)) + nugget * np.eye(n))
    noise = 0.1
    y = root @ random.normal(size=(n, 1)) + np.sqrt(noise) * random.normal(size=(n, 1))
    fit = FieldFit(graph)
    found = fit.first(1)
    for _ in range(6):
        variance = found.conditional_variance
        posterior = 1 / (1 / variance + 1 / noise)
        mean = torch.from_numpy(y).float() / noise * posterior  # under the prior mean 0
        prior_variance = variance.expand_as(mean)
        at_field = mean - found.nugget / variance * mean
        packed = pack(torch.full((n, 1, 1), float(posterior)))
        found = fit.improve(found, LatentPosterior(mean, packed, at_field, prior_variance))
    assert true_range / 1.6 < float(found.range) < true_range * 1.6
    assert abs(float(found.nugget) - nugget) < 0.15


def test_a_single_odd_spot_has_no_factor_of_its_own():
    """Where one spot has a latent of 12 and all others none, the prior leaves that spot little room."""
    graph = SpatialGraph(grid(15))
    fit = FieldFit(graph)
    found = fit.first(1)
    mean = torch.zeros(225, 1)
    mean[112] = 12
    for _ in range(4):
        variance = found.conditional_variance
        packed = pack(torch.full((225, 1, 1), 0.001))
        found = fit.improve(found, LatentPosterior(mean, packed, mean, variance.expand_as(mean)))
    assert float(found.variance + found.nugget) < 0.2  # without the limit, 0.7


def test_factors_and_iterations_give_the_same_posterior(monkeypatch):
    """Large tissues, and graphs of many neighbours, are solved by iteration: the factors would take too much memory."""
    random = np.random.default_rng(0)
    information = torch.from_numpy(random.normal(size=(N, 2))).float()
    seen = random.random(N) < 0.7
    information[~seen] = 0
    precision = torch.from_numpy(np.where(seen, 4.0, 0)).float()[:, None, None] * torch.eye(2)
    found = []
    for most, each in ((spatial_graph._MOST_WALKS, spatial_graph._WALKS_EACH), (0, spatial_graph._WALKS_EACH), (0, 0)):
        monkeypatch.setattr(spatial_graph, "_MOST_WALKS", most)
        monkeypatch.setattr(spatial_graph, "_WALKS_EACH", each)
        edges = grid().tolil()
        edges[[0, 300]] = edges[:, [0, 300]] = 0  # two spots without neighbours
        graph = SpatialGraph(sp.csr_matrix(edges))
        assert (graph.has_small_factors, graph.has_few_neighbors) == (most > 0, each > 0)
        field = SpatialField(graph, parameters(graph, (4.0, 8.0)))
        found.append(field.posterior(lambda spots: (precision[spots], information[spots]), N, own_variance=True))
    for name in ("mean", "field", "prior_variance"):
        exact, *others = (getattr(latents, name) for latents in found)
        for other in others:
            torch.testing.assert_close(other, exact, rtol=0.02, atol=0.01)


@pytest.mark.parametrize("by", ["factors", "parts", "conjugate gradients"])
def test_only_holes_have_variances_of_their_own(by, monkeypatch):
    """Of the factor whose entries are missing there; elsewhere the variance is the average, without noise of draws."""
    monkeypatch.setattr(spatial_graph, "_MOST_WALKS", 10**9 if by == "factors" else 0)
    monkeypatch.setattr(spatial_graph, "_WALKS_EACH", 100 if by == "parts" else 0)
    monkeypatch.setattr(spatial_graph, "_PART_SPOTS", 100)
    monkeypatch.setattr(spatial_graph, "_SURROUNDINGS", 3)
    graph = SpatialGraph(sp.block_diag([grid(), sp.csr_matrix((2, 2))], format="csr"))
    field = SpatialField(graph, parameters(graph, (8.0, 8.0)))
    usual = field.parameters.conditional_variance
    row, column = np.divmod(np.arange(N), SIDE)
    distance = np.append(np.hypot(row - SIDE // 2, column - SIDE // 2), [99, 99])
    seen = np.ones((N + 2, 2))
    seen[distance < 5, 1] = 0  # genes of the second factor alone
    precision = torch.from_numpy(4 * seen).float().diag_embed()
    information = torch.from_numpy(seen).float()

    def prior_variance():
        return field.posterior(
            lambda spots: (precision[spots], information[spots]), N + 2, own_variance=True
        ).prior_variance

    found = prior_variance()
    assert (found[:N, 0] == usual[0]).all()
    far = distance > 7
    assert (found[:N][far[:N], 1] == usual[1]).all()
    assert found[distance < 3, 1].mean() > 1.3 * usual[1]
    whole = field.parameters.variance + field.parameters.nugget
    torch.testing.assert_close(found[N:], whole.expand(2, -1), rtol=0.1, atol=0)  # without neighbours
    precision[:] = 4 * torch.eye(2)
    monkeypatch.setattr(SpatialField, "direct_solvers", None)  # without holes there is nothing to factorise
    monkeypatch.setattr(spatial_field, "by_parts", None)
    assert (prior_variance()[:N] == usual).all()


@pytest.mark.parametrize("holes", [0.2, 0.6])
def test_missing_spots_are_holes_where_many_lie_together(holes):
    """Single missing spots are none: their neighbours say as much as those of others. Shallow spots are not missing."""
    random = np.random.default_rng(0)
    field = SpatialField(SpatialGraph(grid()), parameters(SpatialGraph(grid())))
    row, column = np.divmod(np.arange(N), SIDE)
    weight = random.gamma(2, 0.5, size=(N, 1)).astype(np.float32)  # depth differs from spot to spot
    assert not field.holes(weight).any()
    single = weight.copy()
    single[(row % 3 == 1) & (column % 3 == 1)] = 0
    assert not field.holes(single).any()
    hidden = row < holes * SIDE
    found = field.holes(np.where(hidden[:, None], 0, weight))[:, 0]
    assert found[row < holes * SIDE - 1].all() and not found[row > holes * SIDE + 2].any()
    assert not field.holes(np.zeros_like(weight)).any()  # nothing is known: the average is the prior's


def test_means_reach_into_a_large_hole_of_a_large_tissue(monkeypatch):
    """Of a field that reaches far, where conjugate gradients from 0 stop with a third of the mean missing."""
    side, found = 220, {}
    row, column = np.divmod(np.arange(side * side), side)
    hidden = np.hypot(row - 97, column - 113) < 25  # in several parts
    information = torch.from_numpy(np.where(hidden, 0, 2 * (np.sin(column / 20) + np.cos(row / 15)))[:, None]).float()
    information = information.expand(-1, 2)
    precision = torch.from_numpy(np.where(hidden, 0.0, 2.0)[:, None, None]).float() * torch.eye(2)
    limits = {"exact": (10**9, 100), "parts": (0, 100), "conjugate gradients": (0, 0)}
    for by, (most, each) in limits.items():
        monkeypatch.setattr(spatial_graph, "_MOST_WALKS", most)
        monkeypatch.setattr(spatial_graph, "_WALKS_EACH", each)
        graph = SpatialGraph(grid(side))
        field = SpatialField(graph, parameters(graph, (4.0, 32.0)))
        posterior = field.posterior(lambda spots: (precision[spots], information[spots]), len(row), own_variance=True)
        found[by] = posterior.field[torch.from_numpy(hidden), 1]
    assert sum(hidden[part.spots[part.own]].any() for part in graph.parts) > 1
    left = {by: float((mean - found["exact"]).norm() / found["exact"].norm()) for by, mean in found.items()}
    assert left["parts"] < 0.1 and left["conjugate gradients"] > 0.3, left


def test_a_graph_of_many_neighbours_has_no_small_factors():
    everyone = sp.csr_matrix(np.ones((150, 150)) - np.eye(150))
    assert not SpatialGraph(everyone).has_small_factors and SpatialGraph(grid()).has_small_factors
