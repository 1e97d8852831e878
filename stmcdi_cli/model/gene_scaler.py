"""Scale each gene by its visible entries."""

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

MIN_SD = 0.02
"""Least standard deviation, on the log1p scale, by which a gene known from sparse data is divided: without it, a gene
seen in one spot would get huge values."""


@dataclass(frozen=True)
class GeneScaler:
    """A linear scale per gene, on which its visible entries have mean 0.

    Attributes
    ----------
    mean, scale
        What to subtract from each gene and what to divide it by, float32 [G].
    """

    mean: np.ndarray
    scale: np.ndarray

    @classmethod
    def fit(cls, x: np.ndarray, visible: np.ndarray, power: float = 1.0) -> "GeneScaler":
        """Measure dense values.

        Parameters
        ----------
        x, visible
            Expression, and True where it is visible [n, G].
        power
            Genes are divided by this power of their standard deviation: 1 standardises, 0 only centres.
        """
        sd = gene_sd(x, visible)
        scale = np.where(sd > 1e-6, sd, 1) ** power
        return cls(gene_mean(x, visible).astype(np.float32), scale.astype(np.float32))

    @classmethod
    def fit_sparse(cls, x: sp.csr_matrix, hidden: sp.csr_matrix) -> "GeneScaler":
        """Measure sparse values [n, G], which are 0 where `hidden`: only the number of entries has to be corrected."""
        n = np.maximum(x.shape[0] - np.asarray(hidden.sum(0)).ravel(), 1)
        mean = np.asarray(x.sum(0, dtype=np.float64)).ravel() / n
        square = np.asarray(x.multiply(x).sum(0, dtype=np.float64)).ravel() / n
        sd = np.sqrt(np.maximum(square - mean**2, MIN_SD**2))
        return cls(mean.astype(np.float32), sd.astype(np.float32))

    def transform(self, x: np.ndarray) -> np.ndarray:
        """Go from ``X``'s scale to this one [n, G]."""
        return (x - self.mean) / self.scale

    def inverse(self, z: np.ndarray) -> np.ndarray:
        """Go back to ``X``'s scale [n, G]."""
        return self.mean + self.scale * z


def gene_mean(x: np.ndarray, visible: np.ndarray) -> np.ndarray:
    """Mean of each gene over its visible entries, float64 [G]; 0 where a gene has none."""
    return (x * visible).sum(0, dtype=np.float64) / np.maximum(visible.sum(0), 1)


def gene_sd(x: np.ndarray, visible: np.ndarray) -> np.ndarray:
    """Standard deviation of each gene over its visible entries, float64 [G]."""
    centred = (x - gene_mean(x, visible).astype(np.float32)) * visible
    return np.sqrt((centred**2).sum(0, dtype=np.float64) / np.maximum(visible.sum(0), 1))
