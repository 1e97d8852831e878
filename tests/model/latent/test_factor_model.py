from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from stmcdi_cli.model.latent.count_moments import CountTable
from stmcdi_cli.model.latent.factor_model import SpatialFactorModel
from stmcdi_cli.model.latent.spatial_field import SpatialField
from stmcdi_cli.model.tissue import Tissue

RANK, SIDE, GENES = 4, 20, 120
N = SIDE * SIDE


def grid(side):
    """Up to four neighbours each."""
    line = sp.diags([np.ones(side - 1)] * 2, [-1, 1])
    graph = sp.kron(sp.eye(side), line) + sp.kron(line, sp.eye(side))
    return sp.csr_matrix(graph, dtype=np.float32)


def make_tissue(x, missing, graph, depth, scale="log1p"):
    return Tissue(
        x=sp.csr_matrix(np.where(missing, 0, x).astype(np.float32)),
        missing=sp.csr_matrix(missing),
        graph=graph,
        depth=depth,
        count_scale=scale,
        genes=tuple(f"g{i}" for i in range(x.shape[1])),
        odd_spots=np.zeros(len(x), bool),
    )


@pytest.fixture(scope="module")
def drawn():
    """Data drawn from the model itself: rates linear in latents that are smooth over a grid, Poisson counts."""
    random = np.random.default_rng(0)
    graph = grid(SIDE)
    mean = sp.diags(1 / np.asarray(graph.sum(1)).ravel()) @ graph
    z = sp.linalg.spsolve(sp.csc_matrix(sp.eye(N) - 0.97 * mean), random.normal(size=(N, RANK)))
    z /= z.std(0)
    w = random.normal(0, 0.25, (GENES, RANK))
    rate = np.exp(random.normal(0.3, 1, GENES))
    depth = random.gamma(6, 1 / 6, N)
    truth = depth[:, None] * rate * np.clip(1 + z @ w.T, 0.02, None)
    x = np.log1p(random.poisson(truth) / depth[:, None])
    missing = random.random(x.shape) < 0.2
    table = CountTable("log1p", 0.0, depth, 2 * truth.max())
    expected, _, _ = table.moments(depth, np.log(truth))
    data = make_tissue(x, missing, graph, depth)
    model = SpatialFactorModel(rank=RANK + 2, full_depth=0.25)
    model.fit(data, sweeps=30, seed=0)
    return SimpleNamespace(data=data, x=x, missing=missing, expected=expected, model=model)


def skill(prediction, x, missing):
    seen = np.ma.masked_array(x, missing)
    guess = np.broadcast_to(seen.mean(0).filled(0), x.shape)
    return 1 - ((prediction - x)[missing] ** 2).mean() / ((guess - x)[missing] ** 2).mean()


def decode(model, data):
    model.use_tissue(data)
    return model.decoder(data.depth)(model.encode(data).mean).numpy()


def test_hidden_entries_are_predicted_nearly_as_well_as_by_the_truth(drawn):
    ceiling = skill(drawn.expected, drawn.x, drawn.missing)
    reached = skill(decode(drawn.model, drawn.data), drawn.x, drawn.missing)
    assert ceiling > 0.2  # there is something to find
    assert 0.85 * ceiling < reached < 1.02 * ceiling


def test_the_graph_helps(drawn):
    """Without neighbours the same data say less."""
    alone = replace(drawn.data, graph=sp.csr_matrix((N, N), dtype=np.float32))
    model = SpatialFactorModel(rank=RANK + 2, full_depth=0.25)
    model.fit(alone, sweeps=30, seed=0)
    by_itself = skill(decode(model, alone), drawn.x, drawn.missing)
    assert 0 < by_itself < skill(decode(drawn.model, drawn.data), drawn.x, drawn.missing)


def test_nothing_to_find_gives_the_gene_mean():
    random = np.random.default_rng(1)
    depth = random.gamma(6, 1 / 6, N)
    x = np.log1p(random.poisson(depth[:, None] * np.exp(random.normal(0, 1, GENES))) / depth[:, None])
    missing = random.random(x.shape) < 0.2
    data = make_tissue(x, missing, grid(SIDE), depth)
    model = SpatialFactorModel(rank=RANK, full_depth=0.25)
    model.fit(data, sweeps=30, seed=0)
    assert skill(decode(model, data), x, missing) > -0.02


def as_log(data, start):
    model = SpatialFactorModel(rank=start.rank, full_depth=0.25, link="log")
    model.fit(data, sweeps=30, seed=0, start=start)
    return model


def test_rates_exponential_in_the_latents_are_found(drawn):
    """Counts drawn with a log link: the model of that link comes nearer to the truth than the linear one."""
    random = np.random.default_rng(4)
    z = np.stack([np.sin(np.arange(N) / SIDE / 2), np.cos(np.arange(N) % SIDE / 3)], axis=1)
    truth = drawn.data.depth[:, None] * np.exp(random.normal(0.5, 1, GENES) + z @ random.normal(0, 0.9, (2, GENES)))
    x = np.log1p(random.poisson(truth) / drawn.data.depth[:, None])
    data = make_tissue(x, drawn.missing, drawn.data.graph, drawn.data.depth)
    linear = SpatialFactorModel(rank=RANK, full_depth=0.25)
    linear.fit(data, sweeps=30, seed=0)
    log = as_log(data, linear)
    expected = log._noise.table.moments(data.depth, np.log(truth))[0]
    ceiling = skill(expected, x, drawn.missing)
    reached = [skill(decode(model, data), x, drawn.missing) for model in (linear, log)]
    assert reached[0] < reached[1] < 1.02 * ceiling
    assert reached[1] > 0.95 * ceiling


def test_covariances_are_overwritten_after_they_were_read(drawn, monkeypatch):
    """Those of one linearisation take the memory of the last."""
    model = as_log(drawn.data, drawn.model)
    model.use_tissue(drawn.data)
    found, given, posterior = model.encode(drawn.data), [], SpatialField.posterior

    def with_memory_of_its_own(*arguments, packed, **options):
        given.append(packed)
        return posterior(*arguments, **options)

    monkeypatch.setattr(SpatialField, "posterior", with_memory_of_its_own)
    usual = model.encode(drawn.data)
    assert given[0] is None and given[1] is not None
    assert all(torch.equal(one, other) for one, other in zip(found, usual, strict=True))


def test_the_log_links_latents_stay_where_they_are_linearised(drawn):
    """Encoding ends at a fixed point: linearised at its result, the posterior is that result."""
    model, data = as_log(drawn.data, drawn.model), drawn.data
    model.use_tissue(data)
    latents = model.encode(data)
    prior = latents.prior_mean(model.field.nugget), latents.prior_variance
    again, _ = model.posterior(*model.evidence(data, np.arange(N), latents), *prior)
    assert (again - latents.mean).square().mean().sqrt() < 0.02 * latents.mean.square().mean().sqrt()


def test_going_on_from_itself_keeps_the_meaning_of_the_latents(drawn):
    linear = SpatialFactorModel(rank=drawn.model.rank, full_depth=0.25)
    for model in (as_log(drawn.data, drawn.model), linear):
        if model.link == "linear":
            model.fit(drawn.data, sweeps=30, seed=0)
        before = model.encode(drawn.data).mean
        model.fit(drawn.data, sweeps=5, seed=0, start=model)
        after = model.encode(drawn.data).mean
        together = np.corrcoef(before.T, after.T)[: model.rank, model.rank :]
        assert np.diagonal(together).min() > 0.9


def test_there_is_no_other_link():
    with pytest.raises(ValueError, match="no link 'logit'; there are linear, log"):
        SpatialFactorModel(rank=RANK, full_depth=0.25, link="logit")


def test_posterior_is_that_of_a_joint_gaussian(drawn):
    """For fixed loadings: condition the dense joint covariance of latents and entries on the entries."""
    model = drawn.model
    spots = np.array([0, 7, 250])
    fixed = SpatialFactorModel(rank=model.rank, full_depth=0.25)
    fixed.load_state({**model.state(), "loadings_cov": torch.zeros_like(model.loadings_cov)})
    fixed.use_tissue(drawn.data)
    weighted, weight = fixed.evidence(drawn.data, spots)
    prior = torch.randn(len(spots), model.rank, generator=torch.Generator().manual_seed(0))
    variance = 0.1 + torch.rand(len(spots), model.rank, generator=torch.Generator().manual_seed(1))
    mean, factor = fixed.posterior(weighted, weight, prior, variance)
    for i in range(len(spots)):
        seen = weight[i].numpy() > 0
        w = fixed.loadings.double().numpy()[seen]
        slope, intercept = w[:, :-1], w[:, -1]
        q = np.diag(variance[i].double().numpy())
        noise = np.diag((fixed.psi.double() / weight[i].double()).numpy()[seen])
        m = prior[i].double().numpy()
        gain = q @ slope.T @ np.linalg.inv(slope @ q @ slope.T + noise)
        exact = m + gain @ ((weighted[i] / weight[i]).double().numpy()[seen] - slope @ m - intercept)
        cov = q - gain @ slope @ q
        f = factor[i].double().numpy()
        np.testing.assert_allclose(mean[i], exact, atol=1e-3)
        np.testing.assert_allclose(np.linalg.inv(f @ f.T), cov, atol=1e-4 * np.abs(cov).max() + 1e-6)
    assert (weight[torch.from_numpy(drawn.missing[spots])] == 0).all()


def test_uncertain_loadings_count_less(drawn):
    """The posterior covariance of the loadings takes precision away from what entries say, never adds to the mean's."""
    model = drawn.model
    weighted, weight = model.evidence(drawn.data, np.arange(5))
    doubtful = SpatialFactorModel(rank=model.rank, full_depth=0.25)
    eye = torch.eye(model.rank + 1).expand_as(model.loadings_cov)
    doubtful.load_state({**model.state(), "loadings_cov": model.loadings_cov + 10 * eye})
    prior = torch.zeros(5, model.rank), torch.ones(5, model.rank)
    sure, _ = model.posterior(weighted, weight, *prior)
    unsure, _ = doubtful.posterior(weighted, weight, *prior)
    assert (unsure.norm(dim=1) < 0.5 * sure.norm(dim=1)).all()


def test_the_latents_of_all_spots_are_those_of_the_dense_joint_gaussian(drawn):
    """Invert the precision of the latents of all spots together."""
    model, data = drawn.model, drawn.data
    model.use_tissue(data)
    precision, information = model.information(*model.evidence(data, np.arange(N)))
    field, rank = SpatialField(model.graph, model.field), model.rank
    joint = np.zeros((N, rank, N, rank))
    for factor in range(rank):
        columns = np.zeros((N, N))
        for i in range(N):
            values = np.zeros((N, rank), np.float32)
            values[i, factor] = 1
            columns[i] = field.precision(values)[:, factor]
        prior = np.linalg.inv(columns) + float(model.field.nugget[factor]) * np.eye(N)
        joint[:, factor, :, factor] = np.linalg.inv(prior)
    joint[np.arange(N), :, np.arange(N), :] += precision.double().numpy()
    exact = np.linalg.solve(joint.reshape(N * rank, -1), information.double().numpy().ravel()).reshape(N, rank)
    found = model.encode(data).mean.numpy()
    assert np.abs(found - exact).max() < 0.05 * exact.std()
    assert np.abs(found - exact).mean() < 0.005 * exact.std()
    # And each spot's is the posterior under its prior given the others.
    latents = model.encode(data)
    prior = latents.prior_mean(model.field.nugget), latents.prior_variance
    again, _ = model.posterior(*model.evidence(data, np.arange(N)), *prior)
    torch.testing.assert_close(again, latents.mean, atol=2e-3, rtol=0)


def test_a_spot_without_a_visible_entry_takes_after_its_neighbours(drawn):
    blank = np.zeros((N, GENES), dtype=bool)
    blank[210] = True
    data = drawn.data.without(sp.csr_matrix(blank & ~drawn.missing))
    latents = drawn.model.encode(data)
    torch.testing.assert_close(latents.mean[210], latents.field[210], atol=1e-4, rtol=0)
    around = latents.mean[data.graph[210].indices].mean(0)
    assert (latents.mean[210] - around).abs().mean() < 0.2 * latents.mean.std()
    assert (latents.prior_variance[210] / drawn.model.field.conditional_variance).mean() == pytest.approx(1, abs=0.3)


def test_values_at_hidden_entries_change_no_bit(drawn):
    random = np.random.default_rng(5)
    more = (random.random((N, GENES)) < 0.1) & ~drawn.missing
    states = []
    for x in (drawn.x, np.where(more, 9 * random.random(drawn.x.shape), drawn.x)):
        data = make_tissue(x, drawn.missing, drawn.data.graph, drawn.data.depth).without(sp.csr_matrix(more))
        model = SpatialFactorModel(rank=RANK, full_depth=0.25)
        model.fit(data, sweeps=3, seed=0)
        states.append({**model.state(), "latents": model.encode(data)[0]})
    for name, value in states[0].items():
        assert value.numpy().tobytes() == states[1][name].numpy().tobytes(), name


def test_same_seed_same_bytes(drawn):
    one, two = (SpatialFactorModel(rank=RANK, full_depth=0.25) for _ in range(2))
    for model in (one, two):
        model.fit(drawn.data, sweeps=3, seed=4)
    for name, value in one.state().items():
        assert value.numpy().tobytes() == two.state()[name].numpy().tobytes(), name


def test_nothing_crosses_from_one_section_to_another(drawn):
    """Change section B: with no edge between them no latent of section A moves, with one edge some do."""
    half = N // 2
    graph = drawn.data.graph.tolil()
    graph[:half, half:] = 0
    graph[half:, :half] = 0
    apart = graph.tocsr()
    graph[half - 1, half] = graph[half, half - 1] = 1
    joined = graph.tocsr()
    x = drawn.x.copy()
    x[half:] = np.log1p(np.round(7 * np.random.default_rng(2).random(x[half:].shape)))
    for edges, moved in ((apart, False), (joined, True)):
        one, two = (
            drawn.model.encode(make_tissue(values, drawn.missing, edges, drawn.data.depth))[0][:half].numpy().tobytes()
            for values in (drawn.x, x)
        )
        assert (one != two) == moved


def test_a_shallow_spot_says_less(drawn):
    """The same zeros weigh less where little was counted."""
    depth = np.full(N, 0.02)
    depth[1] = 2.0
    x = np.zeros((N, GENES))
    data = make_tissue(x, np.zeros(x.shape, dtype=bool), drawn.data.graph, depth)
    drawn.model.use_tissue(data)
    weighted, weight = drawn.model.evidence(data, np.array([0, 1]))
    prior = torch.zeros(2, drawn.model.rank), torch.ones(2, drawn.model.rank)
    _, factor = drawn.model.posterior(weighted, weight, *prior)
    spread = torch.cholesky_inverse(factor).diagonal(dim1=1, dim2=2)
    drawn.model.use_tissue(drawn.data)
    assert (weight[0] < 0.05 * weight[1]).all()
    assert (spread[0] > spread[1]).all()


def test_a_gene_nobody_saw_is_predicted_rare(drawn):
    """Hidden at every spot: there is no value to go by, and nothing absurd may come of it."""
    unseen = np.zeros((N, GENES), dtype=bool)
    unseen[:, 3] = True
    data = drawn.data.without(sp.csr_matrix(unseen & ~drawn.missing))
    model = SpatialFactorModel(rank=RANK, full_depth=0.25)
    model.fit(data, sweeps=10, seed=0)
    prediction = decode(model, data)
    assert np.isfinite(prediction).all()
    assert prediction[:, 3].max() < drawn.x.max()
    others = np.arange(GENES) != 3
    whole = skill(decode(drawn.model, drawn.data)[:, others], drawn.x[:, others], drawn.missing[:, others])
    assert skill(prediction[:, others], drawn.x[:, others], drawn.missing[:, others]) > 0.85 * whole


def test_values_that_are_no_counts_are_fitted_on_their_own_scale(drawn):
    random = np.random.default_rng(3)
    smooth = np.sin(np.arange(N) % SIDE / 4)[:, None] * random.normal(size=GENES)
    x = np.maximum(5 + smooth + 0.5 * random.normal(size=(N, GENES)), 0)
    data = make_tissue(x, drawn.missing, drawn.data.graph, np.ones(N), scale=None)
    model = SpatialFactorModel(rank=RANK, full_depth=0.25)
    model.fit(data, sweeps=20, seed=0)
    assert skill(decode(model, data), x, drawn.missing) > 0.5


def test_the_state_is_all_there_is(drawn):
    other = SpatialFactorModel(rank=drawn.model.rank, full_depth=0.25)
    other.load_state(drawn.model.state())
    assert decode(other, drawn.data).tobytes() == decode(drawn.model, drawn.data).tobytes()


def test_a_few_odd_spots_make_no_factor_of_their_own(drawn):
    random, odd = np.random.default_rng(1), np.array([45, 160, 301])
    depth = drawn.data.depth.copy()
    depth[odd] = 0.26
    x = drawn.x.copy()
    for spot in odd:  # few molecules, most of them of a few genes that are rare elsewhere
        counts = random.poisson(0.1, GENES) + 40 * (random.random(GENES) < 0.3)
        x[spot] = np.log1p(counts / depth[spot])
    data = make_tissue(x, drawn.missing, drawn.data.graph, depth)
    model = SpatialFactorModel(rank=RANK + 2, full_depth=0.25)
    model.fit(data, sweeps=30, seed=0)
    hidden = drawn.missing.copy()
    hidden[odd] = False
    whole = skill(decode(drawn.model, drawn.data), drawn.x, hidden)
    assert skill(decode(model, data), x, hidden) > 0.97 * whole  # of the other spots
