"""Responses and weights of the entries of a tissue, as the factor model is fitted to them."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from stmcdi_cli.model.device import parallel_map
from stmcdi_cli.model.latent.blocks import split
from stmcdi_cli.model.latent.gaussian import LatentPosterior, second_moment, with_constant

_DATA_LIMIT = 250_000_000
"""Entries up to which responses are kept in memory between sweeps; above, they are computed again in every sweep."""


class Responses:
    """Weighted response and weight [B, G] of the spots of every block, see `SpatialFactorModel.evidence`.

    Parameters
    ----------
    evidence
        Gives both for the spots of a block, from their positions [B].
    n_spots, n_genes
        Size of the tissue.

    Attributes
    ----------
    squares
        Weighted sum of the squared responses of each gene [G].
    n_seen
        Number of entries of each gene that have a weight [G].
    """

    def __init__(self, evidence: Callable[[np.ndarray], tuple[Tensor, Tensor]], n_spots: int, n_genes: int) -> None:
        self._evidence = evidence
        self._in_memory: dict[int, tuple[Tensor, Tensor]] = {}
        self.squares, self.n_seen = torch.zeros(n_genes), torch.zeros(n_genes)
        for spots, (weighted, weight) in zip(split(n_spots), parallel_map(evidence, split(n_spots)), strict=True):
            if n_spots * n_genes <= _DATA_LIMIT:
                self._in_memory[int(spots[0])] = weighted, weight
            seen = weight > 0
            self.squares += torch.where(seen, weighted * weighted / weight, 0).sum(0)
            self.n_seen += seen.sum(0)

    def __call__(self, spots: np.ndarray) -> tuple[Tensor, Tensor]:
        """Give both for the spots of a block."""
        return self._in_memory.get(int(spots[0])) or self._evidence(spots)

    def sums(self, latents: LatentPosterior) -> tuple[Tensor, Tensor]:
        """Sums over the spots for each gene, given their latents with a constant z = (z_i, 1), of rank r + 1.

        Returns
        -------
        Weighted sum of E[z z'], packed [G, (r + 1) (r + 2) / 2], and of z times the response [G, r + 1].
        """

        def of_block(spots: np.ndarray) -> tuple[Tensor, Tensor]:
            weighted, weight = self(spots)
            z = with_constant(latents.mean[spots])
            return weight.T @ second_moment(z, latents.packed[spots]), weighted.T @ z

        every = parallel_map(of_block, split(len(latents.mean)))
        moments, targets = next(every)
        for its_moments, its_targets in every:
            moments += its_moments
            targets += its_targets
        return moments, targets
