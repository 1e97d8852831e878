"""The observation model: draws of expression around its expected value, with counting noise."""

from collections.abc import Iterable
from functools import lru_cache

import numpy as np
from scipy.special import ndtri
from torch import Tensor

from stmcdi_cli.model.latent.blocks import parts_in_cache
from stmcdi_cli.model.latent.count_moments import DISPERSIONS, count_table
from stmcdi_cli.model.latent.counting_noise import largest_mean
from stmcdi_cli.model.latent.negative_binomial import count_quantile, log_probability
from stmcdi_cli.model.latent.own_count import OwnCounts
from stmcdi_cli.model.scales import SCALES
from stmcdi_cli.model.tissue import Tissue

_BETWEEN_DISPERSIONS = np.sqrt((np.array(DISPERSIONS[:-1]) + 0.05) * (np.array(DISPERSIONS[1:]) + 0.05)) - 0.05
"""Bounds between the dispersions that are tabulated: half-way, in ratio."""
_DRAWN_AT_ONCE = 2**18  # entries, few enough for a processor's cache, and enough for few to be left of large counts


class Observation:
    """Negative binomial counts on the scale of ``X``, with one dispersion per gene.

    Parameters
    ----------
    scale
        A name in `scales.SCALES`.
    depth
        Depths of the spots.
    max_mean
        Largest mean count in the tables.
    """

    def __init__(self, scale: str, depth: np.ndarray, max_mean: float) -> None:
        self.value, self.count = SCALES[scale]
        self.tables = [count_table(scale, dispersion, depth, max_mean) for dispersion in DISPERSIONS]

    def fit(self, parts: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]], n_genes: int) -> np.ndarray:
        """Log-likelihood of every gene under every dispersion [len(DISPERSIONS), G].

        Parameters
        ----------
        parts
            Blocks of (depth [B], expected expression [B, G], counts [B, G], mask of the entries to use [B, G]).
        n_genes
            Number of genes, G.
        """
        total = np.zeros((len(DISPERSIONS), n_genes))
        for depth, expected, counts, use in parts:
            rows, genes = np.nonzero(use)
            for k, (table, dispersion) in enumerate(zip(self.tables, DISPERSIONS, strict=True)):
                mean = table.inverse(depth)(expected[use], rows).astype(np.float64)
                total[k] += np.bincount(genes, log_probability(counts[use], mean, dispersion), n_genes)
        return total


def observation_of(tissue: Tissue, rate: Tensor) -> Observation:
    """Give the observation model of a tissue of which the genes have these rates [G]; that of the last one is kept."""
    assert tissue.count_scale is not None
    return _tabulated(tissue.count_scale, tissue.depth.astype(np.float64).tobytes(), largest_mean(tissue, rate))


@lru_cache(maxsize=1)
def _tabulated(scale: str, depth: bytes, max_mean: float) -> Observation:
    return Observation(scale, np.frombuffer(depth), max_mean)


class Observer:
    """Draw observations of some entries of one block of spots, any number of times.

    Parameters
    ----------
    observation
        The observation model of the tissue.
    depth
        Depths [B].
    which
        Index in `DISPERSIONS` of each gene [G].
    wanted
        Entries to observe [B, G].
    seen
        Counts of entries that are visible, NaN elsewhere [B, G]; none by default.
    part
        Part of the dispersion that is the spot's own, see `own_count`.

    Attributes
    ----------
    positions
        Where the wanted entries are in the block [n]: those of genes with the same dispersion follow each other.
    dispersion
        Dispersion of each of them [n].
    """

    def __init__(
        self,
        observation: Observation,
        depth: np.ndarray,
        which: np.ndarray,
        wanted: np.ndarray,
        seen: np.ndarray | None = None,
        part: float = 0.0,
    ) -> None:
        self._value, self._shape = observation.value, wanted.shape
        self._tables = observation.tables
        positions = np.flatnonzero(wanted)
        own_table = which[positions % len(which)]
        order = np.argsort(own_table, kind="stable")
        self.positions, own_table = positions[order], own_table[order]
        self._rows = self.positions // len(which)
        self._block_depth, self.depth = depth, depth[self._rows]
        self.dispersion = np.array(DISPERSIONS)[own_table]
        self._groups = []
        for k in np.unique(own_table):
            entries = slice(*np.searchsorted(own_table, (k, k + 1)))
            self._groups.append((entries, observation.tables[k].inverse(depth)))
        self._own = None
        if seen is not None and part > 0:
            self._own = OwnCounts(seen.take(self.positions), self.dispersion, part)
            self.dispersion = self._own.dispersion

    def mean_counts(self, expected: np.ndarray) -> np.ndarray:
        """Mean counts of the wanted entries [n] of which this is the expected expression [B, G]."""
        expected = expected.take(self.positions)
        mean = np.empty(len(expected))
        for group, inverse in self._groups:
            for some in parts_in_cache(group.stop - group.start, 1):
                entries = slice(group.start + some.start, group.start + some.stop)
                means = inverse(expected[entries], self._rows[entries])
                mean[entries] = means if self._own is None else self._own.revise(means, entries)
        return mean

    def revise(self, expected: np.ndarray) -> np.ndarray:
        """Expected expression [B, G] of new observations, given the counts that were seen of wanted entries."""
        if self._own is None:
            return expected
        log_mean, revised = np.log(np.maximum(self.mean_counts(expected), 1e-12)), expected.take(self.positions)
        nearest = np.searchsorted(_BETWEEN_DISPERSIONS, self.dispersion)
        for k in np.unique(nearest[self._own.seen]):
            entries = np.flatnonzero(self._own.seen & (nearest == k))
            means = self._tables[k].means(self._block_depth)
            revised[entries] = means(log_mean[entries], self._rows[entries])
        out = expected.copy()
        out.put(self.positions, revised)
        return out

    def draw(self, expected: np.ndarray, uniform: np.ndarray) -> np.ndarray:
        """Turn one uniform number per entry into one observation of each wanted entry, float32 [B, G]; others are 0.

        Parameters
        ----------
        expected
            Expected expression by the latents [B, G].
        uniform
            Numbers on [0, 1), [B, G].
        """
        out = np.zeros(self._shape, dtype=np.float32)
        mean, value = self.mean_counts(expected), uniform.take(self.positions)
        for first in range(0, len(value), _DRAWN_AT_ONCE):
            some = slice(first, first + _DRAWN_AT_ONCE)
            count = count_quantile(value[some].astype(np.float64), mean[some], self.dispersion[some])
            value[some] = self._value(count, self.depth[some])
        out.put(self.positions, value)
        return out


class GaussianObserver:
    """The same where counts are not modelled: Gaussian noise of one standard deviation per gene [G]."""

    def __init__(self, spread: np.ndarray) -> None:
        self.spread = spread

    def revise(self, expected: np.ndarray) -> np.ndarray:
        """Expected expression as it is: a value says nothing of its own entry alone."""
        return expected

    def draw(self, expected: np.ndarray, uniform: np.ndarray) -> np.ndarray:
        """Turn one uniform number per entry into one observation, at least 0; all [B, G]."""
        return np.maximum(expected + self.spread * ndtri(np.maximum(uniform, 2**-25)), 0)
