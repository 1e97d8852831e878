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
from torch.nn.functional import normalize

from stmcdi_cli.model.latent.shared_genes import SharedGenes

_CELLS = 50
"""Cells whose mean is taken, of a reference of at least ten times as many."""


class NearestCells:
    """The mean of the most similar cells."""

    def __init__(self, shared: SharedGenes) -> None:
        self.shared = shared
        self._directions = normalize(shared.cells)
        self._n_nearest = max(1, min(_CELLS, len(shared.cells) // 10))

    def expected(self, spots: np.ndarray) -> np.ndarray:
        """Expected expression of `shared.genes` in some spots, on ``X``'s scale, at least 0, float32 [B, K].

        A spot without a value of a shared gene is like any cell, and gets each gene's mean.
        """
        direction = normalize(self.shared.spots(spots))
        nearest = torch.topk(direction @ self._directions.T, self._n_nearest).indices.numpy()
        shape = len(spots), len(self._directions)
        share = np.full(nearest.size, 1 / self._n_nearest)
        pointers = np.arange(0, nearest.size + 1, self._n_nearest)
        mean = (sp.csr_matrix((share, nearest.ravel(), pointers), shape=shape) @ self.shared.values).toarray()
        deviation = (mean - self.shared.cell_mean) / self.shared.cell_scale
        deviation[~direction.any(1).numpy()] = 0
        return self.shared.in_target(deviation)
