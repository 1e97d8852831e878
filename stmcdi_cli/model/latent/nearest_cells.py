"""Genes that a panel never measured, in the cells of a reference that resemble a spot most.

The factor model predicts such a gene from a few latents, along straight lines. Where a panel has few genes, and cells
differ by their types, the mean of the most similar cells is as good, and its errors are others: so a part of the
prediction is taken from it, chosen on genes left out whole (`validation_cases`). Similar are cells of which the genes
that both sides have, standardised within each side, point in the same direction: the cosine does not depend on how
much a platform catches.
"""

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor, nn

from stmcdi_cli.model.latent.counting_noise import gene_rates
from stmcdi_cli.model.latent.factor_model import SpatialFactorModel
from stmcdi_cli.model.tissue import Tissue

_CELLS = 50
"""Cells whose mean is taken, of a reference of at least ten times as many."""


class NearestCells:
    """Expected expression of the genes of a target that only the reference has.

    Parameters
    ----------
    encoder
        Gives mean and standard deviation of every gene in the target, predicted for genes that were not measured.
    reference, target
        The cells of the reference, and the spots to predict for.
    wanted
        Genes to predict of those that were not measured, bool [G]; all by default.

    Attributes
    ----------
    genes
        Positions of the genes that are predicted [K].
    """

    def __init__(
        self, encoder: SpatialFactorModel, reference: Tissue, target: Tissue, wanted: np.ndarray | None = None
    ) -> None:
        reference = reference.in_memory()
        measured, known = target.n_visible > 0, reference.n_visible > 0
        self._shared = np.flatnonzero(measured & known)
        self.genes = np.flatnonzero(~measured & known & (True if wanted is None else wanted))
        self._target, self._mean, self._scale = target, encoder.rate.numpy(), encoder.scale.numpy()
        self._cell_mean, self._cell_scale = (
            part.numpy() for part in gene_rates(reference, encoder.weight_of_depth(reference.depth))
        )
        self._values = sp.csr_matrix(reference.x[:, self.genes], dtype=np.float64)
        self._directions = self._direction(reference, np.arange(reference.n_spots), self._cell_mean, self._cell_scale)
        self._n_nearest = max(1, min(_CELLS, reference.n_spots // 10))

    def _direction(self, tissue: Tissue, spots: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> Tensor:
        """Standardised values of the shared genes, 0 where there is none, at length 1 [B, S]."""
        seen = ~tissue.missing[spots][:, self._shared].toarray()
        values = (tissue.x[spots][:, self._shared].toarray() - mean[self._shared]) / scale[self._shared]
        return nn.functional.normalize(torch.from_numpy(np.where(seen, values, 0).astype(np.float32)))

    def expected(self, spots: np.ndarray) -> np.ndarray:
        """Expected expression of `genes` in some spots, on ``X``'s scale, at least 0, float32 [B, K].

        A spot without a value of a shared gene is like any cell, and gets each gene's mean.
        """
        direction = self._direction(self._target, spots, self._mean, self._scale)
        nearest = torch.topk(direction @ self._directions.T, self._n_nearest).indices.numpy()
        shape = len(spots), len(self._directions)
        share = np.full(nearest.size, 1 / self._n_nearest)
        pointers = np.arange(0, nearest.size + 1, self._n_nearest)
        mean = (sp.csr_matrix((share, nearest.ravel(), pointers), shape=shape) @ self._values).toarray()
        deviation = (mean - self._cell_mean[self.genes]) / self._cell_scale[self.genes]
        deviation[~direction.any(1).numpy()] = 0
        return np.maximum(self._mean[self.genes] + self._scale[self.genes] * deviation, 0).astype(np.float32)
