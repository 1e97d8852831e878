"""The observation model: what would be counted at an expected expression, counting noise included."""

from collections.abc import Iterable

import numpy as np
from scipy.special import gammaln

from stmcdi_cli.model.counts import DISPERSIONS, SCALES, CountTable


class Observation:
    """Negative binomial counts of each gene's own dispersion, on the scale of ``X``.

    Parameters
    ----------
    scale
        A name in `counts.SCALES`.
    depth
        Depths of the spots that will be asked for.
    max_mean
        Largest mean count that will be asked for.
    """

    def __init__(self, scale: str, depth: np.ndarray, max_mean: float) -> None:
        self.value, self.count = SCALES[scale]
        self.tables = [CountTable(scale, dispersion, depth, max_mean) for dispersion in DISPERSIONS]

    def fit(self, parts: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]], n_genes: int) -> np.ndarray:
        """Log-likelihood of every gene under every dispersion [len(DISPERSIONS), G].

        Parameters
        ----------
        parts
            Blocks of (depth [B], expected expression [B, G], counts [B, G], which of them to use [B, G]).
        n_genes
            G.
        """
        total = np.zeros((len(DISPERSIONS), n_genes))
        for depth, expected, counts, use in parts:
            for k, (table, dispersion) in enumerate(zip(self.tables, DISPERSIONS, strict=True)):
                mean = table.inverse(depth)(expected).astype(np.float64)
                total[k] += np.where(use, log_probability(counts, mean, dispersion), 0).sum(0)
        return total

    def at(self, depth: np.ndarray, which: np.ndarray) -> "Observer":
        """Prepare to observe spots of some depths [B]; `which` is each gene's index in `DISPERSIONS` [G]."""
        return Observer(self, depth, which)


class Observer:
    """Observes one block of spots as often as asked."""

    def __init__(self, observation: Observation, depth: np.ndarray, which: np.ndarray) -> None:
        self.value, self.depth = observation.value, depth
        self.groups = [(np.flatnonzero(which == k), observation.tables[k].inverse(depth)) for k in np.unique(which)]
        dispersion = np.array(DISPERSIONS)[which]
        self.poisson = dispersion == 0
        self.shape = 1 / np.where(self.poisson, 1.0, dispersion)

    def draw(self, expected: np.ndarray, keys: list[tuple[int, int, int]]) -> np.ndarray:
        """Draw one observation of every entry, float32 [B, G].

        Parameters
        ----------
        expected
            Expected expression [B, G].
        keys
            (seed, spot, sample) of each row: its random numbers depend on nothing else.
        """
        mean = np.empty(expected.shape, dtype=np.float64)
        for genes, inverse in self.groups:
            mean[:, genes] = inverse(expected[:, genes])
        out = np.empty(expected.shape, dtype=np.float32)
        for i, (seed, spot, sample) in enumerate(keys):
            generator = np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, sample, spot]))
            rate = mean[i] * np.where(self.poisson, 1.0, generator.standard_gamma(self.shape) / self.shape)
            out[i] = self.value(generator.poisson(rate), self.depth[i])
        return out


def log_probability(counts: np.ndarray, mean: np.ndarray, dispersion: float) -> np.ndarray:
    """Log-probability of counts under a negative binomial (Poisson at dispersion 0)."""
    mean = np.maximum(mean, 1e-12)
    if dispersion == 0:
        return counts * np.log(mean) - mean - gammaln(counts + 1)
    r = 1 / dispersion
    spread = np.log1p(mean * dispersion)
    chance = gammaln(counts + r) - gammaln(r) - gammaln(counts + 1)
    return chance + counts * (np.log(mean * dispersion) - spread) - r * spread
