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
    """Predictions by the `PREDICTORS`.

    Parameters
    ----------
    encoder, reference, target, wanted
        See `SharedGenes`.
    parts
        Part of each predictor: those with none are not made.

    Attributes
    ----------
    genes
        Positions of the genes that are predicted [K].
    """

    def __init__(
        self,
        encoder: SpatialFactorModel,
        reference: Tissue,
        target: Tissue,
        wanted: np.ndarray | None = None,
        *,
        parts: Sequence[float] = (1.0,) * len(PREDICTORS),
    ) -> None:
        shared = SharedGenes(encoder, reference, target, wanted)
        self.genes = shared.genes
        self._predictors = [
            predictor(shared) if part > 0 else None for part, predictor in zip(parts, PREDICTORS.values(), strict=True)
        ]

    def expected(self, spots: np.ndarray) -> list[np.ndarray]:
        """Expected expression by each predictor that was made, float32 [B, K]."""
        return [predictor.expected(spots) for predictor in self._predictors if predictor]

    def weighted(self, spots: np.ndarray, parts: Sequence[float]) -> np.ndarray:
        """Sum of the predictions, each times its part, float32 [B, K]."""
        total = np.zeros((len(spots), len(self.genes)), dtype=np.float32)
        for part, predictor in zip(parts, self._predictors, strict=True):
            if predictor and part > 0:
                total += part * predictor.expected(spots)
        return total

    def mix(self, expected: np.ndarray, weighted: np.ndarray, parts: Sequence[float]) -> np.ndarray:
        """Replace the parts in what is expected of every gene [B, G] by what `weighted` gave [B, K]."""
        expected[:, self.genes] = (1 - sum(parts)) * expected[:, self.genes] + weighted
        return expected
