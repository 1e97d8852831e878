"""The scales on which expression may be given, and the search for the one on which it is whole counts."""

from collections.abc import Callable

import numpy as np
import scipy.sparse as sp

from stmcdi_cli.sparse import row_chunks

SCALES: dict[str, tuple[Callable, Callable]] = {
    # name: count and depth to value, value and depth to count
    "log1p": (lambda count, s: np.log1p(count / s), lambda x, s: np.expm1(x) * s),
    "linear": (lambda count, s: count / s, lambda x, s: x * s),
    "counts": (lambda count, s: count + 0 * s, lambda x, s: x + 0 * s),
}

SHALLOWEST = 1e-4
"""Depth below which a spot counts as this deep: spots without any count have depth 0."""
_TOLERANCE = 2e-3
_ROUNDING = 2e-6
"""What float32 can do to a count, relative to it, on any of the scales."""
_TELLING = 1e4
"""A median count up to which being whole says something: by rounding or by size, everything far above it is whole."""


def detect_scale(x: sp.csr_matrix, size_factor: np.ndarray | None) -> str | None:
    """Name the scale on which `x` is whole counts, or None where it is on none of them.

    Asking the data, not the file's history, works for files normalised elsewhere too.
    """
    depth = np.ones(x.shape[0]) if size_factor is None else np.maximum(size_factor, SHALLOWEST)
    found = ScaleSearch()
    for rows in row_chunks(x.shape):
        found.see(x[rows], depth[rows])
    return found.scale


class ScaleSearch:
    """Search for the scale of a matrix that is seen a few rows at a time."""

    def __init__(self) -> None:
        # The plainest first: nothing fits raw counts by accident. Values seen, and those small enough to tell.
        self._left = {name: [0, 0] for name in reversed(SCALES)}

    def see(self, x: sp.csr_matrix, depth: np.ndarray) -> None:
        """Look at rows of a matrix, and the depths of these."""
        if x.nnz == 0:
            return
        s = np.repeat(depth, np.diff(x.indptr))
        for name in list(self._left):
            with np.errstate(over="ignore"):
                counts = SCALES[name][1](x.data.astype(np.float64), s)
            whole = np.round(counts)
            if np.isinf(counts).any() or not (
                np.all(np.abs(counts - whole) <= _TOLERANCE + _ROUNDING * whole) and whole.min() >= 1
            ):
                del self._left[name]
                continue
            self._left[name][0] += len(counts)
            self._left[name][1] += int(np.count_nonzero(counts <= _TELLING))

    @property
    def scale(self) -> str | None:
        """The first scale on which all values seen are whole counts and most of them small."""
        return next((name for name, (n, telling) in self._left.items() if n and 2 * telling >= n), None)
