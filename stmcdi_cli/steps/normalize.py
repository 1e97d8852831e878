"""Scale every spot to the median total count and take the logarithm (paper, eq. 29)."""

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

from stmcdi_cli import anndata_keys as keys
from stmcdi_cli import validation
from stmcdi_cli.io.h5ad import copy_without
from stmcdi_cli.io.stream import Block, Stream, disk_size
from stmcdi_cli.provenance import record
from stmcdi_cli.sparse import (
    accumulate_by_column,
    as_row_major,
    mask_out,
    missing_mask,
    nan_mask,
    read_rows,
    row_chunks,
    row_sums,
    scale_rows,
    to_csr,
)
from stmcdi_cli.steps._counts import (
    Source,
    check_options,
    check_some,
    check_values,
    check_whole,
    find_counts,
    log_rounded,
    n_fractions,
    whole_counts,
)
from stmcdi_cli.steps._step import step

if TYPE_CHECKING:
    from anndata import AnnData


@step
def normalize(
    adata: "AnnData", *, layer: str | None = None, log: bool = True, skip: bool = False, round: bool = False
) -> Stream:
    """Scale every spot to the median total count, then take log(1 + x).

    Equation 29: ``d_ij = N * D_ij / sum_i D_ij`` for gene i at spot j, with D the raw counts and N the median total
    over the spots that have counts. NaN entries, and those of an existing ``layers['missing']``, have no value: they
    become ``layers['missing']``, hold 0 in ``X`` and in ``layers['counts']``, and take no part in the totals.

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
    counts = _Counts(source, skip=skip, at_random=round)
    size_factor = np.ones(adata.n_obs) if skip else counts.size_factor()
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

    header = copy_without(adata, made)
    if not skip:
        header.obs[keys.SIZE_FACTOR] = size_factor
    header.obs[keys.EMPTY_SPOT] = counts.empty
    record(header, "normalize", {"layer": layer, "log": log, "skip": skip, "round": round or None})
    return Stream(header, blocks(), disk_size(2 * counts.n_values, counts.n_missing))


class _Counts:
    """Counts of a tissue without the entries that have no value. They are read once to sum them up.

    Parameters
    ----------
    source
        Where they are.
    skip
        Leave values as they are; they need not be whole.
    at_random
        Round values that are not whole at random, instead of refusing them.

    Attributes
    ----------
    visible_total, gene_total
        Sums of the visible counts over genes [n] and over spots [G].
    empty
        Which spots have no visible count, bool [n].
    n_values, n_missing, n_nan
        How many entries are visible and not zero, have no value, and have none because they are NaN.
    whole
        Whether all values are whole numbers.
    """

    def __init__(self, source: Source, *, skip: bool, at_random: bool) -> None:
        adata = source.adata
        self.adata, self.matrix = adata, as_row_major(source.matrix)
        self.skip, self.at_random = skip, at_random
        self.visible_total, self.gene_total = np.empty(adata.n_obs), np.zeros(adata.n_vars)
        self.empty, self.whole = np.empty(adata.n_obs, bool), True
        self.n_values = self.n_missing = self.n_nan = n_rounded = 0
        for rows in row_chunks(adata.shape):
            found, missing = self._visible(rows)
            check_values(found, source)
            values = self._rounded(found, rows)
            if not skip:
                check_whole(values, source)
                n_rounded += n_fractions(found)
            self.whole = self.whole and validation.is_counts(values)
            self.visible_total[rows], self.empty[rows] = row_sums(values), np.diff(values.indptr) == 0
            self.gene_total = accumulate_by_column(self.gene_total, values.indices, values.data)
            self.n_values, self.n_missing = self.n_values + values.nnz, self.n_missing + missing.nnz
            self.n_nan += missing.nnz - missing_mask(adata, rows).nnz
        check_some(self.n_values, source)
        log_rounded("normalize", source.where, n_rounded, at_random=at_random)

    def read(self, rows: slice) -> tuple[sp.csr_matrix, sp.csr_matrix]:
        """Give the visible values of some spots (CSR float32), and which entries have none (CSR bool)."""
        values, missing = self._visible(rows)
        return self._rounded(values, rows), missing

    def _visible(self, rows: slice) -> tuple[sp.csr_matrix, sp.csr_matrix]:
        values = to_csr(read_rows(self.matrix, rows))
        missing = missing_mask(self.adata, rows) + nan_mask(values)
        return mask_out(values, missing), missing

    def _rounded(self, values: sp.csr_matrix, rows: slice) -> sp.csr_matrix:
        return values if self.skip else whole_counts(values, rows.start, at_random=self.at_random)

    def missing(self) -> Iterator[tuple[slice, sp.csr_matrix]]:
        """Go through the entries that have no value: runs of spots, and CSR bool, spots of the run x genes."""
        for rows in row_chunks(self.adata.shape):
            yield rows, self.read(rows)[1] if self.n_nan else missing_mask(self.adata, rows)

    def size_factor(self) -> np.ndarray:
        """Total of each spot over the median total of the spots that have counts; 1 for the others [n]."""
        total = self.visible_total
        if self.n_missing:
            total = spot_totals(self.visible_total, self.gene_total, self.missing)
        return np.where(total > 0, total / np.median(total[total > 0]), 1.0)


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
