"""The scale is judged by spots: a few odd ones decide nothing for the others."""

import numpy as np
import pytest
import scipy.sparse as sp

from stmcdi_cli.model.scales import SCALES, ScaleSearch


def search(x, depth=None, recorded=None, n_blocks=1):
    found = ScaleSearch(recorded)
    for rows in np.array_split(np.arange(x.shape[0]), n_blocks):
        found.see(x[rows], np.ones(len(rows)) if depth is None else depth[rows])
    return found


def scale_of(x, depth):
    return search(x, depth).scale


def data(seed=0, n=80, genes=30):
    random = np.random.default_rng(seed)
    s = random.gamma(4, 0.25, n)
    return random, s, random.poisson(random.gamma(0.5, 6, genes) * s[:, None])


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("known", [True, False])
def test_scale_is_recognised(scale, known):
    _, s, counts = data()
    depth = s if known else np.ones(len(s))
    x = sp.csr_matrix(SCALES[scale][0](counts, depth[:, None]).astype(np.float32))
    found = scale_of(x, depth if known else None)
    # Without depths, linear values and counts are one and the same thing.
    assert {found} | {scale} <= ({"linear", "counts"} if not known and scale != "log1p" else {scale})


def test_scale_of_large_counts_survives_single_precision():
    _, s, counts = data()
    counts = np.where(np.arange(counts.size).reshape(counts.shape) % 3, counts, counts * 5000)
    x = sp.csr_matrix(np.log1p(counts / s[:, None]).astype(np.float32))
    assert scale_of(x, s) == "log1p"


OTHER = {
    "smooth": lambda random, counts, s: random.gamma(2, 1, counts.shape),
    "other normalisation": lambda random, counts, s: np.log1p(1e4 * counts / counts.sum(1, keepdims=True)),
    "log2": lambda random, counts, s: np.log2(1 + counts / s[:, None]),
    "intensities": lambda random, counts, s: random.uniform(50, 600, counts.shape),
    "large intensities": lambda random, counts, s: random.uniform(2e3, 6e4, counts.shape),
}


@pytest.mark.parametrize("kind", OTHER)
def test_other_values_are_no_counts(kind):
    random, s, counts = data()
    x = sp.csr_matrix(OTHER[kind](random, counts, s).astype(np.float32))
    assert scale_of(x, None) is None
    assert scale_of(x, s) is None


def test_counts_that_are_all_large_are_counts():
    random, s, counts = data()
    x = sp.csr_matrix((counts + 50).astype(np.float32))
    assert scale_of(x, s) == "counts"


def test_nothing_has_no_scale():
    assert scale_of(sp.csr_matrix((4, 3), dtype=np.float32), None) is None


ODD = {  # what one spot may hold that is no whole count of the others' scale
    "a value off": lambda x, s: x * 1.37,
    "a huge value": lambda x, s: np.where(np.arange(x.size) == 3, 1e4, x),
    "all values the same": lambda x, s: np.full(x.size, 0.7),
}


@pytest.mark.parametrize("kind", ODD)
def test_one_odd_spot_is_named_and_decides_nothing(kind):
    _, s, counts = data()
    x = np.log1p(counts / s[:, None])
    x[11] = ODD[kind](x[11], s[11])
    x = sp.csr_matrix(x.astype(np.float32))
    for n_blocks in (1, 7):
        found = search(x, s, n_blocks=n_blocks)
        assert found.scale == "log1p"
        np.testing.assert_array_equal(np.flatnonzero(found.odd_spots), [11])


def test_a_spot_with_a_single_count_is_like_the_others():
    """Half of mob_rep11's molecules leave a spot with one count, of size factor 7e-5."""
    _, s, counts = data()
    s[5], counts[5] = 7e-5, 0
    counts[5, 2] = 1
    found = search(sp.csr_matrix(np.log1p(counts / s[:, None]).astype(np.float32)), s)
    assert found.scale == "log1p" and not found.odd_spots.any()


def test_values_stored_as_float16_are_recognised():
    _, s, counts = data()
    x = np.log1p(counts / s[:, None]).astype(np.float16).astype(np.float32)
    found = search(sp.csr_matrix(x), s)
    assert found.scale == "log1p" and not found.odd_spots.any()


def test_empty_spots_are_no_evidence():
    _, s, counts = data()
    counts[10:] = 0
    found = search(sp.csr_matrix(np.log1p(counts / s[:, None]).astype(np.float32)), s)
    assert found.scale == "log1p" and not found.odd_spots.any()


@pytest.mark.parametrize(
    ("share", "alone", "recorded"), [(0.05, "log1p", "log1p"), (0.3, None, "log1p"), (0.6, None, None)]
)
def test_a_record_needs_fewer_spots_to_confirm_it(share, alone, recorded):
    _, s, counts = data()
    x = np.log1p(counts / s[:, None])
    x[: int(share * len(x))] *= 1.37
    x = sp.csr_matrix(x.astype(np.float32))
    assert search(x, s).scale == alone
    assert search(x, s, recorded="log1p").scale == recorded


def test_no_scale_has_no_odd_spots():
    random, s, _ = data()
    found = search(sp.csr_matrix(random.gamma(2, 1, (20, 5)).astype(np.float32)))
    assert found.scale is None and not found.odd_spots.any() and len(found.odd_spots) == 20
