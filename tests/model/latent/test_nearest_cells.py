"""Genes that were not measured, in the cells of a reference that resemble a spot most."""

import numpy as np
import pytest
import scipy.sparse as sp

from stmcdi_cli.model.latent.factor_model import SpatialFactorModel
from stmcdi_cli.model.latent.nearest_cells import NearestCells
from stmcdi_cli.model.tissue import Tissue

N_SPOTS, N_CELLS, N_GENES = 30, 200, 12
UNMEASURED = np.array([2, 7])
SHARED = np.setdiff1d(np.arange(N_GENES), UNMEASURED)


def tissue(x: np.ndarray, missing: np.ndarray) -> Tissue:
    return Tissue(
        x=sp.csr_matrix(np.where(missing, 0, x).astype(np.float32)),
        missing=sp.csr_matrix(missing),
        graph=sp.csr_matrix((len(x), len(x)), dtype=np.float32),
        depth=np.ones(len(x)),
        count_scale="log1p",
        genes=tuple(f"g{k}" for k in range(N_GENES)),
        odd_spots=np.zeros(len(x), bool),
    )


@pytest.fixture
def pair() -> tuple[SpatialFactorModel, Tissue, Tissue, np.ndarray]:
    """Encoder of a target of two types of cells, the reference, the target, and the type of each spot.

    The target's platform catches three times as much of every other gene, and lacks two genes.
    """
    rng = np.random.default_rng(0)
    profile = rng.uniform(0.5, 6, (2, N_GENES))
    own, cells = rng.integers(0, 2, N_SPOTS), rng.integers(0, 2, N_CELLS)
    caught = np.where(np.arange(N_GENES) % 2, 3, 1)
    missing = np.zeros((N_SPOTS, N_GENES), bool)
    missing[:, UNMEASURED] = True
    target = tissue(np.log1p(rng.poisson(profile[own] * caught)), missing)
    reference = tissue(np.log1p(rng.poisson(profile[cells])), np.zeros((N_CELLS, N_GENES), bool))
    encoder = SpatialFactorModel(rank=2, full_depth=0.25, link="gaussian")
    encoder.rate, encoder.scale = encoder._rates(target)
    encoder.rate[UNMEASURED], encoder.scale[UNMEASURED] = 1.5, 0.5
    return encoder, reference, target, own


def test_the_mean_of_the_nearest_cells_on_the_scale_of_the_target(pair):
    encoder, reference, target, _ = pair
    x, cells = target.x.toarray()[:, SHARED], reference.x.toarray()
    z = (x - x.mean(0)) / x.std(0)
    standard = (cells - cells.mean(0)) / cells.std(0)
    of_cells = standard[:, SHARED]
    cosine = z @ of_cells.T / np.linalg.norm(z, axis=1)[:, None] / np.linalg.norm(of_cells, axis=1)
    nearest = np.argsort(-cosine, axis=1)[:, : N_CELLS // 10]
    expected = 1.5 + 0.5 * standard[nearest].mean(1)[:, UNMEASURED]
    found = NearestCells(encoder, reference, target)
    np.testing.assert_array_equal(found.genes, UNMEASURED)
    np.testing.assert_allclose(found.expected(np.arange(N_SPOTS)), expected, atol=1e-4)


def test_the_type_of_a_spot_is_found_though_platforms_catch_genes_differently(pair):
    encoder, reference, target, own = pair
    found = NearestCells(encoder, reference, target).expected(np.arange(N_SPOTS))
    apart = np.abs(found[own == 0].mean(0) - found[own == 1].mean(0))
    assert (apart > 0.2).all()


def test_a_spot_without_a_shared_value_gets_the_means(pair):
    encoder, reference, target, _ = pair
    hidden = np.zeros(target.x.shape, bool)
    hidden[4] = True
    found = NearestCells(encoder, reference, target.without(sp.csr_matrix(hidden))).expected(np.array([3, 4]))
    np.testing.assert_allclose(found[1], 1.5, atol=1e-6)
    assert (np.abs(found[0] - 1.5) > 1e-3).any()


def test_hidden_values_do_not_count(pair):
    encoder, reference, target, _ = pair
    hidden = sp.csr_matrix(np.random.default_rng(1).random(target.x.shape) < 0.3)
    one = NearestCells(encoder, reference, target.without(hidden)).expected(np.arange(N_SPOTS))
    changed = target.x.toarray()
    changed[hidden.toarray()] = 9
    other = tissue(changed, target.missing.toarray()).without(hidden)
    np.testing.assert_array_equal(one, NearestCells(encoder, reference, other).expected(np.arange(N_SPOTS)))


def test_only_wanted_genes(pair):
    encoder, reference, target, _ = pair
    wanted = np.arange(N_GENES) == 7
    every, one = NearestCells(encoder, reference, target), NearestCells(encoder, reference, target, wanted)
    spots = np.arange(N_SPOTS)
    np.testing.assert_array_equal(one.genes, [7])
    np.testing.assert_array_equal(one.expected(spots)[:, 0], every.expected(spots)[:, 1])
