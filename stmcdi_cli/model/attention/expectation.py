"""What a factor model over the graph expects of an entry: the start of the preset ``attention``.

With the section ``encoder`` in its preset, the diffusion does not run on expression but on how far it lies from what
the default's graph encoder (`latent.factor_model`) expects from the visible entries of the spot and its neighbours::

    u_0 = (x - m) / s,     m, s^2: mean and variance of x given the visible entries

The network's output is 0 before training: u is then standard normal, and a draw is one of the factor model's. Training
adds what that misses, and does not have to learn from some hundred spots what genes have in common.
"""

import numpy as np
import torch
from torch import Tensor

from stmcdi_cli.model.gene_scaler import GeneScaler
from stmcdi_cli.model.latent.factor_model import SpatialFactorModel
from stmcdi_cli.model.latent.gaussian import LatentPosterior, covariances, pack, variance_along, with_constant
from stmcdi_cli.model.tissue import Tissue


class Expectation:
    """Mean and standard deviation of the entries of a tissue given some of the visible ones.

    Parameters
    ----------
    encoder
        A fitted factor model with the linear link.
    tissue
        The tissue, which is encoded here.
    scaler
        The scale on which results are given.
    encoded
        Posterior of the latents of every spot, where that is known.
    """

    def __init__(
        self,
        encoder: SpatialFactorModel,
        tissue: Tissue,
        scaler: GeneScaler,
        encoded: LatentPosterior | None = None,
    ) -> None:
        encoder.use_tissue(tissue)
        self.latents = encoder.encode(tissue) if encoded is None else encoded
        self._encoder, self._tissue, self._scaler = encoder, tissue, scaler

    def of(self, spots: np.ndarray, visible: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of every entry of some spots, on the scale of the genes, both [B, G].

        Parameters
        ----------
        spots
            Positions of the spots [B].
        visible
            1 for the entries of these spots that may be used [B, G]; of other spots all are.
        """
        encoder, depth = self._encoder, self._tissue.depth[spots]
        latents = self.latents.select(spots)
        weighted, weight = encoder.evidence(self._tissue, spots)
        visible_here = visible.cpu()
        prior = latents.prior_mean(encoder.field.nugget), latents.prior_variance
        mean, factor = encoder.posterior(weighted * visible_here, weight * visible_here, *prior)
        eta = with_constant(mean) @ encoder.loadings.T
        spread = variance_along(pack(covariances(factor)), encoder.loadings[:, :-1]).clamp(min=0)
        a, b, v = encoder.moments(depth)
        scale = torch.from_numpy(self._scaler.scale)
        expected = (torch.addcmul(a, b, eta).clamp(min=0) - torch.from_numpy(self._scaler.mean)) / scale
        sd = torch.addcmul(encoder.psi * v, b * b, spread).sqrt() / scale
        return expected.to(visible.device), sd.to(visible.device)
