"""Sparse matrices in which some entries have no value, read a few rows at a time."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from stmcdi_cli import anndata_keys as keys

if TYPE_CHECKING:
    from anndata import AnnData

CHUNK_ENTRIES = 2**23
"""Entries of a matrix that are ever dense at one time."""


def row_chunks(shape: tuple[int, int]) -> Iterator[slice]:
    """Cut the rows of a matrix into runs small enough to be made dense."""
    step = max(1, CHUNK_ENTRIES // max(1, shape[1]))
    for start in range(0, shape[0], step):
        yield slice(start, min(start + step, shape[0]))


def to_csr(matrix: Any, dtype: Any = np.float32) -> sp.csr_matrix:
    """Give any matrix as CSR with sorted indices and no stored zeros; the argument is never changed."""
    csr = sp.csr_matrix(matrix, dtype=dtype)  # shares memory where the type already fits
    if not csr.has_canonical_format or not csr.data.all():
        csr = csr.copy()
        csr.sum_duplicates()
        csr.eliminate_zeros()
    return csr


def missing_entries(adata: "AnnData") -> sp.csr_matrix:
    """Entries without a value (``layers['missing']``), CSR bool, spots x genes; empty where there is no such layer."""
    if keys.MISSING in adata.layers:
        return to_csr(adata.layers[keys.MISSING], bool)
    return sp.csr_matrix(adata.shape, dtype=bool)


def nan_entries(matrix: sp.csr_matrix) -> sp.csr_matrix:
    """Entries that are NaN, CSR bool."""
    nan = sp.csr_matrix((np.isnan(matrix.data), matrix.indices, matrix.indptr), shape=matrix.shape, copy=True)
    nan.eliminate_zeros()
    return nan


def mask_from_chunks(chunks: Iterable[np.ndarray], n_columns: int) -> sp.csr_matrix:
    """Stack dense boolean rows into one CSR mask."""
    indices, lengths = [np.empty(0, np.int32)], [np.zeros(1, np.int64)]
    for chunk in chunks:
        indices.append(np.nonzero(chunk)[1].astype(np.int32))
        lengths.append(chunk.sum(1, dtype=np.int64))
    indptr = np.cumsum(np.concatenate(lengths))
    column = np.concatenate(indices)
    return sp.csr_matrix((np.ones(column.size, bool), column, indptr), shape=(indptr.size - 1, n_columns))


def without(matrix: sp.csr_matrix, mask: sp.csr_matrix) -> sp.csr_matrix:
    """Take the entries of ``mask`` out of ``matrix``."""
    if not mask.nnz:
        return matrix
    keep = np.ones(matrix.nnz, bool)
    for rows in row_chunks(matrix.shape):
        part = slice(matrix.indptr[rows.start], matrix.indptr[rows.stop])
        row = np.repeat(np.arange(rows.stop - rows.start), np.diff(matrix.indptr[rows.start : rows.stop + 1]))
        keep[part] = ~mask[rows].toarray()[row, matrix.indices[part]]
    indptr = np.concatenate([[0], np.cumsum(keep)])[matrix.indptr]
    return sp.csr_matrix((matrix.data[keep], matrix.indices[keep], indptr), shape=matrix.shape)


def values_at(matrix: Any, mask: sp.csr_matrix) -> np.ndarray:
    """Values of a sparse or dense matrix at the entries of ``mask``, row by row, as float64."""
    values = [np.empty(0)]
    for rows in row_chunks(mask.shape):
        dense = matrix[rows].toarray() if sp.issparse(matrix) else np.asarray(matrix[rows])
        values.append(dense[mask[rows].toarray()].astype(np.float64))
    return np.concatenate(values)


def scale_rows(matrix: sp.csr_matrix, divisor: np.ndarray, *, log: bool = False) -> sp.csr_matrix:
    """Divide every row by its number, then take log(1 + x) if asked; zeros stay zeros."""
    data = np.empty(matrix.nnz, matrix.dtype)
    for rows in row_chunks(matrix.shape):
        part = slice(matrix.indptr[rows.start], matrix.indptr[rows.stop])
        scaled = matrix.data[part] / np.repeat(divisor[rows], np.diff(matrix.indptr[rows.start : rows.stop + 1]))
        data[part] = np.log1p(scaled) if log else scaled
    return sp.csr_matrix((data, matrix.indices.copy(), matrix.indptr.copy()), shape=matrix.shape)


def row_sums(matrix: sp.csr_matrix) -> np.ndarray:
    """Sum over the columns of each row, as float64."""
    return np.asarray(matrix.sum(1, dtype=np.float64)).ravel()


def column_sums(matrix: sp.csr_matrix) -> np.ndarray:
    """Sum over the rows of each column, as float64."""
    return np.asarray(matrix.sum(0, dtype=np.float64)).ravel()
