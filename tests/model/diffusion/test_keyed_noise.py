import numpy as np
import pytest

from stmcdi_cli.model.diffusion import keyed_noise
from stmcdi_cli.model.latent.negative_binomial import count_quantile

SPOTS, SAMPLES = np.arange(200), np.arange(20)
Z = keyed_noise.normal(3, SPOTS, SAMPLES, 5, 250)  # a million numbers


def within(values, sd_of_mean):
    return abs(np.mean(values, dtype=np.float64)) < 5 * sd_of_mean


def test_moments_and_tails_are_those_of_a_normal():
    n = Z.size
    z = Z.astype(np.float64).ravel()
    assert within(z, np.sqrt(1 / n))
    assert within(z**2 - 1, np.sqrt(2 / n))
    assert within(z**3, np.sqrt(15 / n))
    assert within(z**4 - 3, np.sqrt(96 / n))
    for at in (-3, -1.5, 0, 0.7, 2.5):
        from scipy.stats import norm

        p = norm.cdf(at)
        assert abs((z < at).mean() - p) < 5 * np.sqrt(p * (1 - p) / n)


def test_whole_distribution_is_normal():
    from scipy.stats import kstest

    assert kstest(Z.ravel()[:200_000], "norm").pvalue > 1e-4


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("lag", [1, 2, 3])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_neighbouring_keys_are_uncorrelated(axis, lag, power):
    z = Z.astype(np.float64) ** power
    z = (z - z.mean()) / z.std()
    a = np.take(z, range(z.shape[axis] - lag), axis)
    b = np.take(z, range(lag, z.shape[axis]), axis)
    assert within(a * b, 1 / np.sqrt(a.size))


@pytest.mark.parametrize("other", [(4, 5), (3, 6), (2**40 + 3, 5), (-3, 5)])
def test_seeds_and_streams_are_uncorrelated(other):
    w = keyed_noise.normal(other[0], SPOTS, SAMPLES, other[1], 250)
    assert within(w * Z, 1 / np.sqrt(Z.size))
    assert not np.array_equal(w, Z)


def test_swapped_key_words_give_other_numbers():
    a = keyed_noise.normal(3, np.array([1]), np.array([2]), 5, 4)
    for b in (
        keyed_noise.normal(3, np.array([2]), np.array([1]), 5, 4),
        keyed_noise.normal(5, np.array([1]), np.array([2]), 3, 4),
    ):
        assert not np.intersect1d(a, b).size


def test_no_number_repeats_more_often_than_chance():
    u = np.concatenate([keyed_noise.uniform(0, SPOTS, SAMPLES, stream, 16).ravel() for stream in range(4)])
    n = u.size  # of 2^24 possible values
    expected = n * (n - 1) / 2 / 2**24
    repeats = n - np.unique(u).size
    assert abs(repeats - expected) < 6 * np.sqrt(expected)


@pytest.mark.parametrize("draw", [keyed_noise.normal, keyed_noise.uniform])
def test_a_value_depends_on_its_key_alone(draw):
    whole = draw(3, SPOTS, SAMPLES, 5, 251)
    spots, samples = np.array([150, 3, 199]), np.array([7, 0])
    np.testing.assert_array_equal(draw(3, spots, samples, 5, 251), whole[np.ix_(samples, spots)])
    for n in (1, 2, 100, 249):
        np.testing.assert_array_equal(draw(3, spots[:1], samples[:1], 5, n)[0, 0], whole[7, 150, :n])
    long = draw(3, spots[:1], samples[:1], 5, 50_001)  # more than one chunk
    np.testing.assert_array_equal(long[0, 0, :251], whole[7, 150])
    np.testing.assert_array_equal(draw(3, spots[:1], samples[:1], 5, 20_000), long[..., :20_000])


def test_values_are_the_same_in_every_release():
    """A change here changes every published result: it needs a word in the changelog."""
    expected = [-1.5039811, -1.8819631, 0.07059149]
    np.testing.assert_allclose(keyed_noise.normal(3, np.array([7]), np.array([2]), 5, 3)[0, 0], expected, rtol=1e-6)


def test_uniform_fills_the_unit_interval():
    u = keyed_noise.uniform(3, SPOTS, SAMPLES, 5, 250)
    assert u.min() >= 0
    assert u.max() < 1
    counts = np.bincount((u.ravel() * 100).astype(int), minlength=100)
    chi2 = ((counts - u.size / 100) ** 2 / (u.size / 100)).sum()
    assert chi2 < 99 + 6 * np.sqrt(2 * 99)
    assert within((u - 0.5) * Z, np.sqrt(1 / 12 / u.size))  # and owes nothing to the normal of the same key


def test_mirrored_numbers_stay_below_one():
    """One number in 16 million is 0; its mirror image must not be 1, the quantile of infinitely many counts."""
    numbers = np.float32([0, 2**-24, 0.25, 0.5, 1 - 2**-24])
    mirrored = keyed_noise.mirrored(numbers)
    assert mirrored.dtype == np.float32 and mirrored.min() == 0 and mirrored.max() < 1
    np.testing.assert_array_equal(keyed_noise.mirrored(mirrored), numbers)
    assert (count_quantile(mirrored.astype(float), np.full(5, 0.5), np.full(5, 0.5)) < 60).all()
