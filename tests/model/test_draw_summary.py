"""The interval of some draws holds equally often whatever their number, and its ends are values that can occur."""

import numpy as np
import pytest

from stmcdi_cli.model.draw_summary import DrawSummary, interval, order_statistics


@pytest.mark.parametrize("n_draws", [19, 20, 50, 200])
@pytest.mark.parametrize("tail", [0.05, 0.1])
def test_a_further_draw_is_within_as_often_as_is_said(n_draws, tail):
    draws = np.random.default_rng(0).normal(size=(n_draws + 1, 40_000)).astype(np.float32)
    low, high = interval(draws[1:], tail)
    within = np.mean((low <= draws[0]) & (draws[0] <= high))
    k = int(round(tail * (n_draws + 1), 6))
    assert within == pytest.approx(1 - 2 * k / (n_draws + 1), abs=0.006)
    assert 1 - 2 * tail - 0.006 < within < 1 - 2 * tail + 2 / n_draws


@pytest.mark.parametrize("tail", [0.05, 0.1])
def test_the_ends_are_counts_where_the_draws_are(tail):
    draws = np.random.default_rng(0).poisson(0.7, (20, 5000)).astype(np.float32)
    low, high = interval(draws, tail)
    np.testing.assert_array_equal(np.rint(low), low)
    np.testing.assert_array_equal(np.rint(high), high)
    assert ((low == draws).any(0) & (high == draws).any(0)).all()


def test_a_few_draws_give_their_smallest_and_largest():
    draws = np.random.default_rng(0).poisson(5, (4, 100)).astype(np.float32)
    np.testing.assert_array_equal(interval(draws, 0.05), (draws.min(0), draws.max(0)))


def test_the_same_count_rounded_by_another_program_is_within():
    """scanpy divides and takes logarithms in float32: one bit more or less than the draw of the same count."""
    value = np.log1p(np.arange(1, 200) / 0.37)
    draws = np.tile(value.astype(np.float32), (20, 1))
    elsewhere = np.log1p(np.arange(1, 200, dtype=np.float32) / np.float32(0.37))
    assert (elsewhere != draws[0]).any()
    low, high = interval(draws, 0.05)
    assert low.dtype == high.dtype == np.float32
    of_a_fraction = draws[0] != np.rint(draws[0])  # one logarithm in 200 is 5.0 by chance
    assert of_a_fraction.sum() > 195
    assert ((low <= elsewhere) & (elsewhere <= high))[of_a_fraction].all()
    np.testing.assert_allclose(high, low, rtol=1e-5)


def test_rounding_moves_the_ends_apart_also_where_values_are_negative():
    """Values that are no counts, such as z-scores, may be."""
    draws = np.full((20, 1), -1.3, np.float32)
    low, high = interval(draws, 0.05)
    assert low < draws[0] < high


def test_draws_are_left_as_they_are():
    draws = np.random.default_rng(0).normal(size=(20, 50))
    before = draws.copy()
    interval(draws, 0.05)
    np.testing.assert_array_equal(draws, before)


def test_order_statistics_of_many_entries_are_those_of_each():
    """Entries are sorted a few thousand at a time."""
    draws = np.random.default_rng(0).poisson(1.3, (20, 15_000)).astype(np.float32)
    found = order_statistics(draws, (0, 9, 10, 19))
    np.testing.assert_array_equal(found, np.sort(draws, axis=0)[[0, 9, 10, 19]])


@pytest.mark.parametrize("n_draws", [1, 2, 19, 20])
def test_the_median_is_numpys(n_draws):
    values = np.random.default_rng(0).normal(size=(n_draws, 6, 8)).astype(np.float32)
    wanted = np.random.default_rng(1).random((6, 8)) < 0.5
    summary = DrawSummary(wanted, n_draws, ["imputed_median"])
    for number, draw in enumerate(values):
        summary.add(number, slice(0, 6), draw)
    np.testing.assert_array_equal(summary.layers(0.05)["imputed_median"], np.median(values[:, wanted], axis=0))
