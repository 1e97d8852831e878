"""Gaussian posteriors of the latents of many spots, and the algebra they need."""

from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

_LINE = 16  # single-precision numbers in a cache line


class LatentPosterior(NamedTuple):
    """Gaussian posterior of the latents of some spots.

    Attributes
    ----------
    mean
        Posterior means [n, r].
    packed
        Lower triangles of the posterior covariances [n, r (r + 1) / 2], which take half the memory of the matrices.
    field
        Posterior means of the smooth part of the latents [n, r]; see `spatial_field`.
    prior_variance
        Variance of each latent given the other spots [n, r].
    """

    mean: Tensor
    packed: Tensor
    field: Tensor
    prior_variance: Tensor

    @property
    def variances(self) -> Tensor:
        """Posterior variances, the diagonals of the covariances [n, r]."""
        rank = self.mean.shape[1]
        return self.packed[:, _packed_index(rank).diagonal()]

    def prior_mean(self, nugget: Tensor) -> Tensor:
        """Mean of each latent given the other spots [n, r].

        With this prior mean, the prior variance and a spot's own entries, the posterior mean is `mean`.

        Parameters
        ----------
        nugget
            Prior variance of each latent given the field [r].
        """
        return self.mean + self.prior_variance / nugget * (self.field - self.mean)

    def select(self, spots: np.ndarray | slice) -> "LatentPosterior":
        """Give the posterior of some of the spots."""
        return LatentPosterior(*(part[spots] for part in self))


@cache
def _triangle(rank: int) -> tuple[Tensor, Tensor]:
    """Row and column of each entry of a packed triangle [r (r + 1) / 2]."""
    row, column = torch.tril_indices(rank, rank).unbind()
    return row, column


@cache
def _packed_index(rank: int) -> Tensor:
    """Position of each entry of a symmetric matrix in its packed triangle [r, r]."""
    row, column = torch.meshgrid(torch.arange(rank), torch.arange(rank), indexing="ij")
    low, high = torch.minimum(row, column), torch.maximum(row, column)
    return high * (high + 1) // 2 + low


def pack(symmetric: Tensor) -> Tensor:
    """Lower triangles of symmetric matrices [n, r, r], row by row [n, r (r + 1) / 2]."""
    rank = symmetric.shape[1]
    row, column = _triangle(rank)
    return symmetric.flatten(1).index_select(1, rank * row + column)


def unpack(triangles: Tensor, rank: int) -> Tensor:
    """Symmetric matrices [n, r, r] from their lower triangles; the inverse of `pack`."""
    return triangles.index_select(1, _packed_index(rank).flatten()).reshape(-1, rank, rank)


def pad_to_cache_lines(matrix: Tensor) -> Tensor:
    """Extend matrices [B, r, r] by the identity so that every row fills whole cache lines.

    The rounding of LAPACK depends on the memory alignment of a matrix. With equal alignment, the result for a spot does
    not depend on its position in a block.
    """
    rank = matrix.shape[-1]
    matrix = nn.functional.pad(matrix, (0, -rank % _LINE, 0, -rank % _LINE))
    matrix.diagonal(dim1=-2, dim2=-1)[..., rank:] = 1
    return matrix


def unwhiten(factor: Tensor, u: Tensor) -> Tensor:
    """R^-T u [B, r]: give standard normal u [B, r] the covariance whose inverse is R R', for factors R [B, r, r]."""
    rank = u.shape[-1]
    u = nn.functional.pad(u, (0, -rank % _LINE))
    return torch.linalg.solve_triangular(pad_to_cache_lines(factor).mT, u[..., None], upper=True)[:, :rank, 0]


def covariances(factor: Tensor) -> Tensor:
    """Covariances [B, r, r] whose inverse is R R', for factors R [B, r, r]."""
    rank = factor.shape[-1]
    return torch.cholesky_inverse(pad_to_cache_lines(factor))[:, :rank, :rank]


def variances(factor: Tensor) -> Tensor:
    """Diagonals [B, r] of the covariances whose inverse is R R', for factors R [B, r, r]."""
    return covariances(factor).diagonal(dim1=-2, dim2=-1)


def with_constant(latents: Tensor) -> Tensor:
    """Append the constant 1, which the intercept multiplies, to latents [..., r]."""
    return torch.cat([latents, torch.ones_like(latents[..., :1])], dim=-1)


def products(values: Tensor) -> Tensor:
    """Products of every two values of a row [n, r], packed [n, r (r + 1) / 2]."""
    row, column = _triangle(values.shape[1])
    return values.index_select(1, row) * values.index_select(1, column)


def second_moment(z: Tensor, packed: Tensor) -> Tensor:
    """E[z z'], packed, of latents with a constant: means z [B, r + 1] and packed covariances of the latents."""
    moment = products(z)
    moment[:, : packed.shape[1]] += packed  # the last row of the triangle is that of the constant
    return moment


def variance_along(packed: Tensor, w: Tensor) -> Tensor:
    """Variance of w_j . z [n, G] for latents of packed covariances and loadings w [G, r]."""
    weight = products(w)
    row, column = _triangle(w.shape[1])
    return packed @ torch.where(row == column, weight, 2 * weight).T


def inverse(positive: Tensor) -> Tensor:
    """Inverses, symmetric, of many small symmetric positive definite matrices [n, r, r].

    Gauss-Jordan elimination, which needs no pivots here, of all together: for small matrices that takes half the time
    of LAPACK, and no result depends on where in memory a matrix lies.
    """
    a = positive.permute(1, 2, 0).contiguous()
    for k in range(len(a)):
        pivot = 1 / a[k, k]
        row, column = a[k] * pivot, a[:, k].clone()
        a.addcmul_(column[:, None], row[None], value=-1)
        a[k], a[:, k], a[k, k] = row, -column * pivot, pivot
    return ((a + a.transpose(0, 1)) / 2).permute(2, 0, 1)  # without the asymmetry that rounding leaves
