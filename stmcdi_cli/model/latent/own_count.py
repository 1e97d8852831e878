"""What a visible count says of its own gene and spot alone, beyond what it says of the latents.

Counts vary more around what the latents explain than Poisson variables do. A part of that belongs to the gene in this
spot: it is there again in other molecules of the spot. With g_ij ~ Gamma(mean 1, variance p phi_j), where phi_j is the
gene's dispersion and p the part of it that is the spot's own::

    n_ij ~ Poisson(mu_ij g_ij)        E[g_ij | n_ij] = (1 + p phi_j n_ij) / (1 + p phi_j mu_ij)

the posterior of g is again a gamma distribution, with variance p phi_j / (1 + p phi_j n_ij) relative to its squared
mean (Gelman et al., Bayesian Data Analysis, section 2.6). What is left of the dispersion, (1 - p) phi_j, stays noise of
a new observation. Only a visible entry that is denoised has an n_ij; one without a value has mean mu_ij and
dispersion phi_j.

p is chosen by count thinning (Neufeld et al. 2024): counts that were kept from the model are dealt out to two halves,
and the first, with the model's mean, has to predict the second.
"""

from collections.abc import Iterable

import numpy as np

from stmcdi_cli.model.latent.negative_binomial import log_probability

OWN_PARTS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Parts of the dispersion that may be the spot's own."""


class OwnCounts:
    """What is known of the genes of single spots from counts that were seen there.

    Parameters
    ----------
    count
        Counts; NaN where none was seen [n].
    dispersion
        Dispersions of the genes [n].
    part
        Part of the dispersion that is the spot's own.

    Attributes
    ----------
    seen
        Where there is a count, bool [n].
    uncertainty
        Variance of g given the counts, relative to its squared mean [n].
    dispersion
        Dispersions of new counts, given those seen [n].
    """

    def __init__(self, count: np.ndarray, dispersion: np.ndarray, part: float) -> None:
        self.seen = np.isfinite(count)
        self._own = np.where(self.seen, part * dispersion, 0)
        self._gain = 1 + self._own * np.where(self.seen, count, 0)
        self.uncertainty = self._own / self._gain
        self.dispersion = self.uncertainty + dispersion - self._own

    def revise(self, mean: np.ndarray, entries: slice = slice(None)) -> np.ndarray:
        """Mean of new counts [n] from the mean by the latents alone; of all entries, or of some."""
        return mean * self._gain[entries] / (1 + self._own[entries] * mean)


def choose_part(entries: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]], seed: int) -> float:
    """Choose the part of `OWN_PARTS` under which one half of the counts is likeliest given the other half.

    Parameters
    ----------
    entries
        Blocks of (mean count, dispersion, count), all [n], of entries that the means do not depend on.
    seed
        Seed of the halves.
    """
    random = np.random.default_rng(seed)
    total = np.zeros(len(OWN_PARTS))
    for mean, dispersion, count in entries:
        first = random.binomial(count.astype(np.int64), 0.5)
        for k, part in enumerate(OWN_PARTS):
            own = OwnCounts(first, dispersion, part)
            # Half of the molecules are half as deep: the mean is half as large, and g is the same for both halves.
            total[k] += log_probability(count - first, own.revise(mean / 2), own.uncertainty).sum()
    return OWN_PARTS[int(np.argmax(total))]
