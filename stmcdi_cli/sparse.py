"""Sparse matrices in which some entries have no value, in memory or on disk, read a few rows at a time."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from stmcdi_cli import anndata_keys as keys
from stmcdi_cli import resources
from stmcdi_cli.errors import InputError, one_line

if TYPE_CHECKING:
    from anndata import AnnData


CHUNK_ENTRIES = 2**22
"""Most entries of a matrix that are dense at a time, if memory allows it; more would not be faster."""


def row_chunks(shape: tuple[int, int]) -> Iterator[slice]:
    """Cut the rows of a matrix into runs small enough to be made dense."""
    step = max(1, min(CHUNK_ENTRIES, resources.entries()) // max(1, shape[1]))
    for start in range(0, shape[0], step):
        yield slice(start, min(start + step, shape[0]))


def layers_of(adata: "AnnData") -> dict[str, Any]:
    """Give the layers of a tissue; AnnData from 0.13 on lists ``X`` among them, under None."""
    return {name: matrix for name, matrix in adata.layers.items() if name is not None}


def on_disk(matrix: Any) -> bool:
    """Whether a matrix is still in its file, as those of `io.h5ad.open_h5ad` are."""
    return hasattr(matrix, "group") or hasattr(matrix, "id")


def size_when_read(matrix: Any) -> int:
    """Bytes of memory that a matrix takes once it is read from its file; 0 where it is in memory already."""
    if not on_disk(matrix):
        return 0
    parts = matrix.group.values() if hasattr(matrix, "group") else (matrix, matrix)  # dense: values and their places
    return sum(part.size * part.dtype.itemsize for part in parts)


def read_rows(matrix: Any, rows: slice) -> Any:
    """Give a run of rows of a matrix, in memory or on disk: CSR, or what is sliced where it is not sparse.

    Raises
    ------
    InputError
        The rows are damaged in the file.
    """
    if not on_disk(matrix):
        return matrix[rows]
    try:
        return _csr_rows(matrix.group, matrix.shape, rows) if hasattr(matrix, "group") else matrix[rows]
    except Exception as error:  # whatever h5py and scipy trip over, the file is what is wrong
        raise InputError(f"a matrix cannot be read ({one_line(error)}); write the file again with anndata") from error


def _csr_rows(group: Any, shape: tuple[int, int], rows: slice) -> sp.csr_matrix:
    if group.attrs["encoding-type"] == "csc_matrix":
        raise ValueError("stored by columns (CSC), where rows are needed")
    start, stop, _ = rows.indices(shape[0])
    indptr = group["indptr"][start : stop + 1].astype(np.int64)
    length = np.diff(indptr)
    if indptr.size != stop - start + 1 or (length < 0).any() or (length > shape[1]).any():
        raise ValueError("rows of negative length, or with more values than columns")
    part = slice(int(indptr[0]), int(indptr[-1]))
    indptr = (indptr - indptr[0]).astype(np.int32 if indptr[-1] - indptr[0] < 2**31 else np.int64)
    block = sp.csr_matrix((group["data"][part], group["indices"][part], indptr), shape=(stop - start, shape[1]))
    block.check_format(full_check=True)
    return block


def select_rows(matrix: Any, chosen: np.ndarray) -> Any:
    """Give chosen rows (positions, rising) of a matrix in memory or on disk; reads a few rows at a time."""
    blocks = []
    for rows in row_chunks(matrix.shape):
        first, last = np.searchsorted(chosen, (rows.start, rows.stop))
        if last > first:
            part = slice(int(chosen[first]), int(chosen[last - 1]) + 1)
            blocks.append(read_rows(matrix, part)[chosen[first:last] - part.start])
    if not blocks:
        return read_rows(matrix, slice(0, 0))
    return sp.vstack(blocks, format="csr", dtype=matrix.dtype) if sp.issparse(blocks[0]) else np.concatenate(blocks)


def as_row_major(matrix: Any) -> Any:
    """Give a matrix whose rows are quick to read: one that is stored by columns (CSC) is read and converted to CSR.

    Raises
    ------
    InputError
        It does not fit in memory.
    """
    if getattr(matrix, "format", None) != "csc":
        return matrix
    if on_disk(matrix):
        need = 2 * sum(part.size * part.dtype.itemsize for part in (matrix.group["data"], matrix.group["indices"]))
        if need > resources.room():
            raise InputError(
                f"a matrix is stored by columns (CSC), and to turn it takes {need / 2**30:.1f} GiB of memory; "
                "store it by rows (adata.X = adata.X.tocsr()) or allow more memory"
            )
        matrix = matrix.to_memory()
        check_csr(matrix, "a matrix stored by columns")
    return matrix.tocsr()


def check_csr(matrix: Any, where: str) -> None:
    """Refuse a sparse matrix whose indices point outside of it: memory outside of the matrix would be read or written.

    Raises
    ------
    InputError
        Its parts do not fit each other.
    """
    try:
        matrix.check_format(full_check=True)
    except ValueError as error:
        raise InputError(f"expected a sound sparse matrix in {where}, found that {error}; write it again") from error


def to_csr(matrix: Any, dtype: Any = np.float32) -> sp.csr_matrix:
    """Give any matrix as CSR with sorted indices and no stored zeros; the argument is never changed."""
    csr = sp.csr_matrix(matrix, dtype=dtype)  # shares memory where the type already fits
    if not csr.has_canonical_format or not csr.data.all():
        csr = csr.copy()
        csr.sum_duplicates()
        csr.eliminate_zeros()
    return csr


def missing_mask(adata: "AnnData", rows: slice = slice(None)) -> sp.csr_matrix:
    """Entries without a value (``layers['missing']``), CSR bool, spots x genes; empty where there is no such layer."""
    if keys.MISSING in adata.layers:
        layer = adata.layers[keys.MISSING]
        if np.dtype(layer.dtype).kind not in "biuf":
            raise InputError(f"expected True and False in layers['{keys.MISSING}'], found texts; write them as bool")
        return to_csr(read_rows(layer, rows), bool)
    return sp.csr_matrix((len(range(*rows.indices(adata.n_obs))), adata.n_vars), dtype=bool)


def nan_mask(matrix: sp.csr_matrix) -> sp.csr_matrix:
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


def mask_out(matrix: sp.csr_matrix, mask: sp.csr_matrix) -> sp.csr_matrix:
    """Remove the entries of ``mask`` from ``matrix``."""
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


def accumulate_by_column(total: np.ndarray, column: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Add values to a total per column, one by one: the result is the same however rows are cut into blocks."""
    columns = np.concatenate([np.arange(total.size), column])
    return np.bincount(columns, np.concatenate([total, values]), total.size)


def vstack(parts: "Sequence[sp.csr_matrix | np.ndarray]") -> "sp.csr_matrix | np.ndarray":
    """Put blocks of rows together."""
    return sp.vstack(parts, format="csr", dtype=parts[0].dtype) if sp.issparse(parts[0]) else np.concatenate(parts)
