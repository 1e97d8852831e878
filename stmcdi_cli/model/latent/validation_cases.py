"""What a model is weighed and calibrated by: visible entries kept from it, or genes left out whole.

A tissue alone is judged by entries chosen at random. With a reference, most of what is to be filled in are genes that
the target's panel never measured; therefore the genes that both have are left out in turn, a quarter at a time, and
predicted as the others are.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from stmcdi_cli.model.latent.blocks import BLOCK
from stmcdi_cli.model.latent.diffusion import LatentDiffusion
from stmcdi_cli.model.latent.target_model import TargetFactorModel
from stmcdi_cli.model.tissue import Tissue

N_FOLDS = 4
_MOST_SPOTS = 4096


class Case(NamedTuple):
    """Some entries, and branches that have not seen them.

    Attributes
    ----------
    branches
        The branches, which have encoded `visible`.
    visible
        The tissue without the entries.
    entries
        The entries, CSR bool, spots x genes.
    spots
        Spots to look at, ascending.
    genes
        Which genes were left out whole, bool [G]; None where the entries were chosen at random.
    """

    branches: Sequence[LatentDiffusion]
    visible: Tissue
    entries: sp.csr_matrix
    spots: np.ndarray
    genes: np.ndarray | None = None

    def expected(self, tissue: Tissue) -> Iterator[tuple[np.ndarray, list[np.ndarray], np.ndarray, np.ndarray]]:
        """Yield some spots [B], expected expression of each branch [B, G], which entries [B, G], and the true x."""
        for i in range(0, len(self.spots), BLOCK):
            spots = self.spots[i : i + BLOCK]
            depth = tissue.depth[spots]
            means = [branch.encoder.decoder(depth)(branch.encoded().mean[spots]).numpy() for branch in self.branches]
            yield spots, means, self.entries[spots].toarray(), tissue.x[spots].toarray()


def left_out_genes(
    branches: Sequence[LatentDiffusion], tissue: Tissue, shared: np.ndarray, seed: int
) -> Iterator[Case]:
    """Leave out the genes that target and reference share, bool [G], a quarter at a time."""
    dealt = np.random.default_rng(seed).permutation(np.flatnonzero(shared))
    spots = np.sort(np.random.default_rng(seed).permutation(tissue.n_spots)[:_MOST_SPOTS])
    every_spot = sp.csr_matrix(np.ones((tissue.n_spots, 1), bool))
    for fold in range(N_FOLDS):
        genes = np.isin(np.arange(tissue.n_genes), dealt[fold::N_FOLDS])
        whole = sp.csr_matrix(every_spot @ sp.csr_matrix(genes[None]), dtype=bool)
        entries = sp.csr_matrix(whole > tissue.missing.multiply(whole))
        visible = tissue.without(entries)
        others = []
        for branch in branches:
            assert isinstance(branch.encoder, TargetFactorModel)
            other = branch.with_encoder(branch.encoder.without_genes(genes))
            other.encode(visible)
            others.append(other)
        yield Case(others, visible, entries, spots, genes)
