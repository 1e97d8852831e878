"""Square bins of Stereo-seq: sums over neighbouring spots of the chip."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import scipy.sparse as sp

from stmcdi_cli import anndata_keys as keys
from stmcdi_cli.io.readers.reader import Options

if TYPE_CHECKING:
    from anndata import AnnData

LINES = 2**20
"""Counts that are read at a time."""
Part = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Some counts: x and y in spots of the chip, position of the gene, and the count itself."""


def sum_in_bins(parts: Iterable[Part], side: int) -> tuple[np.ndarray, sp.coo_matrix]:
    """Sum counts in bins of ``side`` x ``side`` spots.

    Returns
    -------
    The corners of the bins that have a count, in bins [n, 2], by x, then y; and the sums, bins x genes.

    Raises
    ------
    ValueError
        A place is below 0 or beyond what fits.
    """
    bins, genes, counts = [np.empty(0, np.int64)], [np.empty(0, np.int64)], [np.empty(0, np.float64)]
    for x, y, gene, count in parts:
        if len(x) and (min(x.min(), y.min()) < 0 or max(x.max(), y.max()) >= 2**31):
            raise ValueError("places below 0 or above 2147483647")
        place, row = np.unique(((x // side) << 32) | (y // side), return_inverse=True)
        summed = sp.coo_matrix((count, (row, gene))).tocsr().tocoo()  # equal places are added up
        bins.append(place[summed.row])
        genes.append(summed.col.astype(np.int64))
        counts.append(summed.data)
    place, row = np.unique(np.concatenate(bins), return_inverse=True)
    return np.column_stack([place >> 32, place & 0xFFFFFFFF]), sp.coo_matrix(
        (np.concatenate(counts), (row, np.concatenate(genes)))
    )


def tissue_of_bins(
    corners: np.ndarray, sums: sp.coo_matrix, genes: list[str], symbols: list[str] | None, options: Options
) -> "AnnData":
    """Make a tissue of bins, named X_Y by their corner in spots of the chip; coordinates are their centres.

    Parameters
    ----------
    corners, sums
        What `sum_in_bins` gave for ``options.bin``.
    genes
        What the genes are told apart by.
    symbols
        Their names, where these are others; the identifiers are kept in ``var['gene_ids']`` then.
    options
        Gets a note on the number of bins.
    """
    from anndata import AnnData

    side, matrix = options.bin, sp.csr_matrix((sums.data, (sums.row, sums.col)), (len(corners), len(genes)))
    corners = corners * side
    names = [f"{x}_{y}" for x, y in corners.tolist()]
    adata = AnnData(
        matrix.astype(np.float32),
        obs=pd.DataFrame(index=pd.Index(names, dtype=object)),
        var=pd.DataFrame(index=pd.Index(genes if symbols is None else symbols, dtype=object)),
    )
    if symbols is not None:
        adata.var["gene_ids"] = genes
    adata.obsm[keys.SPATIAL] = corners + (side - 1) / 2
    options.note(f"{adata.n_obs} bins of {side} x {side} spots of the chip (--bin)")
    return adata
