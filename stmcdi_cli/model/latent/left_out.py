"""What genes that were left out whole tell about those that were never measured."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from stmcdi_cli import anndata_keys as keys
from stmcdi_cli.model.latent.validation_cases import Case, Moments


class LeftOut(NamedTuple):
    """Genes that target and reference share, each predicted without a value of it in the target.

    Attributes
    ----------
    genes
        Their positions, ascending, int64 [K].
    correlation
        Correlation of what was predicted with the true values over spots, float32 [K].
    expected
        The same as the spread of the draws lets expect it, float32 [K]: see `expected_correlation`.
    """

    genes: Tensor
    correlation: Tensor
    expected: Tensor

    @classmethod
    def none(cls) -> "LeftOut":
        """No gene, as without a reference."""
        return cls(torch.zeros(0, dtype=torch.int64), torch.zeros(0), torch.zeros(0))

    @classmethod
    def of(
        cls, cases: Sequence[Case], moments: Sequence[Moments], shares: Sequence[float], expected: Sequence[np.ndarray]
    ) -> "LeftOut":
        """Collect what the cases found, with these shares of the branches; `expected` [genes of each case]."""
        positions = [np.flatnonzero(case.genes) for case in cases if case.genes is not None]
        if not positions:
            return cls.none()
        achieved = [found.correlations(shares)[some] for found, some in zip(moments, positions, strict=True)]
        order = np.argsort(np.concatenate(positions))
        genes, *values = (np.concatenate(parts)[order] for parts in (positions, achieved, expected))
        return cls(torch.from_numpy(genes), *(torch.from_numpy(each.astype(np.float32)) for each in values))

    def state(self) -> dict[str, Tensor]:
        """All of it by name; empty without genes."""
        return {f"left_out.{name}": part for name, part in self._asdict().items()} if len(self.genes) else {}

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor], n_genes: int) -> "LeftOut":
        """Read what `state` gave, of a model of so many genes."""
        if "left_out.genes" not in state:
            return cls.none()
        found = cls(*(state[f"left_out.{name}"] for name in cls._fields))
        if found.genes.dtype != torch.int64 or not ((found.genes >= 0) & (found.genes < n_genes)).all():
            raise ValueError(f"the genes left out are not among 0 to {n_genes - 1}")
        if not found.correlation.shape == found.expected.shape == found.genes.shape or found.genes.ndim != 1:
            raise ValueError("the genes left out do not have one correlation each")
        return found

    def columns(self, n_genes: int) -> dict[str, np.ndarray]:
        """Columns of ``var``, float32 [G], NaN for genes that were not left out; none without genes."""
        columns = {}
        for key, values in ((keys.LEFT_OUT_R, self.correlation), (keys.LEFT_OUT_EXPECTED_R, self.expected)):
            columns[key] = np.full(n_genes, np.nan, dtype=np.float32)
            columns[key][self.genes.numpy()] = values.numpy()
        return columns if len(self.genes) else {}


def expected_correlation(genes: np.ndarray, means: np.ndarray, variances: np.ndarray, n_genes: int) -> np.ndarray:
    """Correlation of expected values with new measurements: sqrt(V / (V + S)) of each gene [G], 0 without entries.

    Parameters
    ----------
    genes
        Gene of each entry [n].
    means
        Expected values [n]; V is their variance within a gene.
    variances
        Variance of a new observation around each [n]; S is the mean of a gene.
    n_genes
        Number of genes.
    """
    n = np.maximum(np.bincount(genes, minlength=n_genes), 1)
    center = (np.bincount(genes, means, n_genes) / n)[genes]
    between, spread = (np.bincount(genes, values, n_genes) for values in ((means - center) ** 2, variances))
    return np.sqrt(between / np.maximum(between + spread, 1e-12))
