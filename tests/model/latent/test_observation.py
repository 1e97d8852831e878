import numpy as np
import pytest
from scipy import stats

from stmcdi_cli.model.latent.count_moments import DISPERSIONS, CountTable
from stmcdi_cli.model.latent.negative_binomial import count_quantile, log_probability
from stmcdi_cli.model.latent.observation import Observation, Observer
from stmcdi_cli.model.scales import SCALES


def distribution(mean, dispersion):
    if dispersion == 0:
        return stats.poisson(mean)
    return stats.nbinom(1 / dispersion, 1 / (1 + dispersion * mean))


def quantile(u, mean, dispersion):
    return count_quantile(u, np.full(len(u), mean), np.full(len(u), dispersion))


@pytest.mark.parametrize("dispersion", [0.0, 0.1, 1.0, 8.0])
@pytest.mark.parametrize("mean", [1e-4, 0.02, 0.7, 5.0, 45.0])
def test_small_counts_are_scipys_quantiles(mean, dispersion):
    u = np.concatenate([np.random.default_rng(0).random(20_000), [0, 2**-24, 1 - 2**-24]])
    expected = distribution(mean, dispersion).ppf(np.maximum(u, 1e-300))
    np.testing.assert_array_equal(quantile(u, mean, dispersion), expected)


@pytest.mark.parametrize("dispersion", [0.0, 0.1, 1.0, 8.0])
@pytest.mark.parametrize("mean", [80.0, 700.0, 2e4])
def test_large_counts_have_the_right_mean_and_variance(mean, dispersion):
    u = (np.arange(200_000) + 0.5) / 200_000  # evenly spread: no Monte-Carlo error
    count = quantile(u, mean, dispersion)
    np.testing.assert_array_equal(count, np.round(count))
    assert count.min() >= 0
    assert count.mean() == pytest.approx(mean, rel=0.005)
    assert count.var() == pytest.approx(mean + dispersion * mean**2, rel=0.02)


def test_entries_keep_their_places():
    random = np.random.default_rng(1)
    u = random.random(500)
    mean, dispersion = np.exp(random.uniform(-6, 6, 500)), random.choice(DISPERSIONS, 500)
    together = count_quantile(u, mean, dispersion)
    alone = [count_quantile(u[i : i + 1], mean[i : i + 1], dispersion[i : i + 1])[0] for i in range(500)]
    np.testing.assert_array_equal(together, alone)


@pytest.mark.parametrize("dispersion", DISPERSIONS)
@pytest.mark.parametrize("mean", [0.003, 1.2, 60.0])
def test_log_probability_is_scipys(mean, dispersion):
    k = np.arange(200.0)
    expected = distribution(mean, dispersion).logpmf(k)
    np.testing.assert_allclose(log_probability(k, np.full(200, mean), dispersion), expected, rtol=1e-6, atol=1e-9)
    each = log_probability(np.tile(k, 2), np.full(400, mean), np.repeat([dispersion, 0.3], 200))[:200]
    np.testing.assert_allclose(each, expected, rtol=1e-6, atol=1e-9)


def test_fit_finds_the_dispersion_the_counts_were_drawn_with():
    random = np.random.default_rng(0)
    n, copies = 3000, 6
    true = np.repeat(np.arange(len(DISPERSIONS)), copies)
    dispersion = np.array(DISPERSIONS)[true]
    depth = random.gamma(8, 1 / 8, n)
    mean = depth[:, None] * random.uniform(2, 6, len(true))
    shape = np.where(dispersion > 0, 1 / np.maximum(dispersion, 1e-9), 1e9)
    counts = random.poisson(mean * random.gamma(shape, 1 / shape, mean.shape))
    observation = Observation("log1p", depth, 400.0)
    expected = np.empty(mean.shape)
    for k, table in enumerate(observation.tables):
        expected[:, true == k] = table.moments(depth, np.log(mean))[0][:, true == k]
    use = random.random(mean.shape) < 0.9
    halves = [slice(0, n // 2), slice(n // 2, n)]
    parts = [(depth[h], expected[h].astype(np.float32), np.where(use[h], counts[h], 999), use[h]) for h in halves]
    likelihood = observation.fit(parts, len(true))
    assert likelihood.shape == (len(DISPERSIONS), len(true))
    assert (likelihood.argmax(0) == true).mean() > 0.9
    assert np.abs(likelihood.argmax(0) - true).max() <= 1


@pytest.mark.parametrize("scale", SCALES)
def test_observations_scatter_around_what_was_expected(scale):
    """Mean and variance of many observations are the table's, each gene with its own dispersion."""
    random = np.random.default_rng(0)
    depth = np.array([0.3, 1.0, 2.5])
    which = np.array([0, 3, 5, 0, 3, 5, 7])
    log_mu = np.log(np.array([0.05, 0.3, 2.0, 30.0, 9.0, 0.8, 1.5])) + np.zeros((3, 1))
    moments = [CountTable(scale, DISPERSIONS[k], depth, 300.0).moments(depth, log_mu) for k in which]
    expected = np.column_stack([m[0][:, j] for j, m in enumerate(moments)])
    variance = np.column_stack([m[2][:, j] for j, m in enumerate(moments)])
    wanted = np.ones((3, 7), dtype=bool)
    wanted[1, 2] = False
    observer = Observer(Observation(scale, depth, 300.0), depth, which, wanted)
    draws = np.stack([observer.draw(expected, random.random((3, 7)).astype(np.float32)) for _ in range(1500)])
    assert draws.dtype == np.float32 and draws.min() >= 0
    assert (draws[:, 1, 2] == 0).all()
    error = np.abs(draws.mean(0) - expected)[wanted]
    assert (error < 5 * np.sqrt(variance[wanted] / len(draws)) + 0.01 * expected[wanted]).all()
    np.testing.assert_allclose(draws.var(0)[wanted], variance[wanted], rtol=0.4)
    s = np.broadcast_to(depth[:, None], draws.shape)
    counts = SCALES[scale][1](draws.astype(np.float64), s)
    np.testing.assert_allclose(counts, np.round(counts), atol=1e-3)
