"""What predicts genes that only a reference has from its cells, beside the branches of the model."""

from collections.abc import Sequence

import numpy as np

from stmcdi_cli.model.latent.factor_model import SpatialFactorModel
from stmcdi_cli.model.latent.gene_regression import GeneRegression
from stmcdi_cli.model.latent.nearest_cells import NearestCells
from stmcdi_cli.model.latent.shared_genes import SharedGenes
from stmcdi_cli.model.tissue import Tissue

PREDICTORS: dict[str, type[NearestCells] | type[GeneRegression]] = {
    "nearest_part": NearestCells,
    "regression_part": GeneRegression,
}
"""Predictors, by the name of the part that is taken from each in a model's state."""


class ReferencePredictions:
    """Predictions by each of the `PREDICTORS`; the parameters are those of `SharedGenes`.

    Attributes
    ----------
    genes
        Positions of the genes that are predicted [K].
    """

    def __init__(
        self, encoder: SpatialFactorModel, reference: Tissue, target: Tissue, wanted: np.ndarray | None = None
    ) -> None:
        shared = SharedGenes(encoder, reference, target, wanted)
        self.genes = shared.genes
        self._predictors = [predictor(shared) for predictor in PREDICTORS.values()]

    def expected(self, spots: np.ndarray) -> np.ndarray:
        """Expected expression by each predictor, float32 [predictors, B, K]."""
        return np.stack([predictor.expected(spots) for predictor in self._predictors])

    def mix(self, expected: np.ndarray, predicted: np.ndarray, parts: Sequence[float]) -> np.ndarray:
        """Replace parts of what is expected of every gene [B, G] by what was predicted of some [predictors, B, K]."""
        said = np.tensordot(np.asarray(parts, np.float32), predicted, 1)
        expected[:, self.genes] = (1 - sum(parts)) * expected[:, self.genes] + said
        return expected
