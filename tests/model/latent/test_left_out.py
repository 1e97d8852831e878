"""Genes left out whole: what they achieved is kept in the order of the genes, saved, and read again."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from stmcdi_cli.model.latent.left_out import LeftOut, expected_correlation

N_GENES = 6


@pytest.fixture
def left_out():
    cases = [SimpleNamespace(genes=np.isin(np.arange(N_GENES), some)) for some in ([1, 4], [0])]
    found = [
        SimpleNamespace(correlations=lambda shares, k=k: shares[0] * (k + np.arange(N_GENES) / 10)) for k in (0, 1)
    ]
    return LeftOut.of(cases, found, (0.5, 0.5), [np.array([0.2, 0.3]), np.array([0.9])])


def test_each_gene_has_the_correlation_of_its_own_case(left_out):
    assert left_out.genes.tolist() == [0, 1, 4]
    np.testing.assert_allclose(left_out.correlation, [0.5, 0.05, 0.2])
    np.testing.assert_allclose(left_out.expected, [0.9, 0.2, 0.3])
    columns = left_out.columns(N_GENES)
    np.testing.assert_allclose(columns["left_out_r"], [0.5, 0.05, np.nan, np.nan, 0.2, np.nan])
    assert columns["left_out_expected_r"].dtype == np.float32


def test_without_a_reference_there_is_nothing():
    nothing = LeftOut.of([SimpleNamespace(genes=None)], [None], (1.0,), [])
    assert nothing.state() == {} and nothing.columns(N_GENES) == {}
    assert len(LeftOut.from_state({}, N_GENES).genes) == 0


def test_what_was_saved_is_read_again(left_out):
    again = LeftOut.from_state(left_out.state(), N_GENES)
    assert all(torch.equal(one, other) for one, other in zip(again, left_out, strict=True))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("genes", torch.tensor([0, 1, 6])),
        ("genes", torch.tensor([0, -1, 4])),
        ("genes", torch.tensor([0.0, 1.0, 4.0])),
        ("correlation", torch.zeros(2)),
        ("expected", torch.zeros(3, 1)),
    ],
)
def test_damaged_states_are_refused(left_out, name, value):
    with pytest.raises(ValueError, match="left out"):
        LeftOut.from_state(left_out.state() | {f"left_out.{name}": value}, N_GENES)


def test_expected_correlation_is_that_with_new_measurements():
    rng = np.random.default_rng(0)
    genes = rng.integers(0, 2, 100_000)
    means = rng.normal(size=len(genes)) * np.array([1.0, 0.3])[genes]
    spread = np.array([0.5, 1.0])[genes]
    new = means + spread * rng.normal(size=len(genes))
    found = expected_correlation(genes, means, spread**2, 3)
    for gene in (0, 1):
        assert found[gene] == pytest.approx(np.corrcoef(means[genes == gene], new[genes == gene])[0, 1], abs=0.01)
    assert found[2] == 0
