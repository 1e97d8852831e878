import numpy as np
import pytest
from scipy import stats

from stmcdi_cli.model.latent.count_moments import DISPERSIONS, CountTable, count_table
from stmcdi_cli.model.scales import SCALES

DEPTHS = np.array([0.05, 0.4, 1.0, 3.7])
MEANS = np.array([1e-3, 0.03, 0.4, 1.0, 6.3, 40.0, 300.0])


def exact_moments(scale, dispersion, s, mu):
    """Sums over every count that matters."""
    k = np.arange(15_000)
    if dispersion == 0:
        p = stats.poisson.pmf(k, mu)
    else:
        p = stats.nbinom.pmf(k, 1 / dispersion, 1 / (1 + dispersion * mu))
    value = SCALES[scale][0](k, s)
    mean = (p * value).sum()
    return mean, (p * value**2).sum() - mean**2


@pytest.mark.parametrize("dispersion", [0.0, 0.25, 2.0])
@pytest.mark.parametrize("scale", SCALES)
def test_moments_are_sums_over_all_counts(scale, dispersion):
    table = CountTable(scale, dispersion, DEPTHS, max_mean=400.0)
    log_mu = np.broadcast_to(np.log(MEANS), (len(DEPTHS), len(MEANS)))
    mean, slope, variance = table.moments(DEPTHS, log_mu)
    exact = np.array([[exact_moments(scale, dispersion, s, mu) for mu in MEANS] for s in DEPTHS])
    np.testing.assert_allclose(mean, exact[..., 0], rtol=0.01)
    np.testing.assert_allclose(variance, exact[..., 1], rtol=0.02)
    h = 0.02
    up, down = (
        np.array([[exact_moments(scale, dispersion, s, mu * np.exp(step))[0] for mu in MEANS] for s in DEPTHS])
        for step in (h, -h)
    )
    np.testing.assert_allclose(slope, (up - down) / (2 * h), rtol=0.02)


def test_moments_of_counts_themselves_are_the_textbooks():
    """Mean mu, variance mu + dispersion mu^2, whatever the table's bins."""
    for dispersion in DISPERSIONS:
        table = CountTable("counts", dispersion, np.ones(1), max_mean=200.0)
        mu = np.array([[0.01, 1.0, 30.0, 200.0]])
        mean, _, variance = table.moments(np.ones(1), np.log(mu))
        np.testing.assert_allclose(mean, mu, rtol=0.01)
        np.testing.assert_allclose(variance, mu + dispersion * mu**2, rtol=0.03)


@pytest.mark.parametrize("dispersion", [0.0, 0.5, 8.0])
@pytest.mark.parametrize("scale", SCALES)
def test_inverse_undoes_the_mean(scale, dispersion):
    table = CountTable(scale, dispersion, DEPTHS, max_mean=400.0)
    mean, _, _ = table.moments(DEPTHS, np.broadcast_to(np.log(MEANS), (len(DEPTHS), len(MEANS))))
    rows = np.broadcast_to(np.arange(len(DEPTHS))[:, None], mean.shape)
    back = table.inverse(DEPTHS)(mean, rows)
    np.testing.assert_allclose(back, np.broadcast_to(MEANS, back.shape), rtol=0.02)


def test_inverse_of_nothing_is_next_to_nothing():
    back = CountTable("log1p", 0.0, DEPTHS, 50.0).inverse(DEPTHS)(np.zeros((4, 1)), np.arange(4)[:, None])
    assert np.isfinite(back).all() and (0 <= back).all() and (back < 1e-6).all()


def test_a_shallow_or_deep_spot_changes_nothing_for_the_others():
    """The table's points do not move with the range of depths and rates that it covers."""
    log_mu = np.broadcast_to(np.log(MEANS), (len(DEPTHS), len(MEANS)))
    alone = CountTable("log1p", 0.25, DEPTHS, max_mean=400.0)
    wider = CountTable("log1p", 0.25, np.append(DEPTHS, [7e-5, 60.0]), max_mean=9000.0)
    for one, other in zip(alone.moments(DEPTHS, log_mu), wider.moments(DEPTHS, log_mu), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


def test_a_table_is_made_once():
    one = count_table("log1p", 0.25, DEPTHS, 50.0)
    assert count_table("log1p", 0.25, DEPTHS[::-1].copy(), 50.0) is one  # depths between the ends do not matter
    others = [("linear", 0.25, DEPTHS, 50.0), ("log1p", 0.5, DEPTHS, 50.0), ("log1p", 0.25, 2 * DEPTHS, 50.0)]
    others += [("log1p", 0.25, DEPTHS, 60.0)]
    assert all(count_table(*each) is not one for each in others)
    alone = CountTable("log1p", 0.25, DEPTHS, 50.0)
    log_mu = np.zeros((len(DEPTHS), 1), np.float32)
    for found, right in zip(one.moments(DEPTHS, log_mu), alone.moments(DEPTHS, log_mu), strict=True):
        np.testing.assert_array_equal(found, right)
