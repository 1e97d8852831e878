import numpy as np
import pytest
import scipy.sparse as sp

from stmcdi_cli.model.scales import SCALES, ScaleSearch


def found_scale(x, depth):
    """Scale of a matrix, given in two parts; without depths all spots have depth 1."""
    depth = np.ones(x.shape[0]) if depth is None else depth
    search = ScaleSearch()
    for rows in (slice(0, 30), slice(30, None)):
        search.see(x[rows], depth[rows])
    return search.scale


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
    found = found_scale(x, depth if known else None)
    # Without depths, linear values and counts are one and the same thing.
    assert {found} | {scale} <= ({"linear", "counts"} if not known and scale != "log1p" else {scale})


def test_scale_of_large_counts_survives_single_precision():
    _, s, counts = data()
    counts = np.where(np.arange(counts.size).reshape(counts.shape) % 3, counts, counts * 5000)
    x = sp.csr_matrix(np.log1p(counts / s[:, None]).astype(np.float32))
    assert found_scale(x, s) == "log1p"


OTHER = {
    "smooth": lambda random, counts, s: random.gamma(2, 1, counts.shape),
    "other normalisation": lambda random, counts, s: np.log1p(1e4 * counts / counts.sum(1, keepdims=True)),
    "log2": lambda random, counts, s: np.log2(1 + counts / s[:, None]),
    "one value off": lambda random, counts, s: np.where(np.arange(counts.size).reshape(counts.shape) == 7, 2.5, counts),
    "intensities": lambda random, counts, s: random.uniform(50, 600, counts.shape),
    "large intensities": lambda random, counts, s: random.uniform(2e3, 6e4, counts.shape),
}


@pytest.mark.parametrize("kind", OTHER)
def test_other_values_are_no_counts(kind):
    random, s, counts = data()
    x = sp.csr_matrix(OTHER[kind](random, counts, s).astype(np.float32))
    assert found_scale(x, None) is None
    assert found_scale(x, s) is None


def test_counts_that_are_all_large_are_counts():
    random, s, counts = data()
    x = sp.csr_matrix((counts + 50).astype(np.float32))
    assert found_scale(x, s) == "counts"


def test_nothing_has_no_scale():
    assert found_scale(sp.csr_matrix((4, 3), dtype=np.float32), None) is None
