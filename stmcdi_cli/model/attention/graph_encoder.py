"""The graph encoder: what is visible of a spot and of its neighbours, as a latent condition for the diffusion."""

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor, nn

from stmcdi_cli.model.tissue import Tissue

MIN_SD = 0.02
"""Least standard deviation a gene is divided by, on the log1p scale: a gene seen in one spot would blow up without."""


@dataclass(frozen=True)
class Scale:
    """Mean and standard deviation of each gene over its visible entries, float32 [G]."""

    mean: np.ndarray
    sd: np.ndarray

    @classmethod
    def of(cls, x: sp.csr_matrix, hidden: sp.csr_matrix) -> "Scale":
        """Measure; `x` is 0 where `hidden`, so that only the number of entries has to be corrected for."""
        n = np.maximum(x.shape[0] - np.asarray(hidden.sum(0)).ravel(), 1)
        mean = np.asarray(x.sum(0, dtype=np.float64)).ravel() / n
        square = np.asarray(x.multiply(x).sum(0, dtype=np.float64)).ravel() / n
        sd = np.sqrt(np.maximum(square - mean**2, MIN_SD**2))
        return cls(mean.astype(np.float32), sd.astype(np.float32))


def rings(graph: sp.csr_matrix, hops: int) -> list[sp.csr_matrix]:
    """Spots at exactly 1, 2, ... hops from each spot, over the full tissue.

    No ring contains the spot itself. A network that passes messages twice hands a spot's own values back to it through
    its neighbours, hidden targets included; through rings they cannot come back.
    """
    reached = sp.eye_array(graph.shape[0], dtype=bool, format="csr")
    step = graph.astype(bool)
    frontier, out = reached, []
    for _ in range(hops):
        frontier = (frontier @ step).tocsr()
        frontier = (frontier.astype(np.int8) - frontier.multiply(reached).astype(np.int8)).tocsr()
        frontier.eliminate_zeros()
        frontier = frontier.astype(bool)
        reached = (reached + frontier).tocsr()
        out.append(sp.csr_matrix(frontier, dtype=np.float32))
    return out


class Neighbourhood:
    """Standardised visible expression of spots and of the rings around them.

    Parameters
    ----------
    tissue
        The tissue; its missing entries are left out of everything.
    withheld
        CSR bool, spots x genes: more entries to leave out of everything, such as those for validation.
    scale
        Scale of the genes; None to measure it on what is visible.
    hops
        Number of rings.
    """

    def __init__(
        self, tissue: Tissue, hops: int, *, withheld: sp.csr_matrix | None = None, scale: Scale | None = None
    ) -> None:
        self.hidden = tissue.missing
        self.x = tissue.x
        if withheld is not None:
            self.hidden = (tissue.missing + withheld).tocsr()
            self.x = (tissue.x - tissue.x.multiply(withheld)).tocsr()
        self.scale = scale or Scale.of(self.x, self.hidden)
        self.rings = rings(tissue.graph, hops)
        self._hidden_number = self.hidden.astype(np.float32)

    def visible(self, spots: np.ndarray) -> np.ndarray:
        """Which entries have a value: float32 [B, G]."""
        return 1 - self._hidden_number[spots].toarray()

    def own(self, spots: np.ndarray) -> np.ndarray:
        """Standardised expression, 0 where hidden: float32 [B, G]."""
        return self.standardise(self.x[spots].toarray()) * self.visible(spots)

    def around(self, spots: np.ndarray) -> np.ndarray:
        """Mean standardised expression over the visible entries of each ring: float32 [B, hops, G]."""
        out = np.empty((len(spots), len(self.rings), self.x.shape[1]), dtype=np.float32)
        for hop, ring in enumerate(self.rings):
            members = ring[spots]
            n = np.asarray(members.sum(1)).reshape(-1, 1) - (members @ self._hidden_number).toarray()
            total = (members @ self.x).toarray() - n * self.scale.mean
            out[:, hop] = total / self.scale.sd / np.maximum(n, 1)
        return out

    def standardise(self, x: np.ndarray) -> np.ndarray:
        """From ``X``'s scale to mean 0 and variance 1 per gene."""
        return (x - self.scale.mean) / self.scale.sd


class GraphEncoder(nn.Module):
    """Graph network: one transform per ring, their sum through a non-linearity, then the latent condition.

    Parameters
    ----------
    n_genes, hops
        Size of the input: a spot's own visible expression and `hops` rings.
    hidden, condition
        Widths of the layer inside and of the result.
    """

    def __init__(self, n_genes: int, hops: int, hidden: int, condition: int) -> None:
        super().__init__()
        self.convolution = nn.Linear((1 + hops) * n_genes, hidden)
        self.condition = nn.Linear(hidden, condition)

    def forward(self, own: Tensor, around: Tensor) -> Tensor:
        """Spots [B, G] and the rings around them [B, hops, G] to [B, condition]."""
        features = torch.cat([own[:, None], around], 1).flatten(1)
        return self.condition(nn.functional.silu(self.convolution(features)))
