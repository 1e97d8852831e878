"""Scale every spot to the median total count and take the logarithm (paper, eq. 29)."""

from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from stmcdi_cli import anndata_keys as keys
from stmcdi_cli import checks
from stmcdi_cli.errors import InputError
from stmcdi_cli.io import record, shallow_copy
from stmcdi_cli.sparse import column_sums, missing_entries, nan_entries, row_sums, scale_rows, to_csr, without

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
    checks.table(adata)
    checks.coordinates(adata)
    where = "X" if layer is None else f"layers['{layer}']"
    values = to_csr(_source(adata, layer))
    missing = missing_entries(adata) + nan_entries(values)
    values = without(values, missing)
    checks.expression(values, where)

    result = shallow_copy(adata)
    if skip:
        result.X = values
        if keys.COUNTS in adata.layers:
            result.layers[keys.COUNTS] = without(to_csr(adata.layers[keys.COUNTS]), missing)
        elif checks.is_counts(values):
            result.layers[keys.COUNTS] = values.copy()
    else:
        checks.counts(values, where)
        total = spot_totals(values, missing)
        size_factor = np.where(total > 0, total / np.median(total[total > 0]), 1.0)
        result.X = scale_rows(values, size_factor, log=log)
        result.layers[keys.COUNTS] = values
        result.obs[keys.SIZE_FACTOR] = size_factor
    result.obs[keys.EMPTY_SPOT] = np.diff(values.indptr) == 0
    if missing.nnz:
        result.layers[keys.MISSING] = missing
    record(result, "normalize", {"layer": layer, "log": log, "skip": skip})
    return result


def spot_totals(counts: sp.csr_matrix, missing: sp.csr_matrix) -> np.ndarray:
    """Total count of every spot, as it would be with no entry missing.

    A plain sum of what is visible shrinks with what is missing: a spot that lacks its most abundant gene would look
    shallow and be scaled up. So each visible sum is divided by the share of an average spot's counts that fall on the
    genes visible there. Shares and totals depend on each other; this is the maximum-likelihood fit of independent
    Poisson counts, total_j * share_i, to the visible entries, found by alternating the two. Without missing entries
    it is the sum.
    """
    visible_total = row_sums(counts)
    if not missing.nnz:
        return visible_total
    gene_total = column_sums(counts)
    total = visible_total
    for _ in range(100):
        exposure = total.sum() - missing.T @ total
        share = np.divide(gene_total, exposure, out=np.zeros_like(gene_total), where=gene_total > 0)
        share /= share.sum()
        previous, total = total, visible_total / np.maximum(1 - missing @ share, 1e-12)
        if np.allclose(previous, total, rtol=1e-9, atol=0):
            break
    return total


def _source(adata: "AnnData", layer: str | None) -> Any:
    if layer is not None and layer not in adata.layers:
        raise InputError(
            f"expected counts in layers['{layer}'], found only {checks.some(adata.layers)}; correct --layer"
        )
    if layer is None and adata.X is None:
        raise InputError("expected counts in X, found no X; name the layer with counts (--layer)")
    return adata.X if layer is None else adata.layers[layer]
