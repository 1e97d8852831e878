"""Mean and variation of every gene, which genes are chosen by."""

import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import scipy.sparse as sp

from stmcdi_cli import validation
from stmcdi_cli.errors import OptionError
from stmcdi_cli.sparse import accumulate_by_column, missing_mask, row_chunks, scale_rows

if TYPE_CHECKING:
    from anndata import AnnData

USUAL_N_GENES = 1000
USUAL_MIN_SPOTS = 0.05
ALL = "all"


def check_choice(n_genes: int | str | None, genes: Sequence[str] | None) -> None:
    """Refuse a number of genes that is none, or one beside names of genes."""
    if isinstance(n_genes, str) and n_genes != ALL:
        raise OptionError(f"expected `n_genes` to be a number or {ALL}, found `{n_genes}`")
    if n_genes is not None and n_genes != ALL:
        validation.at_least("n_genes", n_genes, 1)  # type: ignore[arg-type]
    if n_genes is not None and genes is not None:
        raise OptionError("expected either `n_genes` or `genes`, found both; leave one out")
    validation.names("genes", genes)
    if genes is not None and not len(genes):
        raise OptionError("expected names of genes in `genes`, found none; name some, or leave it out")


class Statistics(NamedTuple):
    """Statistics of every gene over its visible entries.

    Attributes
    ----------
    n
        Number of visible entries, at least 1.
    measured
        Whether there is any.
    mean, variance
        Mean and (population) variance of the values.
    seen
        Share of values above zero.
    """

    n: np.ndarray
    measured: np.ndarray
    mean: np.ndarray
    variance: np.ndarray
    seen: np.ndarray


def gene_statistics(
    adata: "AnnData", read: Callable[[slice], sp.csr_matrix], divisor: np.ndarray, *, empty_spots: bool
) -> Statistics:
    """Go through the visible values of the rows, each row divided by its number, a few at a time."""
    n_spots = 0
    hidden, total, squares, above = np.zeros((4, adata.n_vars))
    for rows in row_chunks(adata.shape):
        block, missing = read(rows), missing_mask(adata, rows)
        used = np.diff(block.indptr) > 0
        block = scale_rows(block.astype(np.float64), divisor[rows])
        if not empty_spots:
            missing = missing[used]
        n_spots += missing.shape[0]
        hidden = accumulate_by_column(hidden, missing.indices, missing.data)
        total = accumulate_by_column(total, block.indices, block.data)
        squares = accumulate_by_column(squares, block.indices, block.data**2)
        above = accumulate_by_column(above, block.indices, block.data > 0)
    n = np.maximum(n_spots - hidden, 1)
    return Statistics(n, hidden < n_spots, total / n, np.maximum(squares / n - (total / n) ** 2, 0), above / n)


def cv2_residual(stats: Statistics, min_spots: float) -> np.ndarray:
    """How far log CV^2 lies above its trend, a quadratic in the log mean; NaN for genes that are not ranked."""
    residual = np.full(stats.mean.size, np.nan)
    ranked = (stats.seen >= min_spots) & (stats.variance > 0)
    if ranked.any():
        log_mean = np.log(stats.mean[ranked])
        log_cv2 = np.log(stats.variance[ranked]) - 2 * log_mean
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Polyfit")  # few genes, or equal means: any trend will do
            trend = np.polyfit(log_mean, log_cv2, min(2, int(ranked.sum()) - 1))
        residual[ranked] = log_cv2 - np.polyval(trend, log_mean)
    return residual
