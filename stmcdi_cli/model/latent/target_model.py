"""The factor model of a target whose loadings come from a reference: for genes that the target's panel never measured.

What genes have in common is learnt from the cells of the reference alone, where all of them were measured. The target
keeps what is its own: the rate (or mean and standard deviation), intercept and noise of every gene, since platforms
catch genes differently, and the spread of its latents over its graph. Of a gene that was not measured in the target,
rate and noise are predicted from those in the reference: by ridge regression of the log ratio between the two, on the
gene's log rate and loadings, over the genes that both have.
"""

import copy

import numpy as np
import torch
from torch import Tensor

from stmcdi_cli.model.latent.factor_model import SpatialFactorModel
from stmcdi_cli.model.latent.field_fit import FieldFit
from stmcdi_cli.model.tissue import Tissue
from stmcdi_cli.model.training.checkpoint import NO_CHECKPOINT, Stage

_LARGEST_VARIANCE = 8.0
"""Largest variance of a latent in the target, where it is about 1 in the reference."""
_PENALTIES = np.logspace(-2, 4, 13)


class TargetFactorModel(SpatialFactorModel):
    """Factor model of a target, with the loadings of a reference; its `fit` takes ``start=self`` only.

    Parameters
    ----------
    reference
        The factor model fitted to the reference.
    tissue
        The target.
    has_reference
        Which genes have values in the reference, bool [G]. The target has loadings of its own for the others.
    """

    def __init__(self, reference: SpatialFactorModel, tissue: Tissue, has_reference: np.ndarray) -> None:
        super().__init__(rank=reference.rank, full_depth=reference.full_depth, link=reference.link)
        self.load_state({name: value.clone() for name, value in reference.state().items()})
        self._alpha = reference._alpha.clone()
        self._reference = reference
        self._given = torch.from_numpy(has_reference)
        self.measured = torch.from_numpy(tissue.n_visible > 0)
        own = self._rates(tissue)
        self.rate, self.scale = (
            torch.where(self.measured, mine, other)
            for mine, other in zip(own, (reference.rate, reference.scale), strict=True)
        )
        self.loadings_cov[:, -1], self.loadings_cov[:, :, -1] = 0, 0
        self._use_graph(tissue)
        self.field = self._field_fit().first(self.rank)

    def _field_fit(self) -> FieldFit:
        return FieldFit(self.graph, _LARGEST_VARIANCE)

    def fit(
        self,
        tissue: Tissue,
        *,
        sweeps: int,
        seed: int,
        start: SpatialFactorModel | None = None,
        stage: Stage = NO_CHECKPOINT,
    ) -> None:
        """Fit what is the target's own to its visible entries; then predict the rest, see `SpatialFactorModel.fit`."""
        super().fit(tissue, sweeps=sweeps, seed=seed, start=self, stage=stage)
        self._predict(self._given & ~self.measured)
        self.use_tissue(tissue)

    def _set_loadings(self, precision: Tensor, information: Tensor) -> None:
        """Set intercepts given the loadings of the reference; and the loadings of genes that it lacks."""
        w, cov, old = self.loadings[:, :-1], self.loadings_cov, self.loadings
        super()._set_loadings(precision, information)
        # Of a gene with given loadings, only the intercept moves.
        own_precision = precision[:, -1, -1] + self._alpha[-1]
        intercept = (information[:, -1] - (precision[:, -1, :-1] * w).sum(1)) / own_precision
        given = torch.cat([w, torch.where(self.measured, intercept, old[:, -1])[:, None]], dim=1)
        given_cov = cov.clone()
        given_cov[:, -1, -1] = torch.where(self.measured, 1 / own_precision, 0)
        self.loadings = torch.where(self._given[:, None], given, self.loadings)
        self.loadings_cov = torch.where(self._given[:, None, None], given_cov, self.loadings_cov)

    def without_genes(self, genes: np.ndarray) -> "TargetFactorModel":
        """Give a copy for which some of the measured genes, bool [G], were not measured: they are predicted."""
        other = copy.copy(self)
        left_out = torch.from_numpy(genes)
        other.measured = self.measured & ~left_out
        for name in ("rate", "scale", "psi", "loadings", "loadings_cov"):
            setattr(other, name, getattr(self, name).clone())
        other.loadings[left_out, -1] = self._reference.loadings[left_out, -1]
        other.loadings_cov[left_out, -1, -1] = 0
        other._predict(left_out)
        return other

    def _predict(self, genes: Tensor) -> None:
        """Predict rate, standard deviation and noise of some genes, bool [G], from those in the reference."""
        known = (self._given & self.measured).numpy()
        if not genes.any() or not known.any():
            return
        reference = self._reference
        w = reference.loadings[:, :-1].double().numpy()
        for name in ("rate", "scale", "psi"):
            own, other = (getattr(model, name).double().clamp(min=1e-9).log().numpy() for model in (self, reference))
            ratio = own - other
            if name == "rate" and self._noise.table is not None:
                # Of counts, the rate at latents of 0 is exp(intercept) times the gene's, to first order.
                ratio += (self.loadings[:, -1] - reference.loadings[:, -1]).numpy()
            found = other + predict_ratios(ratio[known], np.column_stack([other, w]), known)
            found = np.clip(found, own[known].min(), own[known].max())
            setattr(self, name, torch.where(genes, torch.from_numpy(np.exp(found)).float(), getattr(self, name)))


def predict_ratios(ratio: np.ndarray, features: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Ridge regression of log ratios on features of the genes; the penalty has the least leave-one-out error.

    Parameters
    ----------
    ratio
        Log ratios of the genes that are known [K].
    features
        Features of all genes [G, F].
    known
        Which genes are known, bool [G], K of them.

    Returns
    -------
    Predicted log ratios of all genes [G].
    """
    center, spread = features[known].mean(0), features[known].std(0)
    x = (features - center) / np.where(spread > 1e-9, spread, np.inf)
    mean = ratio.mean()
    left, size, right = np.linalg.svd(x[known], full_matrices=False)
    along = left.T @ (ratio - mean)
    best, coefficients = np.inf, np.zeros(features.shape[1])
    for penalty in _PENALTIES:
        shrunk = size**2 / (size**2 + penalty)
        leverage = (left**2) @ shrunk + 1 / len(ratio)
        residual = (ratio - mean - left @ (shrunk * along)) / np.maximum(1 - leverage, 1e-3)
        if np.square(residual).mean() < best:
            best = np.square(residual).mean()
            coefficients = right.T @ (size / (size**2 + penalty) * along)
    return mean + x @ coefficients
