"""What every predictor of genes that only the reference has keeps to."""

import numpy as np
import pytest

from stmcdi_cli.model.latent.reference_predictions import PREDICTORS, ReferencePredictions


@pytest.fixture(params=PREDICTORS)
def predictor(request):
    return PREDICTORS[request.param]


def test_the_type_of_a_spot_is_found_though_platforms_catch_genes_differently(pair, predictor):
    shared = pair.shared()
    np.testing.assert_array_equal(shared.genes, pair.unmeasured)
    found = predictor(shared).expected(pair.spots)
    apart = np.abs(found[pair.own == 0].mean(0) - found[pair.own == 1].mean(0))
    assert found.dtype == np.float32 and (apart > 0.1).all()


def test_a_spot_without_a_shared_value_gets_the_means(pair, predictor):
    hidden = np.zeros(pair.target.x.shape, bool)
    hidden[4] = True
    found = predictor(pair.shared(hidden)).expected(np.array([3, 4]))
    np.testing.assert_allclose(found[1], 1.5, atol=1e-6)
    assert (np.abs(found[0] - 1.5) > 1e-3).any()


def test_hidden_values_do_not_count(pair, predictor):
    hidden = np.random.default_rng(1).random(pair.target.x.shape) < 0.3
    one = predictor(pair.shared(hidden)).expected(pair.spots)
    other = predictor(pair.with_values(hidden, 9).shared(hidden)).expected(pair.spots)
    np.testing.assert_array_equal(one, other)


def test_only_wanted_genes(pair, predictor):
    every, shared = predictor(pair.shared()), pair.shared(wanted=np.arange(12) == 7)
    np.testing.assert_array_equal(shared.genes, [7])
    found = predictor(shared).expected(pair.spots)
    np.testing.assert_allclose(found[:, 0], every.expected(pair.spots)[:, 1], rtol=1e-6)


def test_parts_replace_what_is_expected_of_the_genes_alone(pair):
    both = ReferencePredictions(pair.encoder, pair.reference, pair.target)
    predicted, before = both.expected(pair.spots), np.full((30, 12), 2, np.float32)
    mixed = both.mix(before.copy(), both.weighted(pair.spots, [0.3, 0.2]), [0.3, 0.2])
    expected = 0.5 * 2 + 0.3 * predicted[0] + 0.2 * predicted[1]
    np.testing.assert_allclose(mixed[:, pair.unmeasured], expected, rtol=1e-6)
    np.testing.assert_array_equal(mixed[:, pair.measured], before[:, pair.measured])


@pytest.mark.parametrize("parts", [[0.4, 0], [0, 0.4], [0, 0]])
def test_what_has_no_part_is_not_computed(pair, parts, monkeypatch):
    both = ReferencePredictions(pair.encoder, pair.reference, pair.target)
    expected = both.weighted(pair.spots, parts)
    for name, part in zip(PREDICTORS, parts, strict=True):
        if part == 0:
            monkeypatch.setitem(PREDICTORS, name, None)
    some = ReferencePredictions(pair.encoder, pair.reference, pair.target, parts=parts)
    np.testing.assert_array_equal(some.weighted(pair.spots, parts), expected)
