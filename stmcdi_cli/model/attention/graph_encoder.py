"""The graph encoder: visible expression of a spot and its neighbours, as a latent condition for the diffusion."""

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor, nn

from stmcdi_cli.model.gene_scaler import GeneScaler
from stmcdi_cli.model.tissue import Tissue

SHARE_OF_GPU = 0.2
"""Share of a GPU's free memory that the expression of the tissue may take."""


def rings(graph: sp.csr_matrix, hops: int) -> list[sp.csr_matrix]:
    """Spots at exactly 1, 2, ... hops from each spot, over the full tissue; CSR float32, spots x spots for each.

    No ring contains the spot itself. A network that passes messages twice would return a spot's own values to it
    through its neighbours, hidden targets included; rings cannot return them.
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
    hops
        Number of rings.
    validation_mask
        CSR bool, spots x genes: more entries to leave out of everything, those kept for validation.
    scaler
        Scale of the genes; None to measure it on the visible entries.
    device
        Where `batch` gives its tensors; by default the CPU.
    """

    def __init__(
        self,
        tissue: Tissue,
        hops: int,
        *,
        validation_mask: sp.csr_matrix | None = None,
        scaler: GeneScaler | None = None,
        device: torch.device | None = None,
    ) -> None:
        self.hidden = tissue.missing
        self.x = tissue.x
        if validation_mask is not None:
            self.hidden = (tissue.missing + validation_mask).tocsr()
            self.x = (tissue.x - tissue.x.multiply(validation_mask)).tocsr()
        self.scaler = scaler or GeneScaler.fit_sparse(self.x, self.hidden)
        self.rings = rings(tissue.graph, hops)
        self._hidden_number = self.hidden.astype(np.float32)
        self.device = device or torch.device("cpu")
        self._resident: tuple[Tensor, ...] | None = None
        if self.device.type == "cuda" and self._bytes() < SHARE_OF_GPU * torch.cuda.mem_get_info(self.device)[0]:
            blocks = np.array_split(np.arange(tissue.n_spots), -(-tissue.n_spots // 1024))
            parts = [self._rows(spots) for spots in blocks]
            self._resident = tuple(torch.cat(part).to(self.device) for part in zip(*parts, strict=True))

    def _bytes(self) -> int:
        """Size of the whole tissue as `batch` gives it."""
        n, n_genes = self.x.shape
        return 4 * n * n_genes * (2 + len(self.rings))

    def _rows(self, spots: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        own, visible, around = self.own(spots), self.visible(spots), self.around(spots)
        return torch.from_numpy(own), torch.from_numpy(visible), torch.from_numpy(around)

    def batch(self, spots: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        """`own` and `visible` [B, G] and `around` [B, hops, G] of some spots, on the device.

        A GPU keeps those of the whole tissue where they take little of its memory: a step of training is over there
        before the CPU has put a batch together.
        """
        if self._resident is None:
            own, visible, around = (part.to(self.device) for part in self._rows(spots))
        else:
            index = torch.from_numpy(spots).to(self.device)
            own, visible, around = (part[index] for part in self._resident)
        return own, visible, around

    def visible(self, spots: np.ndarray) -> np.ndarray:
        """Which entries have a value: float32 [B, G]."""
        return 1 - self._hidden_number[spots].toarray()

    def own(self, spots: np.ndarray) -> np.ndarray:
        """Standardised expression, 0 where hidden: float32 [B, G]."""
        return self.scaler.transform(self.x[spots].toarray()) * self.visible(spots)

    def around(self, spots: np.ndarray) -> np.ndarray:
        """Mean standardised expression over the visible entries of each ring: float32 [B, hops, G]."""
        out = np.empty((len(spots), len(self.rings), self.x.shape[1]), dtype=np.float32)
        for hop, ring in enumerate(self.rings):
            members = ring[spots]
            n = np.asarray(members.sum(1)).reshape(-1, 1) - (members @ self._hidden_number).toarray()
            total = (members @ self.x).toarray() - n * self.scaler.mean
            out[:, hop] = total / self.scaler.scale / np.maximum(n, 1)
        return out


class GraphEncoder(nn.Module):
    """Graph network: one linear map per ring, a non-linearity of their sum, then the latent condition.

    Parameters
    ----------
    n_genes, hops
        Size of the input: a spot's own visible expression and `hops` rings.
    hidden, condition
        Widths of the hidden layer and of the result.
    """

    def __init__(self, n_genes: int, hops: int, hidden: int, condition: int) -> None:
        super().__init__()
        self.convolution = nn.Linear((1 + hops) * n_genes, hidden)
        self.condition = nn.Linear(hidden, condition)

    def forward(self, own: Tensor, around: Tensor) -> Tensor:
        """Spots [B, G] and the rings around them [B, hops, G] to [B, condition]."""
        features = torch.cat([own[:, None], around], 1).flatten(1)
        return self.condition(nn.functional.silu(self.convolution(features)))
