"""Scale every spot to the median total count and take the logarithm (paper, eq. 29)."""

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from stmcdi_cli import anndata_keys as keys
from stmcdi_cli import validation
from stmcdi_cli.errors import InputError
from stmcdi_cli.io.h5ad import carried
from stmcdi_cli.io.stream import Block, Stream, disk_size, gathered
from stmcdi_cli.provenance import record
from stmcdi_cli.sparse import (
    add_columns,
    by_rows,
    missing_entries,
    nan_entries,
    row_chunks,
    row_sums,
    rows_of,
    scale_rows,
    to_csr,
    without,
)

if TYPE_CHECKING:
    from anndata import AnnData


def normalize(adata: "AnnData", *, layer: str | None = None, log: bool = True, skip: bool = False) -> "AnnData":
    """Scale every spot to the median total count, then take log(1 + x).

    Equation 29: ``d_ij = N * D_ij / sum_i D_ij`` for gene i at spot j, with D the raw counts and N the median total
    over the spots that have counts. NaN entries, and those of an existing ``layers['missing']``, have no value: they
    become ``layers['missing']``, hold 0 in ``X`` and in ``layers['counts']``, and take no part in the totals.

    Parameters
    ----------
    adata
        Raw counts, spots x genes, sparse or dense, with coordinates in ``obsm['spatial']``.
    layer
        Layer that holds the raw counts; ``X`` if None.
    log
        Take log(1 + x) after scaling.
    skip
        Keep the values as they are. They need not be counts then, only finite and not negative; no size factor is
        written, and ``layers['counts']`` only where the values are whole numbers and there is no such layer yet.

    Returns
    -------
    AnnData
        New object with ``X`` (CSR float32), ``layers['counts']`` (CSR float32), ``obs['size_factor']`` (spot total over
        N; 1 for a spot without counts), ``obs['empty_spot']``, and ``layers['missing']`` where entries are missing.

    Raises
    ------
    InputError
        Fewer than 2 spots, names not unique, no or non-finite coordinates, or values that are no counts.
    """
    return gathered(stream(adata, layer=layer, log=log, skip=skip))


def stream(adata: "AnnData", *, layer: str | None = None, log: bool = True, skip: bool = False) -> Stream:
    """Do the work of :func:`normalize` in blocks of spots; ``adata`` may be on disk. Goes through the file twice."""
    validation.table(adata)
    validation.coordinates(adata)
    where = "X" if layer is None else f"layers['{layer}']"
    source = by_rows(counts_matrix(adata, layer))

    def read(rows: slice) -> tuple[sp.csr_matrix, sp.csr_matrix]:
        values = to_csr(rows_of(source, rows))
        missing = missing_entries(adata, rows) + nan_entries(values)
        return without(values, missing), missing

    visible_total, gene_total, whole_counts = np.empty(adata.n_obs), np.zeros(adata.n_vars), True
    empty, n_values, n_missing, n_nan = np.empty(adata.n_obs, bool), 0, 0, 0
    for rows in row_chunks(adata.shape):
        values, missing = read(rows)
        validation.values(values, where)
        if not skip:
            validation.counts(values, where)
        whole_counts = whole_counts and validation.is_counts(values)
        visible_total[rows], gene_total = row_sums(values), add_columns(gene_total, values.indices, values.data)
        empty[rows] = np.diff(values.indptr) == 0
        n_values, n_missing = n_values + values.nnz, n_missing + missing.nnz
        n_nan += missing.nnz - missing_entries(adata, rows).nnz
    validation.some_value(n_values, where)

    def all_missing() -> Iterator[tuple[slice, sp.csr_matrix]]:
        for rows in row_chunks(adata.shape):
            yield rows, read(rows)[1] if n_nan else missing_entries(adata, rows)

    size_factor = np.ones(adata.n_obs)
    if not skip:
        total = visible_total
        if n_missing:
            total = spot_totals(visible_total, gene_total, all_missing)
        size_factor = np.where(total > 0, total / np.median(total[total > 0]), 1.0)
    keeps_counts = skip and keys.COUNTS in adata.layers
    made = ["X"]
    if keeps_counts or whole_counts:
        made.append(keys.COUNTS)
    if n_missing:
        made.append(keys.MISSING)

    def blocks() -> Iterator[Block]:
        counts = by_rows(adata.layers[keys.COUNTS]) if keeps_counts else None
        for rows in row_chunks(adata.shape):
            values, missing = read(rows)
            block = {
                "X": values if skip else scale_rows(values, size_factor[rows], log=log),
                keys.COUNTS: values if counts is None else without(to_csr(rows_of(counts, rows)), missing),
                keys.MISSING: missing,
            }
            yield {name if name == "X" else f"layers/{name}": block[name] for name in made}

    header = carried(adata, without=made)
    if not skip:
        header.obs[keys.SIZE_FACTOR] = size_factor
    header.obs[keys.EMPTY_SPOT] = empty
    record(header, "normalize", {"layer": layer, "log": log, "skip": skip})
    return Stream(header, blocks(), disk_size(2 * n_values, n_missing))


def spot_totals(
    visible_total: np.ndarray,
    gene_total: np.ndarray,
    missing: Callable[[], Iterable[tuple[slice, sp.csr_matrix]]],
) -> np.ndarray:
    """Total count of every spot, as it would be with no entry missing.

    A plain sum of what is visible shrinks with what is missing: a spot that lacks its most abundant gene would look
    shallow and be scaled up. So each visible sum is divided by the share of an average spot's counts that fall on the
    genes visible there. Shares and totals depend on each other; this is the maximum-likelihood fit of independent
    Poisson counts, total_j * share_i, to the visible entries, found by alternating the two.

    Parameters
    ----------
    visible_total, gene_total
        Sums of the visible counts over genes and over spots.
    missing
        Goes through the missing entries: runs of spots, and CSR bool, spots of the run x genes.
    """

    def hidden_by_gene(total: np.ndarray, rows: slice, mask: sp.csr_matrix, so_far: np.ndarray) -> np.ndarray:
        return add_columns(so_far, mask.indices, np.repeat(total[rows], np.diff(mask.indptr)))

    total, hidden = visible_total, np.zeros(gene_total.size)
    for rows, mask in missing():
        hidden = hidden_by_gene(total, rows, mask, hidden)
    for _ in range(100):
        share = np.divide(gene_total, total.sum() - hidden, out=np.zeros_like(gene_total), where=gene_total > 0)
        share /= share.sum()
        previous, total, hidden = total, np.empty_like(total), np.zeros(gene_total.size)
        for rows, mask in missing():  # a spot's total is that of its own row: one pass gives both
            total[rows] = visible_total[rows] / np.maximum(1 - mask @ share, 1e-12)
            hidden = hidden_by_gene(total, rows, mask, hidden)
        if np.allclose(previous, total, rtol=1e-9, atol=0):
            break
    return total


def counts_matrix(adata: "AnnData", layer: str | None) -> Any:
    """Give the matrix that holds the raw counts: a layer, or ``X``.

    Raises
    ------
    InputError
        It is not there.
    """
    if layer is not None and layer not in adata.layers:
        raise InputError(
            f"expected counts in layers['{layer}'], found only {validation.some(adata.layers)}; correct --layer"
        )
    if layer is None and adata.X is None:
        raise InputError("expected counts in X, found no X; name the layer with counts (--layer)")
    return adata.X if layer is None else adata.layers[layer]
