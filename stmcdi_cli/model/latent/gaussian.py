"""Gaussian posteriors of the latents of many spots, and the algebra they need."""

from functools import cache
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor, nn

_LINE = 16  # single-precision numbers in a cache line


def neighbor_mean(graph: sp.csr_matrix) -> sp.csr_matrix:
    """Matrix that takes the mean over each spot's neighbours; a spot without any gets 0."""
    degree = np.asarray(graph.sum(1)).ravel()
    return (sp.diags(1 / np.maximum(degree, 1e-12)) @ graph).tocsr().astype(np.float32)


class Scores(NamedTuple):
    """What is known of the scores of some spots.

    Attributes
    ----------
    mean
        Posterior mean [n, r].
    packed
        Lower triangles of the posterior covariances [n, r (r + 1) / 2]; with a million spots half of them counts.
    """

    mean: Tensor
    packed: Tensor

    @property
    def cov(self) -> Tensor:
        """Posterior covariances [n, r, r]."""
        return _unpacked(self.packed, self.mean.shape[1])

    @property
    def variances(self) -> Tensor:
        """Their diagonals [n, r]."""
        rank = self.mean.shape[1]
        return self.packed[:, _place(rank).diagonal()]

    def of(self, spots: np.ndarray | slice) -> "Scores":
        """Those of some of the spots."""
        return Scores(self.mean[spots], self.packed[spots])


@cache
def _place(rank: int) -> Tensor:
    """Where in its packed triangle each entry of a symmetric matrix lies [r, r]."""
    row, column = torch.meshgrid(torch.arange(rank), torch.arange(rank), indexing="ij")
    low, high = torch.minimum(row, column), torch.maximum(row, column)
    return high * (high + 1) // 2 + low


def packed(symmetric: Tensor) -> Tensor:
    """Lower triangles of symmetric matrices [n, r, r], row by row."""
    row, column = torch.tril_indices(*symmetric.shape[1:]).unbind()
    return symmetric[:, row, column]


def _unpacked(triangles: Tensor, rank: int) -> Tensor:
    return triangles[:, _place(rank).flatten()].reshape(-1, rank, rank)


def _even(matrix: Tensor) -> Tensor:
    """Extend matrices [B, r, r] by the identity until each fills whole cache lines.

    LAPACK rounds by how a matrix lies in memory. So they all lie alike, and no result depends on the place in a block.
    """
    rank = matrix.shape[-1]
    matrix = nn.functional.pad(matrix, (0, -rank % _LINE, 0, -rank % _LINE))
    matrix.diagonal(dim1=-2, dim2=-1)[..., rank:] = 1
    return matrix


def uncolor(factor: Tensor, u: Tensor) -> Tensor:
    """R^-T u: standard normal u [B, r] to the covariance whose inverse is R R' [B, r, r]."""
    rank = u.shape[-1]
    u = nn.functional.pad(u, (0, -rank % _LINE))
    return torch.linalg.solve_triangular(_even(factor).mT, u[..., None], upper=True)[:, :rank, 0]


def variances(factor: Tensor) -> Tensor:
    """Diagonal [B, r] of the covariances whose inverse is R R' [B, r, r]."""
    return torch.cholesky_inverse(_even(factor)).diagonal(dim1=-2, dim2=-1)[:, : factor.shape[-1]]


def _with_one(scores: Tensor) -> Tensor:
    """Scores with the constant that the intercept multiplies."""
    return torch.cat([scores, torch.ones_like(scores[..., :1])], dim=-1)


def _second_moment(z: Tensor, cov: Tensor) -> Tensor:
    """E[z z'] of scores with a constant, flattened [B, (r + 1)^2]."""
    product = z[:, :, None] * z[:, None, :]
    rank = cov.shape[1]
    product[:, :rank, :rank] += cov
    return product.flatten(1)


def _symmetric(matrix: Tensor) -> Tensor:
    return (matrix + matrix.transpose(-1, -2)) / 2
