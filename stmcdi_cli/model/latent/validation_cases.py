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


class Moments(NamedTuple):
    """Sums over entries, gene by gene, from which every mixture of the branches can be judged.

    Attributes
    ----------
    products
        Sums of the products of (predictions of each branch, true value, 1) with each other [G, branches + 2, ...].
    """

    products: np.ndarray

    def error(self, shares: Sequence[float]) -> float:
        """Squared error of the mean of the branches with these shares, over all genes."""
        difference = np.array([*shares, -1, 0])
        return float((self.products @ difference @ difference).sum())

    def correlations(self, shares: Sequence[float]) -> np.ndarray:
        """Correlation of that mean with the true values of each gene [G]; 0 without variation."""
        n = np.maximum(self.products[:, -1, -1], 1)
        means = self.products[:, -1, :-1] / n[:, None]
        centered = self.products[:, :-1, :-1] - n[:, None, None] * means[:, :, None] * means[:, None, :]
        mixed, true = np.array([*shares, 0]), np.array([*np.zeros(len(shares)), 1])
        variances = (centered @ mixed @ mixed) * (centered @ true @ true)
        varies = variances > 1e-12
        return np.where(varies, (centered @ mixed @ true) / np.sqrt(np.where(varies, variances, 1)), 0)


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

    def moments(self, tissue: Tissue) -> Moments:
        """Compare what the branches expect with the true values of the entries."""
        size = len(self.branches) + 2
        products = np.zeros((size, size, tissue.n_genes))
        for _, means, entries, x in self.expected(tissue):
            genes, true = np.nonzero(entries)[1], x[entries].astype(np.float64)
            values = [*(mean[entries].astype(np.float64) for mean in means), true, np.ones_like(true)]
            for i in range(size):
                for j in range(i, size):
                    products[i, j] += np.bincount(genes, values[i] * values[j], tissue.n_genes)
                    products[j, i] = products[i, j]
        return Moments(products.transpose(2, 0, 1))


def some_spots(tissue: Tissue, most: int) -> np.ndarray:
    """All spots, or `most` of them at random, ascending."""
    return np.sort(np.random.default_rng(0).permutation(tissue.n_spots)[:most])


def left_out_genes(
    branches: Sequence[LatentDiffusion], tissue: Tissue, shared: np.ndarray, seed: int
) -> Iterator[Case]:
    """Leave out the genes that target and reference share, bool [G], a quarter at a time."""
    dealt = np.random.default_rng(seed).permutation(np.flatnonzero(shared))
    spots = some_spots(tissue, _MOST_SPOTS)
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
