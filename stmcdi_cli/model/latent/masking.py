"""Masks of the training, and the posterior of the latents of a tissue with such a mask."""

import math
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from stmcdi_cli.model.device import parallel_map
from stmcdi_cli.model.latent.blocks import BLOCK, in_parallel, split
from stmcdi_cli.model.latent.factor_model import LINEARISATIONS, SpatialFactorModel
from stmcdi_cli.model.latent.gaussian import LatentPosterior, pack
from stmcdi_cli.model.latent.spatial_field import SpatialField
from stmcdi_cli.model.latent.spatial_graph import SpatialGraph
from stmcdi_cli.model.tissue import Tissue


@dataclass(frozen=True)
class Masking:
    """How spots are masked in training: in turn single spots, and holes of neighbouring spots.

    Attributes
    ----------
    hidden
        Range from which the share of hidden entries of a masked spot is drawn.
    whole
        Share of the single spots of which all entries are hidden instead; in a hole, all entries of all spots are.
    spot_share
        Share of the spots that are masked in a round.
    n_pairs
        Masked spots wanted in total; the number of rounds follows from it.
    max_rounds
        Largest number of rounds.
    hole
        Size of a hole, at most, as a share of the spots.
    """

    hidden: tuple[float, float]
    whole: float
    spot_share: float = 0.25
    n_pairs: int = 3_000
    max_rounds: int = 32
    hole: float = 0.05

    def rounds(self, n_spots: int) -> int:
        """Rounds of masking for a number of spots."""
        return min(self.max_rounds, math.ceil(self.n_pairs / max(1.0, self.spot_share * n_spots)))

    def spots(self, graph: SpatialGraph, spots: np.ndarray, holes: bool, generator: torch.Generator) -> np.ndarray:
        """Choose spots to mask among some, ascending: single ones, or all those of holes."""
        order = spots[torch.randperm(len(spots), generator=generator).numpy()]
        number = math.ceil(self.spot_share * len(spots))
        if not holes:
            return np.sort(order[:number])
        taken, chosen = np.ones(len(graph.area), dtype=bool), [np.empty(0, np.int64)]
        taken[spots] = False
        for first, size in zip(order, torch.rand(len(order), generator=generator).tolist(), strict=True):
            if number > 0 and not taken[first]:
                most = min(number, 1 + int(size * self.hole * len(spots)))
                chosen.append(graph.neighborhood(int(first), most, taken))
                number -= len(chosen[-1])
        return np.sort(np.concatenate(chosen))

    def draw(
        self, tissue: Tissue, spots: np.ndarray, generator: torch.Generator, *, everything: bool = False
    ) -> sp.csr_matrix:
        """Choose visible entries to hide from some spots, in ascending order; CSR bool, as large as the tissue."""
        low, high = self.hidden
        share = low + (high - low) * torch.rand(len(spots), 1, generator=generator)
        share[torch.rand(len(spots), generator=generator) < (1 if everything else self.whole)] = 1.0
        rows = []
        for i in range(0, len(spots), BLOCK):
            some = spots[i : i + BLOCK]
            hidden = (torch.rand(len(some), tissue.n_genes, generator=generator) < share[i : i + BLOCK]).numpy()
            rows.append(sp.csr_matrix(hidden & ~tissue.missing[some].toarray()))
        mask = sp.vstack([sp.csr_matrix((0, tissue.n_genes), dtype=bool), *rows], format="csr")
        length = np.zeros(tissue.n_spots, np.int64)
        length[spots] = np.diff(mask.indptr)
        indptr = np.concatenate([[0], length.cumsum()])
        return sp.csr_matrix((mask.data, mask.indices, indptr), shape=(tissue.n_spots, tissue.n_genes))


class MaskedEncoding:
    """Posteriors of the latents of a tissue without some entries, from that with them.

    Only the evidence of the spots of which entries are masked is computed again, and only from what the other spots
    and the remaining entries say: no masked entry has an effect on it.

    Parameters
    ----------
    encoder
        The fitted model.
    tissue
        The tissue with all entries.
    latents
        Their posterior; covariances are needed for a log link only.
    """

    def __init__(self, encoder: SpatialFactorModel, tissue: Tissue, latents: LatentPosterior) -> None:
        self._encoder = encoder
        self._latents = latents
        self._is_log = encoder.link == "log"
        at = latents.select if self._is_log else lambda spots: None

        def own(spots: np.ndarray) -> tuple[Tensor, Tensor]:
            return encoder.information(*encoder.evidence(tissue, spots, at(spots)))

        parts = zip(*parallel_map(own, split(tissue.n_spots)), strict=True)
        self._precision, self._information = (torch.cat(part) for part in parts)

    def without(self, masked: Tissue, spots: np.ndarray) -> LatentPosterior:
        """Posterior of all latents without the masked entries.

        Parameters
        ----------
        masked
            The tissue without them.
        spots
            The spots they are in [M].
        """
        precision, information = self._precision.clone(), self._information.clone()

        def again(some: np.ndarray) -> None:
            here = spots[some]
            precision[here], information[here] = self._own_evidence(masked, here)

        in_parallel(again, len(spots))
        field = SpatialField(self._encoder.graph, self._encoder.field)
        # Not started from the latents: where nothing is visible, iterations would stop near what is masked.
        return field.posterior(lambda some: (precision[some], information[some]), masked.n_spots, own_variance=True)

    def _own_evidence(self, masked: Tissue, spots: np.ndarray) -> tuple[Tensor, Tensor]:
        """Evidence of the remaining entries of some spots, linearised at their posterior given the other spots."""
        encoder = self._encoder
        if not self._is_log:
            return encoder.information(*encoder.evidence(masked, spots))
        latents = self._latents.select(spots)
        mean, variance = latents.prior_mean(encoder.field.nugget), latents.prior_variance
        at = latents._replace(mean=mean, packed=pack(torch.diag_embed(variance)))
        for _ in range(LINEARISATIONS - 1):
            here, factor = encoder.posterior(*encoder.evidence(masked, spots, at), mean, variance)
            at = at._replace(mean=here, packed=pack(torch.cholesky_inverse(factor)))
        return encoder.information(*encoder.evidence(masked, spots, at))
