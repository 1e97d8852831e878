"""The union of the genes of several files: where the genes of each go, and which entries have no value there."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from stmcdi_cli.sparse import to_csr


class Placement:
    """Where the genes of one file go in the union.

    Parameters
    ----------
    column
        Column of the union for each gene of the file; -1 where it is left out [G].
    n_genes
        Genes of the union.

    Attributes
    ----------
    lacking
        Columns of the union that the file has no gene for, rising.
    """

    def __init__(self, column: np.ndarray, n_genes: int) -> None:
        self.kept = np.flatnonzero(column >= 0)
        self.column, self.n_genes = column[self.kept].astype(np.int32), n_genes
        self.lacking = np.setdiff1d(np.arange(n_genes, dtype=np.int32), self.column)

    def place(self, block: Any, dtype: Any = np.float32) -> sp.csr_matrix:
        """Give rows of the file with the columns of the union, CSR; 0 where the file lacks a gene."""
        part = to_csr(block, dtype)[:, self.kept]
        placed = sp.csr_matrix((part.data, self.column[part.indices], part.indptr), (part.shape[0], self.n_genes))
        placed.sort_indices()
        return placed

    def missing(self, mask: sp.csr_matrix) -> sp.csr_matrix:
        """Entries of rows without a value, CSR bool: those of a mask of the file, and genes that the file lacks."""
        n, n_lacking = mask.shape[0], self.lacking.size
        ones = np.ones(n * n_lacking, bool)
        block = (ones, np.tile(self.lacking, n), np.arange(n + 1) * n_lacking)
        lacking = sp.csr_matrix(block, (n, self.n_genes))
        return to_csr(self.place(mask, bool) + lacking, bool) if mask.nnz else lacking


def lengthened(
    table: pd.DataFrame, names: "Sequence[str] | pd.Index", other: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Give a table with rows added, whose columns keep their types.

    Parameters
    ----------
    table
        Columns by name.
    names
        Index of the rows to add.
    other
        Table with these rows; a column of it that has the same name and type is taken. All else is empty: NaN, 0 or
        False.
    """
    columns = {}
    for name in table:
        column = table[name]
        added = pd.Series([_empty(column.dtype)] * len(names), dtype=column.dtype)
        if other is not None and name in other and _same_kind(column, other[name]):
            added = other[name]
        if added.dtype == column.dtype:
            columns[name] = pd.concat([column, added], ignore_index=True).array
        else:  # other categories
            columns[name] = pd.api.types.union_categoricals([column, added])
    index = pd.Index([*table.index, *names], name=table.index.name)
    return pd.DataFrame(columns, index=index)


def _same_kind(column: pd.Series, other: pd.Series) -> bool:
    if isinstance(column.dtype, pd.CategoricalDtype):
        return isinstance(other.dtype, pd.CategoricalDtype) and (
            column.cat.categories.dtype == other.cat.categories.dtype and not column.cat.ordered
        )
    return bool(column.dtype == other.dtype)


def _empty(dtype: Any) -> Any:
    if isinstance(dtype, pd.CategoricalDtype):
        return None
    if pd.api.types.is_bool_dtype(dtype):
        return False
    if pd.api.types.is_integer_dtype(dtype):
        return 0
    return np.nan if pd.api.types.is_numeric_dtype(dtype) else None


def lengthened_array(value: Any, names: Sequence[str] | pd.Index) -> Any:
    """Give an array of spots (or genes) x anything with empty rows added; None where that cannot be."""
    n = len(names)
    if isinstance(value, pd.DataFrame):
        return lengthened(value, names)
    if sp.issparse(value):
        return sp.vstack([value, sp.csr_matrix((n, value.shape[1]), dtype=value.dtype)], format=value.format)
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        empty = np.nan if value.dtype.kind == "f" else 0
        return np.concatenate([value, np.full((n, *value.shape[1:]), empty, value.dtype)])
    return None
