"""Genes that a panel never measured, by ridge regression on the genes that it did measure.

The factor model sees the shared genes through a few latents. Where there are many cells in the reference, a regression
on all shared genes finds more than these hold: relations of two genes alone, for instance. A part of the prediction is
taken from it, chosen on genes left out whole (`validation_cases`).
"""

import numpy as np
import torch
from torch import Tensor

from stmcdi_cli.model.latent.blocks import BLOCK
from stmcdi_cli.model.latent.shared_genes import SharedGenes

_PENALTIES = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Ridge penalties to choose from, for each cell. Directions in which cells vary by less, where a gene alone has 1,
are mostly noise; in the target, which another platform measured, more so than in the reference."""
_MOST_GENES = 1000
"""Shared genes to learn from: those that vary most between the cells."""


class GeneRegression:
    """Ridge regression on the shared genes, learnt from the cells of the reference.

    Each gene has the penalty with the least generalised cross-validation error (Golub, Heath and Wahba,
    Technometrics 21, 1979), (squared error) / (N - degrees of freedom)^2.
    """

    def __init__(self, shared: SharedGenes) -> None:
        self.shared = shared
        n = len(shared.cells)
        most = np.argsort(-shared.spread, kind="stable")[:_MOST_GENES]
        self._predictors = torch.from_numpy(np.sort(most))
        gram, products, squares = self._sums(n)
        eigenvalues, directions = torch.linalg.eigh(gram)
        eigenvalues = eigenvalues.clamp(min=0)
        along = directions.T @ products
        shrunk = 1 / (eigenvalues + n * torch.tensor(_PENALTIES, dtype=torch.float64)[:, None])  # [penalties, S]
        error = squares - (2 * shrunk - eigenvalues * shrunk**2) @ along**2
        n_free = 1 + (eigenvalues * shrunk).sum(1, keepdim=True)
        best = (error / (n - n_free).clamp(min=1) ** 2).argmin(0)
        self._coefficients = (directions @ (shrunk[best].T * along)).float()

    def _sums(self, n: int) -> tuple[Tensor, Tensor, Tensor]:
        """Products of shared genes with each other [S, S], with the genes to predict [S, K], and squares of these [K].

        All are those of deviations from the means over the cells, float64.
        """
        values, n_genes = self.shared.values, len(self._predictors)
        gram, products = (torch.zeros(n_genes, k, dtype=torch.float64) for k in (n_genes, values.shape[1]))
        total = torch.zeros(n_genes, dtype=torch.float64)
        for i in range(0, n, BLOCK):
            part = self.shared.cells[i : i + BLOCK, self._predictors].double()
            gram += part.T @ part
            products += torch.from_numpy((values[i : i + BLOCK].T @ part.numpy()).T)
            total += part.sum(0)
        scale = torch.from_numpy(self.shared.cell_scale.astype(np.float64))
        value_total, squares = (torch.from_numpy(np.asarray(part.sum(0)).ravel()) for part in (values, values.power(2)))
        products = (products - torch.outer(total, value_total) / n) / scale
        return gram - torch.outer(total, total) / n, products, (squares - value_total**2 / n) / scale**2

    def expected(self, spots: np.ndarray) -> np.ndarray:
        """Expected expression of `shared.genes` in some spots, on ``X``'s scale, at least 0, float32 [B, K].

        A spot without a value of a shared gene gets each gene's mean.
        """
        return self.shared.in_target((self.shared.spots(spots)[:, self._predictors] @ self._coefficients).numpy())
