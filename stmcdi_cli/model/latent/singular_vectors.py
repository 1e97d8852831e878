"""Singular vectors of a matrix of which one block of rows is in memory at a time; and their smooth combinations."""

from collections.abc import Callable

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor, nn

from stmcdi_cli.model.latent.blocks import split

_ROUNDS = 5
_MORE = 5  # vectors than are wanted, with which these become more exact


def singular_vectors(rows: Callable[[np.ndarray], Tensor], n: int, n_columns: int, rank: int, seed: int) -> Tensor:
    """Leading left singular vectors [n, rank]; 0 beyond the rank of the matrix (Halko, Martinsson and Tropp 2011).

    Parameters
    ----------
    rows
        Gives rows of the matrix [B, n_columns] from their positions [B].
    n, n_columns
        Size of the matrix.
    rank
        Number of vectors.
    seed
        Seed of the random projection.
    """
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(n_columns, rank + _MORE, generator=generator))[0]
    for _ in range(_ROUNDS):
        product = torch.zeros_like(basis)
        for some in map(rows, split(n)):
            product += some.T @ (some @ basis)
        basis = torch.linalg.qr(product)[0]
    left, _, right = torch.linalg.svd(torch.cat([some @ basis for some in map(rows, split(n))]), full_matrices=False)
    vectors = (left * torch.sign((basis @ right.T).sum(0)))[:, :rank]
    return nn.functional.pad(vectors, (0, rank - vectors.shape[1]))


def smoothest_first(vectors: Tensor, edges: sp.csr_matrix) -> Tensor:
    """Rotate orthogonal vectors to their maximum autocorrelation factors over a graph (Switzer and Green 1984).

    The first is the combination that neighbours share most, the last the one that they share least. The factors of
    other rotations are mixtures of what reaches far and what does not.

    Parameters
    ----------
    vectors
        Orthogonal vectors of the same length [n, r].
    edges
        Weights of the edges between neighbours, symmetric [n, n]; without any, nothing is rotated.
    """
    if not edges.nnz:
        return vectors
    exact = vectors.double()
    around = exact.T @ torch.from_numpy(edges @ exact.numpy())
    axes = torch.linalg.eigh((around + around.T) / 2)[1].flip(1)
    largest = axes.abs().argmax(0)
    return (exact @ (axes * torch.sign(axes[largest, torch.arange(len(largest))]))).float()
