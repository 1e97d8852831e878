"""Singular vectors of a matrix of which one block of rows is in memory at a time, by random projection."""

from collections.abc import Callable

import numpy as np
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
