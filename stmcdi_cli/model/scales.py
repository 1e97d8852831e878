"""The scales on which expression may be given, and the search for the one on which all values are whole counts."""

from collections.abc import Callable, Iterator

import numpy as np
import scipy.sparse as sp

SCALES: dict[str, tuple[Callable, Callable]] = {
    # name: count and depth to value, value and depth to count
    "log1p": (lambda count, s: np.log1p(count / s), lambda x, s: np.expm1(x) * s),
    "linear": (lambda count, s: count / s, lambda x, s: x * s),
    "counts": (lambda count, s: count + 0 * s, lambda x, s: x + 0 * s),
}

SHALLOWEST = 1e-9
"""Depth below which a spot counts as this deep: no logarithm of 0, and below the depth of any spot with a count."""
FITTING_SHARE = 0.9
"""Share of the spots that have to be whole counts on a scale before it is taken for the scale of a tissue."""
RECORDED_SHARE = 0.5
"""The same for the scale that the record of `normalize` names: fewer spots have to confirm what is written there."""

_TOLERANCE = 2e-3
_ROUNDING = 2e-6
"""What float32 can change in a count, relative to it, on any of the scales."""
_HALF_ROUNDING = 2.0**-11
"""What float16 can change in a value, relative to it."""
_LARGEST = 1e4
"""Largest count that is evidence: by rounding or by size, every number far above it is whole."""
_IMPOSSIBLE = 1e8
"""Counts of one gene in one spot above this are no counts."""
_COARSEST = 0.25
"""Largest rounding of a count at which it is still evidence."""


class ScaleSearch:
    """Search for the scale on which a matrix is whole counts; rows are seen a few at a time.

    A scale is judged by spots: one odd value, or one nearly empty spot, decides nothing for the others.

    Parameters
    ----------
    recorded
        Scale that the record of an earlier step names, if any.
    """

    def __init__(self, recorded: str | None = None) -> None:
        self._recorded = recorded
        # Per scale and block of rows: whether each spot fits, and whether it is evidence.
        self._found: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {name: [] for name in SCALES}
        self._n_with_values = 0

    def see(self, x: sp.csr_matrix, depth: np.ndarray) -> None:
        """Look at rows of a matrix, and the depths of these."""
        self._n_with_values += int(np.count_nonzero(np.diff(x.indptr)))
        for name, fits, evidence in _judge(x, depth):
            self._found[name].append((fits, evidence))

    @property
    def scale(self) -> str | None:
        """Name of the scale; None where the values are whole counts on none of them."""
        if self._recorded is not None and self._fitting_share(self._recorded) >= RECORDED_SHARE:
            return self._recorded
        # The plainest first: nothing fits raw counts by accident.
        return next((name for name in reversed(SCALES) if self._fitting_share(name) >= FITTING_SHARE), None)

    @property
    def odd_spots(self) -> np.ndarray:
        """Spots whose values are no whole counts on the scale of the others, bool [n]; none where there is no scale."""
        name = self.scale
        fits = np.concatenate([np.empty(0, bool), *(fits for fits, _ in self._found[name or "counts"])])
        return ~fits if name else np.zeros(len(fits), bool)

    def _fitting_share(self, name: str) -> float:
        """Share of the spots that fit, of those that are evidence; 0 where most spots with values are none."""
        n_evidence = sum(int(np.count_nonzero(evidence)) for _, evidence in self._found[name])
        n_fitting = sum(int(np.count_nonzero(fits & evidence)) for fits, evidence in self._found[name])
        return n_fitting / n_evidence if 2 * n_evidence >= max(1, self._n_with_values) else 0.0


def _judge(x: sp.csr_matrix, depth: np.ndarray) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """By scale: whether all values of a spot are whole counts on it, and whether most can tell; both bool [B]."""
    n_spots, n_values = x.shape[0], np.diff(x.indptr)
    spot = np.repeat(np.arange(n_spots), n_values)
    value, s = x.data.astype(np.float64), depth[spot]
    with np.errstate(over="ignore", invalid="ignore"):
        half = np.bincount(spot, x.data.astype(np.float16) != x.data, n_spots) == 0  # spots stored as float16
        half = half[spot]
        for name, (_, to_count) in SCALES.items():
            count = to_count(value, s)
            whole = np.round(count)
            rounding = np.where(half, to_count(value * (1 + _HALF_ROUNDING), s) - count, _ROUNDING * whole)
            tolerance = _TOLERANCE + rounding
            evidence = (whole <= _LARGEST) & (tolerance < _COARSEST)
            wrong = ~(count < _IMPOSSIBLE) | (evidence & ((np.abs(count - whole) > tolerance) | (whole < 1)))
            n_evidence = np.bincount(spot, evidence, n_spots)
            yield name, np.bincount(spot, wrong, n_spots) == 0, 2 * n_evidence >= np.maximum(n_values, 1)
