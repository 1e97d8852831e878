"""A visible count tells of its own gene and spot: as a gamma-Poisson variable does, and nothing where none is."""

import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import stmcdi_cli as stmcdi
from stmcdi_cli.errors import InputError
from stmcdi_cli.model import save_load
from stmcdi_cli.model.latent.count_moments import DISPERSIONS
from stmcdi_cli.model.latent.observation import Observation, Observer
from stmcdi_cli.model.latent.own_count import OWN_PARTS, OwnCounts, choose_part


def counts(part: float, dispersion: float, mean: np.ndarray, n_times: int, seed: int = 0) -> list[np.ndarray]:
    """Repeated counts that share the spot's own part of the dispersion; the rest is new each time."""
    random = np.random.default_rng(seed)

    def gamma(variance: float) -> np.ndarray:
        return random.gamma(1 / variance, variance, mean.shape) if variance else np.ones(mean.shape)

    own = gamma(part * dispersion)
    return [random.poisson(mean * own * gamma((1 - part) * dispersion)) for _ in range(n_times)]


def test_the_mean_of_a_new_count_is_the_posterior_s():
    mean = np.full(400_000, 2.0)
    first, second = counts(1.0, 0.8, mean, 2)
    own = OwnCounts(first, np.full(mean.shape, 0.8), 1.0)
    revised = own.revise(mean)
    for count in range(6):
        some = first == count
        assert second[some].mean() == pytest.approx(revised[some][0], rel=0.03)
        spread = revised[some][0] + own.dispersion[some][0] * revised[some][0] ** 2  # of a negative binomial
        assert second[some].var() == pytest.approx(spread, rel=0.06)


def test_nothing_changes_without_a_count_or_without_an_own_part():
    mean, dispersion = np.array([0.5, 3.0, 3.0]), np.array([1.0, 1.0, 0.0])
    count = np.array([np.nan, np.nan, 7.0])
    own = OwnCounts(count, dispersion, 0.5)
    np.testing.assert_array_equal(own.revise(mean), mean)
    np.testing.assert_array_equal(own.dispersion, dispersion)
    none = OwnCounts(np.array([4.0, 0.0, 7.0]), dispersion, 0.0)
    np.testing.assert_array_equal(none.revise(mean), mean)
    np.testing.assert_array_equal(none.dispersion, dispersion)


@pytest.mark.parametrize("part", OWN_PARTS)
def test_the_part_that_the_halves_of_a_count_share_is_found(part):
    """Where a gene's dispersion was taken for larger than that of its counts, the halves tell."""
    mean = np.random.default_rng(1).gamma(2, 2.0, 60_000)
    (whole,) = counts(1.0, 0.8 * part, mean, 1)
    assert choose_part([(mean, np.full(mean.shape, 0.8), whole.astype(float))], seed=3) == part


@pytest.fixture
def block():
    depth = np.array([0.5, 1.0, 2.0, 1.0])
    expected = np.random.default_rng(0).gamma(2, 0.4, (4, 3)).astype(np.float32)
    seen = np.array([[0.0, 5.0, np.nan]] * 4)
    return Observation("log1p", depth, 200.0), depth, np.array([0, 4, 6]), expected, seen


def test_expected_values_move_towards_what_was_seen(block):
    observation, depth, which, expected, seen = block
    wanted = np.ones(expected.shape, bool)
    revised = Observer(observation, depth, which, wanted, seen, 1.0).revise(expected)
    np.testing.assert_allclose(revised[:, 0], expected[:, 0], rtol=0.02)  # Poisson: nothing is the spot's own
    value = np.log1p(5 / depth)
    between = (np.minimum(value, expected[:, 1]) < revised[:, 1]) & (revised[:, 1] < np.maximum(value, expected[:, 1]))
    assert between.all()
    np.testing.assert_array_equal(revised[:, 2], expected[:, 2])  # nothing was seen: the same bits
    without = Observer(observation, depth, which, wanted, seen, 0.0)
    np.testing.assert_array_equal(without.revise(expected), expected)


@pytest.mark.parametrize("scale", ["log1p", "counts", "linear"])
def test_a_count_beyond_the_table_is_not_cut(scale):
    """Tables end at 20 times the largest mean; a count that was seen may be larger."""
    depth, wanted = np.array([1.0, 2.0]), np.ones((2, 1), bool)
    observation = Observation(scale, depth, 50.0)
    value = observation.value(np.full((2, 1), 1e5), depth[:, None])
    expected = observation.value(np.full((2, 1), 20.0), depth[:, None])
    observer = Observer(observation, depth, np.array([4]), wanted, np.full((2, 1), 1e5), 1.0)
    revised = observer.revise(expected)
    draws = np.array([observer.draw(expected, u) for u in np.random.default_rng(0).random((400, 2, 1))])
    np.testing.assert_allclose(revised, draws.mean(0), rtol=0.02)
    assert (revised > 0.8 * value).all() and (revised < value).all()


def test_draws_are_centred_on_the_revised_value(block):
    observation, depth, which, expected, seen = block
    wanted, random = np.ones(expected.shape, bool), np.random.default_rng(1)
    with_own, without = (Observer(observation, depth, which, wanted, seen, part) for part in (1.0, 0.0))
    uniform = random.random((4000, *expected.shape))
    own, other = (np.array([each.draw(expected, u) for u in uniform]) for each in (with_own, without))
    np.testing.assert_allclose(own.mean(0), with_own.revise(expected), atol=0.06)
    gene = with_own.positions % 3
    assert (with_own.dispersion[gene == 1] < 0.6 * without.dispersion[gene == 1]).all()
    np.testing.assert_array_equal(own[:, :, 2], other[:, :, 2])


def test_bounds_lie_between_the_tabulated_dispersions():
    from stmcdi_cli.model.latent.observation import _BETWEEN_DISPERSIONS

    low, high = np.array(DISPERSIONS[:-1]), np.array(DISPERSIONS[1:])
    assert ((low < _BETWEEN_DISPERSIONS) & (_BETWEEN_DISPERSIONS < high)).all()


def test_a_model_trained_before_takes_no_part_and_a_damaged_part_is_refused(imputed_run, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(imputed_run.model, folder)
    weights = folder / "model.safetensors"
    state = load_file(weights)
    assert 0 <= state.pop("own_part") <= 1
    save_file(state, weights)
    earlier = save_load.load(folder)
    assert earlier.own_part == 0
    options = {"target": "all", "n_samples": 4, "device": "cpu", "quiet": True}
    by_latents = stmcdi.impute(imputed_run.masked, earlier, **options)
    earlier.own_part = torch.tensor(1.0)
    with_own = stmcdi.impute(imputed_run.masked, earlier, **options)
    hidden = imputed_run.masked.layers["missing"].toarray()
    for layer in ("imputed", "imputed_sd"):
        one, other = by_latents.layers[layer], with_own.layers[layer]
        np.testing.assert_array_equal(one[hidden], other[hidden])
        assert (one[~hidden] != other[~hidden]).mean() > 0.2
    save_file(state | {"own_part": torch.tensor(1.5)}, weights)
    with pytest.raises(InputError, match="own_part is not from 0 to 1"):
        save_load.load(folder)
