"""The scales on which expression may be given, and the search for the one on which all values are whole counts."""

from collections.abc import Callable

import numpy as np
import scipy.sparse as sp

SCALES: dict[str, tuple[Callable, Callable]] = {
    # name: count and depth to value, value and depth to count
    "log1p": (lambda count, s: np.log1p(count / s), lambda x, s: np.expm1(x) * s),
    "linear": (lambda count, s: count / s, lambda x, s: x * s),
    "counts": (lambda count, s: count + 0 * s, lambda x, s: x + 0 * s),
}

SHALLOWEST = 1e-4
"""Smallest depth: shallower spots are treated as if they had it, because spots without counts have depth 0."""
_TOLERANCE = 2e-3
_ROUNDING = 2e-6
"""Largest relative rounding error of a count in float32, on any of the scales."""
_SMALL = 1e4
"""Half of the counts must be at most this large: of much larger values, all are whole within the tolerance."""


class ScaleSearch:
    """Search for the scale of a matrix of which some rows are given at a time.

    The values decide, not the history of the file, so that files normalised elsewhere are recognised too.
    """

    def __init__(self) -> None:
        # Numbers of all and of small values by scale. Raw counts come first: no other values fit them by accident.
        self._left = {name: [0, 0] for name in reversed(SCALES)}

    def see(self, x: sp.csr_matrix, depth: np.ndarray) -> None:
        """Exclude the scales on which some value of these rows [n, G], with depths [n], is not a whole count."""
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
            self._left[name][1] += int(np.count_nonzero(counts <= _SMALL))

    @property
    def scale(self) -> str | None:
        """The first scale on which all values were whole counts and most of them small; None where there is none."""
        return next((name for name, (n, n_small) in self._left.items() if n and 2 * n_small >= n), None)
