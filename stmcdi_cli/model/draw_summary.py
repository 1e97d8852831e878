"""What is said of many draws, without keeping them where that can be helped."""

from collections.abc import Collection

import numpy as np

from stmcdi_cli import anndata_keys as keys

QUANTILES = (keys.IMPUTED_MEDIAN, keys.IMPUTED_Q05, keys.IMPUTED_Q95)
SPREAD = (keys.IMPUTED_SD, *QUANTILES)


class Summary:
    """Spread of the draws of some entries.

    Parameters
    ----------
    wanted
        Which entries, bool [B, G].
    n_samples
        Draws there will be.
    names
        Names in `SPREAD` of what will be asked for: only quantiles need all draws at once.
    """

    def __init__(self, wanted: np.ndarray, n_samples: int, names: Collection[str]) -> None:
        self.wanted = wanted
        self.names = [name for name in SPREAD if name in names]
        self._until = np.concatenate([[0], np.cumsum(wanted.sum(1))])
        n = int(self._until[-1])
        self._draws = np.empty((n_samples, n), np.float32) if set(QUANTILES) & set(names) else None
        # Mean and sum of squared deviations so far (Welford): draws that are all alike have no spread at all.
        self._mean, self._squares = (np.zeros(n) for _ in range(2))
        self._n: dict[int, int] = {}

    def add(self, number: int, rows: slice, values: np.ndarray) -> None:
        """Take in a draw of some rows [rows, G]."""
        part = slice(self._until[rows.start], self._until[rows.stop])
        chosen = values[self.wanted[rows]]
        if self._draws is not None:
            self._draws[number, part] = chosen
        if keys.IMPUTED_SD in self.names:
            self._n[rows.start] = n = self._n.get(rows.start, 0) + 1
            change = chosen - self._mean[part]
            self._mean[part] += change / n
            self._squares[part] += change * (chosen - self._mean[part])

    def layers(self, tail: float) -> dict[str, np.ndarray]:
        """What was asked for, by name, float32 [entries]; the interval leaves out a share `tail` on either side."""
        found: dict[str, np.ndarray] = {}
        if keys.IMPUTED_SD in self.names:
            found[keys.IMPUTED_SD] = np.sqrt(self._squares / max(self._n.values(), default=1))
        if self._draws is not None:
            chosen = [name for name in QUANTILES if name in self.names]
            at = {keys.IMPUTED_Q05: tail, keys.IMPUTED_MEDIAN: 0.5, keys.IMPUTED_Q95: 1 - tail}
            found |= zip(chosen, np.quantile(self._draws, [at[name] for name in chosen], axis=0), strict=True)
        return {name: values.astype(np.float32) for name, values in found.items()}
