"""The genes that a target and its reference both have, by which genes that only the reference has are predicted.

Both sides are standardised by themselves, because platforms catch genes differently: a predictor learns in standardised
values of the reference, and its predictions are brought to the mean and the standard deviation in the target.
"""

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from stmcdi_cli.model.latent.counting_noise import gene_rates
from stmcdi_cli.model.latent.factor_model import SpatialFactorModel
from stmcdi_cli.model.tissue import Tissue


class SharedGenes:
    """Standardised values of the genes that both sides have, and the genes to predict from them.

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
        Positions of the genes to predict [K].
    cells
        Standardised shared genes of the reference's cells, float32 [N, S].
    spread
        Standard deviations that they had before [S].
    values
        Expression of the genes to predict in these cells, CSR float64 [N, K].
    cell_mean, cell_scale
        Its mean and standard deviation [K].
    """

    def __init__(
        self, encoder: SpatialFactorModel, reference: Tissue, target: Tissue, wanted: np.ndarray | None = None
    ) -> None:
        reference = reference.in_memory()
        measured, known = target.n_visible > 0, reference.n_visible > 0
        self._shared = np.flatnonzero(measured & known)
        self.genes = np.flatnonzero(~measured & known & (True if wanted is None else wanted))
        self._target, self._mean, self._scale = target, encoder.rate.numpy(), encoder.scale.numpy()
        mean, scale = (part.numpy() for part in gene_rates(reference, encoder.weight_of_depth(reference.depth)))
        self.cell_mean, self.cell_scale, self.spread = mean[self.genes], scale[self.genes], scale[self._shared]
        self.values = sp.csr_matrix(reference.x[:, self.genes], dtype=np.float64)
        self.cells = self._standardised(reference, np.arange(reference.n_spots), mean, scale)

    def spots(self, spots: np.ndarray) -> Tensor:
        """Standardised shared genes of some spots of the target, 0 where there is no value, float32 [B, S]."""
        return self._standardised(self._target, spots, self._mean, self._scale)

    def in_target(self, deviation: np.ndarray) -> np.ndarray:
        """Expected expression, on ``X``'s scale, at least 0, float32, of standardised predictions of `genes` [B, K]."""
        return np.maximum(self._mean[self.genes] + self._scale[self.genes] * deviation, 0).astype(np.float32)

    def _standardised(self, tissue: Tissue, spots: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> Tensor:
        seen = ~tissue.missing[spots][:, self._shared].toarray()
        values = (tissue.x[spots][:, self._shared].toarray() - mean[self._shared]) / scale[self._shared]
        return torch.from_numpy(np.where(seen, values, 0).astype(np.float32))
