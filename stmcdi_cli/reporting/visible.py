"""What the visible entries of a file hold, per spot and per gene; the file may be on disk."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from stmcdi_cli import anndata_keys as keys
from stmcdi_cli.sparse import accumulate_by_column, mask_out, missing_mask, read_rows, row_chunks, row_sums, to_csr

if TYPE_CHECKING:
    from anndata import AnnData


@dataclass(frozen=True)
class Visible:
    """Sums over the entries of ``X`` that have a value.

    Attributes
    ----------
    seen, total, missing
        Of each gene in each section: entries above zero, sum of the values, entries without a value; sections x genes.
    genes_seen, depth, n_missing
        The same of each spot, [spots].
    counts
        Sum of ``layers['counts']`` of each spot, [spots]; None without that layer.
    """

    seen: np.ndarray
    total: np.ndarray
    missing: np.ndarray
    genes_seen: np.ndarray
    depth: np.ndarray
    n_missing: np.ndarray
    counts: np.ndarray | None


def visible_entries(adata: "AnnData", sections: np.ndarray) -> Visible:
    """Sum over the file, a few spots at a time.

    Parameters
    ----------
    adata
        Expression in ``X``, entries without a value in ``layers['missing']``.
    sections
        Integer code of each spot's section.
    """
    n_sections, n_genes = int(sections.max()) + 1, adata.n_vars
    seen, total, missing = np.zeros((3, n_sections * n_genes))
    genes_seen, depth, n_missing, counts = np.zeros((4, adata.n_obs))
    for rows in row_chunks(adata.shape):
        absent = missing_mask(adata, rows)
        every = to_csr(read_rows(adata.X, rows))
        x = mask_out(every, absent)
        cell = sections[rows].astype(np.int64) * n_genes  # first of the section's places in the sums
        gene, hidden = (np.repeat(cell, np.diff(part.indptr)) + part.indices for part in (x, absent))
        seen = accumulate_by_column(seen, gene, np.ones(gene.size))
        total = accumulate_by_column(total, gene, x.data)
        missing = accumulate_by_column(missing, hidden, np.ones(hidden.size))
        genes_seen[rows], n_missing[rows] = np.diff(x.indptr), np.diff(absent.indptr)
        depth[rows] = row_sums(every)
        if keys.COUNTS in adata.layers:
            counts[rows] = row_sums(to_csr(read_rows(adata.layers[keys.COUNTS], rows)))
    seen, total, missing = (sums.reshape(n_sections, n_genes) for sums in (seen, total, missing))
    has_counts = keys.COUNTS in adata.layers
    return Visible(seen, total, missing, genes_seen, depth, n_missing, counts if has_counts else None)


def dense_rows(matrix: Any, rows: slice) -> np.ndarray:
    """Give a run of rows of a matrix, in memory or on disk, as a dense float64 array."""
    part = read_rows(matrix, rows)
    return np.asarray(part.toarray() if hasattr(part, "toarray") else part, dtype=np.float64)
