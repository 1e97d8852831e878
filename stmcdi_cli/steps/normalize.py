"""Scale every spot to the median total count and take the logarithm (paper, eq. 29)."""

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

from stmcdi_cli import anndata_keys as keys
from stmcdi_cli import roles, validation
from stmcdi_cli.errors import InputError
from stmcdi_cli.io.h5ad import copy_without
from stmcdi_cli.io.stream import Block, Stream, disk_size
from stmcdi_cli.provenance import record
from stmcdi_cli.sparse import (
    accumulate_by_column,
    as_row_major,
    mask_out,
    read_rows,
    row_chunks,
    row_sums,
    scale_rows,
    to_csr,
)
from stmcdi_cli.steps._counts import (
    Counts,
    check_options,
    find_counts,
)
from stmcdi_cli.steps._results import results_in, without_results
from stmcdi_cli.steps._step import step

if TYPE_CHECKING:
    from anndata import AnnData

logger = logging.getLogger(__name__)


@step
def normalize(
    adata: "AnnData", *, layer: str | None = None, log: bool = True, skip: bool = False, round: bool = False
) -> Stream:
    """Scale every spot to the median total count, then take log(1 + x).

    Equation 29: ``d_ij = N * D_ij / sum_i D_ij`` for gene i at spot j, with D the raw counts and N the median total
    over the spots that have counts. NaN entries, and those of an existing ``layers['missing']``, have no value: they
    become ``layers['missing']``, hold 0 in ``X`` and in ``layers['counts']``, and take no part in the totals.

    With a reference in the file (`add_reference`), totals are those of the genes that both sides have a value of, and N
    is the median over the target's spots: sides, as platforms, may differ in depth by any factor.

    Parameters
    ----------
    adata
        Raw counts, spots x genes, sparse or dense, with coordinates in ``obsm['spatial']``.
    layer
        Layer that holds the raw counts; ``X`` if None. "raw", where no layer is called so, means ``adata.raw``: the
        result has its genes and its ``var``; where they differ from those of ``X``, all that is for the genes of ``X``
        is left out.
    log
        Take log(1 + x) after scaling.
    skip
        Keep the values as they are. They need not be counts then, only finite and not negative; no size factor is
        written, and ``layers['counts']`` only where the values are whole numbers and there is no such layer yet.
    round
        Take counts that are not whole, such as those of SoupX or of EM: each is rounded up or down at random, with the
        probabilities that keep its expected value. Values within 0.001 of a whole number are rounded in any case.

    Returns
    -------
    AnnData
        New object with ``X`` (CSR float32), ``layers['counts']`` (CSR float32), ``obs['size_factor']`` (spot total over
        N; 1 for a spot without counts), ``obs['empty_spot']``, and ``layers['missing']`` where entries are missing.

    Raises
    ------
    InputError
        Fewer than 2 spots, names not unique, no or non-finite coordinates, or values that are no counts; or both
        ``skip`` and ``round``.
    """
    check_options(skip=skip, round=round)
    source = find_counts(adata, layer, "normalize")
    adata = source.adata
    validation.table(adata)
    validation.coordinates(adata)
    counts = Counts(source, skip=skip, at_random=round, step="normalize")
    total, n_genes = (counts.visible_total, None) if skip else _totals(counts)
    median_total = None if skip else _median_total(total, roles.n_target(adata))
    size_factor = np.where(total > 0, total / median_total, 1.0) if median_total else np.ones(adata.n_obs)
    keeps_layer = skip and keys.COUNTS in adata.layers
    made: list[str | None] = [keys.X]
    if keeps_layer or counts.whole:
        made.append(keys.COUNTS)
    if counts.n_missing:
        made.append(keys.MISSING)

    def blocks() -> Iterator[Block]:
        kept = as_row_major(adata.layers[keys.COUNTS]) if keeps_layer else None
        for rows in row_chunks(adata.shape):
            values, missing = counts.read(rows)
            block = {
                keys.X: values if skip else scale_rows(values, size_factor[rows], log=log),
                keys.COUNTS: values if kept is None else mask_out(to_csr(read_rows(kept, rows)), missing),
                keys.MISSING: missing,
            }
            yield {name: block[name] for name in made}

    header, settings = copy_without(adata, made), {"layer": layer, "log": log, "skip": skip, "round": round or None}
    if not skip:
        if results := results_in(adata):
            logger.info("normalize: left out, since they are on the scale of the values before: %s", ", ".join(results))
        header = without_results(header)
        header.obs[keys.SIZE_FACTOR] = size_factor
    header.obs[keys.EMPTY_SPOT] = counts.empty | (total == 0)
    record(header, "normalize", settings | {"median_total": median_total, "n_genes": n_genes})
    return Stream(header, blocks(), disk_size(2 * counts.n_values, counts.n_missing))


def _totals(counts: Counts) -> tuple[np.ndarray, int]:
    """Total of each spot, as it would be with no entry missing [n]; and the genes that it is of, all or those shared.

    With a reference, totals are of the genes that both sides have.
    """
    n_target, n_spots = roles.n_target(counts.adata), counts.adata.n_obs
    if n_target == n_spots:
        total = counts.visible_total
        if counts.n_missing:
            total = spot_totals(total, counts.gene_total, counts.missing)
        return total, counts.adata.n_vars
    shared = counts.has_value(slice(n_target)) & counts.has_value(slice(n_target, None))
    visible_total, gene_total, n_missing = np.empty(n_spots), np.zeros(np.count_nonzero(shared)), 0
    for rows in row_chunks(counts.adata.shape):
        values, mask = (part[:, shared] for part in counts.read(rows))
        visible_total[rows], n_missing = row_sums(values), n_missing + mask.nnz
        gene_total = accumulate_by_column(gene_total, values.indices, values.data)

    def missing() -> Iterator[tuple[slice, sp.csr_matrix]]:
        return ((rows, mask[:, shared]) for rows, mask in counts.missing())

    total = spot_totals(visible_total, gene_total, missing) if n_missing else visible_total
    return total, len(gene_total)


def _median_total(total: np.ndarray, n_target: int) -> float:
    """Median total of the target's spots that have counts."""
    of_target = total[:n_target][total[:n_target] > 0]
    if not of_target.size:
        raise InputError("expected counts of genes that target and reference share, found none; give another reference")
    return float(np.median(of_target))


def spot_totals(
    visible_total: np.ndarray,
    gene_total: np.ndarray,
    missing: Callable[[], Iterable[tuple[slice, sp.csr_matrix]]],
) -> np.ndarray:
    """Total count of every spot, as it would be with no entry missing.

    The sum of the visible counts is smaller where more is missing: a spot that lacks its most abundant gene would seem
    to have few counts, and be scaled up. So each visible sum is divided by the share of an average spot's counts that
    fall on the genes visible there. Shares and totals depend on each other; this is the maximum-likelihood fit of
    independent Poisson counts, total_j * share_i, to the visible entries, found by alternating the two.

    Parameters
    ----------
    visible_total, gene_total
        Sums of the visible counts over genes and over spots.
    missing
        Goes through the missing entries: runs of spots, and CSR bool, spots of the run x genes.
    """

    def hidden_by_gene(total: np.ndarray, rows: slice, mask: sp.csr_matrix, so_far: np.ndarray) -> np.ndarray:
        return accumulate_by_column(so_far, mask.indices, np.repeat(total[rows], np.diff(mask.indptr)))

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
