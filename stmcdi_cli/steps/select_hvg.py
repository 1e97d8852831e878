"""Choose the genes worth imputing: those that vary over the tissue (paper, eq. 30, and two better rules)."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from stmcdi_cli import anndata_keys as keys
from stmcdi_cli import roles, validation
from stmcdi_cli.errors import InputError
from stmcdi_cli.io.h5ad import copy_without, matrices, shallow_copy
from stmcdi_cli.io.stream import Block, Stream, disk_usage
from stmcdi_cli.logging import log_left_out
from stmcdi_cli.provenance import record
from stmcdi_cli.sparse import (
    accumulate_by_column,
    as_row_major,
    mask_out,
    missing_mask,
    read_rows,
    row_chunks,
    to_csr,
)
from stmcdi_cli.steps._gene_names import NAME_COLUMNS
from stmcdi_cli.steps._gene_statistics import (
    ALL,
    USUAL_MIN_SPOTS,
    USUAL_N_GENES,
    Statistics,
    check_choice,
    cv2_residual,
    gene_statistics,
)
from stmcdi_cli.steps._step import step

if TYPE_CHECKING:
    from anndata import AnnData

logger = logging.getLogger(__name__)

METHODS = ("cv2-trend", "cv", "seurat_v3")


@step
def select_hvg(
    adata: "AnnData",
    *,
    method: str = "cv2-trend",
    n_genes: int | str | None = None,
    min_spots: float | None = None,
    genes: Sequence[str] | None = None,
    ignore_missing_genes: bool = False,
    subset: bool = True,
) -> Stream:
    """Flag and keep the most variable genes, judged on visible entries alone.

    Means and variances are those of counts over size factor, the linear scale of equation 29 (of ``X`` as it is where
    the file has no counts and size factors), over the spots with any count.

    Parameters
    ----------
    adata
        Output of ``normalize``, spots x genes.
    method
        ``cv2-trend``: residual of log CV^2 over a quadratic in log mean, among genes seen in at least ``min_spots``
        of the visible spots. ``cv``: CV_i = sigma_i / mu_i (eq. 30, as published; it ranks the rarest genes first).
        ``seurat_v3``: variance of clipped standardised counts, the numbers scanpy gives (needs ``pip install
        'stmcdi[seurat]'``).
    n_genes
        How many genes to choose. "all": every gene that is seen at all. None: all in a file of up to 1,000 genes, and
        in one with a reference, whose genes `add_reference` has chosen; otherwise 1,000, or all there are to choose
        from where they are fewer.
    min_spots
        Least share of visible spots a gene must be seen in, from 0 to 1 (``cv2-trend`` only). None: 0 where all genes
        are chosen, otherwise 0.05.
    genes
        Names of a gene panel to choose instead.
    ignore_missing_genes
        Leave out names of the panel that are not in the data, instead of refusing them.
    subset
        Keep the chosen genes only; otherwise keep all and only flag them.

    Returns
    -------
    AnnData
        New object, genes in their order, or in that of ``genes``, with ``var['highly_variable', 'means', 'cv',
        'cv2_residual']`` (the residual is NaN for genes not ranked by it) and, for ``seurat_v3``,
        ``var['variances_norm']``.

    Raises
    ------
    InputError
        Fewer genes than asked for, panel genes that are not in the data, or no gene to choose from.
    """
    validation.one_of("method", method, METHODS)
    few = adata.n_vars <= USUAL_N_GENES or roles.has_reference(adata)
    everything = n_genes == ALL or (n_genes is None and few)
    if min_spots is None:
        min_spots = 0.0 if everything else USUAL_MIN_SPOTS
    validation.share("min_spots", min_spots)
    check_choice(n_genes, genes)
    validation.table(adata)
    validation.matrix(adata)
    stats = _scaled_statistics(adata)
    var = adata.var.copy()
    var[keys.MEANS] = stats.mean
    var[keys.CV] = np.divide(np.sqrt(stats.variance), stats.mean, out=np.full(len(var), np.nan), where=stats.mean > 0)
    var[keys.CV2_RESIDUAL] = cv2_residual(stats, min_spots)
    if genes is not None:
        chosen = _panel(adata, genes, ignore_missing=ignore_missing_genes)
        reasons = {"not in the panel": int((~chosen).sum())}
    else:
        if method == "seurat_v3":
            var["variances_norm"] = _seurat_v3(adata)
        statistic = {"cv2-trend": keys.CV2_RESIDUAL, "cv": keys.CV, "seurat_v3": "variances_norm"}[method]
        least = min_spots if method == "cv2-trend" else 0.0
        which = (stats.seen > 0) & (stats.seen >= least)
        chosen = which if everything else _highest(var[statistic].to_numpy(), n_genes, least)
        _check_chosen(var[statistic].to_numpy()[chosen], least)
        reasons = _reasons(chosen, stats, least)
    if subset:
        log_left_out("select-hvg", "genes", adata.n_vars, reasons)
    var[keys.HIGHLY_VARIABLE] = chosen
    kept = np.flatnonzero(chosen)
    if genes is not None:  # a model's genes come in its order
        kept = adata.var_names.get_indexer([gene for gene in dict.fromkeys(genes) if gene in adata.var_names])

    made = {name: matrix for name, matrix in matrices(adata).items() if name != keys.RAW_X} if subset else {}
    header = copy_without(adata, made)
    header.var = var
    if subset:
        header.raw = None  # comes back below, with all genes
        # A cut takes categories without a spot, and their colours, away: those of the spots stay as they are.
        header = shallow_copy(header[:, kept].copy(), raw=adata.raw, obs=header.obs, uns=dict(header.uns))
    options = {"method": method, "n_genes": n_genes, "min_spots": min_spots, "subset": subset}
    record(header, "select-hvg", options if genes is None else {"genes": sorted(set(genes)), "subset": subset})
    size = sum(map(disk_usage, made.values()))
    return Stream(header, _columns(made, adata.shape, kept), size * chosen.mean())


def _columns(source: Mapping[str | None, Any], shape: tuple[int, int], kept: np.ndarray) -> Iterator[Block]:
    """Yield the genes of matrices at some positions, a few spots at a time."""
    source = {name: as_row_major(matrix) for name, matrix in source.items()}
    for rows in row_chunks(shape) if source else ():
        block = {name: read_rows(matrix, rows)[:, kept] for name, matrix in source.items()}
        for matrix in block.values():
            if sp.issparse(matrix):
                matrix.sort_indices()
        yield block


def _visible(adata: "AnnData", matrix: Any, rows: slice) -> sp.csr_matrix:
    """Values of some spots; others than our programs mark what is missing and leave its value in place."""
    return mask_out(to_csr(read_rows(matrix, rows)), missing_mask(adata, rows))


def _scaled_statistics(adata: "AnnData") -> Statistics:
    """Statistics on the linear scale, over the spots that have counts."""
    if keys.COUNTS in adata.layers and keys.SIZE_FACTOR in adata.obs:
        values, size_factor = as_row_major(adata.layers[keys.COUNTS]), adata.obs[keys.SIZE_FACTOR].to_numpy(np.float64)
    else:
        values, size_factor = as_row_major(adata.X), np.ones(adata.n_obs)

    def read(rows: slice) -> sp.csr_matrix:
        block = _visible(adata, values, rows)
        validation.values(block, "X")
        return block

    stats = gene_statistics(adata, read, size_factor, empty_spots=False)
    validation.some_value(int(np.count_nonzero(stats.mean)), "X", "check the steps before")
    return stats


def _seurat_v3(adata: "AnnData") -> np.ndarray:
    """Variance of each gene's counts, standardised by the variance expected at its mean and clipped (Seurat v3)."""
    try:
        from skmisc.loess import loess
    except ImportError as error:
        raise InputError(
            "--method seurat_v3 needs scikit-misc; install it with pip install 'stmcdi[seurat]'"
        ) from error
    counts = as_row_major(adata.layers.get(keys.COUNTS, adata.X))

    def read(rows: slice) -> sp.csr_matrix:
        block = _visible(adata, counts, rows)
        if not validation.is_counts(block):
            raise InputError(
                "--method seurat_v3 needs whole counts, found others; normalize counts, or use --method cv2-trend"
            )
        return block

    stats = gene_statistics(adata, read, np.ones(adata.n_obs), empty_spots=True)
    n, mean = np.maximum(stats.n, 2), stats.mean
    variance = stats.variance * n / (n - 1)
    varies = variance > 0
    expected = np.zeros(mean.size)  # log10 variance; 0 where a gene does not vary
    try:
        fit = loess(np.log10(mean[varies]), np.log10(variance[varies]), span=0.3, degree=2)
        fit.fit()
    except ValueError as error:
        raise InputError(f"the loess fit failed ({error}); too few genes vary: use --method cv2-trend") from error
    expected[varies] = fit.outputs.fitted_values
    sd = np.sqrt(10**expected)

    clip = mean + sd * np.sqrt(n)
    squares = n * mean**2  # of the clipped deviations from the mean, summed over spots; first as if all counts were 0
    for rows in row_chunks(adata.shape):
        block = read(rows)
        values = np.minimum(block.data.astype(np.float64), clip[block.indices])
        squares = accumulate_by_column(squares, block.indices, values**2 - 2 * mean[block.indices] * values)
    return squares / ((n - 1) * sd**2)


def _highest(statistic: np.ndarray, n_genes: Any, min_spots: float) -> np.ndarray:
    """Flag the genes where a statistic is highest; among equals the first in the file."""
    available = int(np.isfinite(statistic).sum())
    if n_genes is not None and n_genes > available:
        raise InputError(
            f"expected {n_genes} genes{_seen_in(min_spots)}, found {available}; lower --n-genes or --min-spots"
        )
    best = np.argsort(-statistic, kind="stable")[: min(n_genes or USUAL_N_GENES, available)]  # NaN comes last
    chosen = np.zeros(statistic.size, bool)
    chosen[best] = True
    return chosen


def _check_chosen(statistic: np.ndarray, min_spots: float) -> None:
    """Refuse a choice of no genes, or of genes that never vary."""
    if not np.isfinite(statistic).any():
        raise InputError(
            f"expected genes that vary{_seen_in(min_spots)}, found none; lower --min-spots, or name genes (--genes)"
        )


def _seen_in(min_spots: float) -> str:
    return f" that are seen in at least {min_spots:.3g} of the spots" if min_spots else ""


def _reasons(chosen: np.ndarray, stats: Statistics, min_spots: float) -> dict[str, int]:
    """Why genes were not chosen, and how many."""
    never, rare = stats.seen == 0, stats.seen < min_spots
    same = stats.variance == 0
    return {
        "without a value in any spot": int((~stats.measured).sum()),
        "never seen": int((never & stats.measured).sum()),
        f"seen in less than {min_spots:.3g} of the spots": int((rare & ~never).sum()),
        "the same in every spot": int((same & ~never & ~rare & ~chosen).sum()),
        "that vary less": int((~chosen & ~never & ~rare & ~same).sum()),
    }


def _panel(adata: "AnnData", genes: Sequence[str], *, ignore_missing: bool) -> np.ndarray:
    """Flag the genes of a panel."""
    unknown = [gene for gene in dict.fromkeys(genes) if gene not in adata.var_names]
    column = next((name for name in NAME_COLUMNS if name in adata.var and adata.var[name].isin(unknown).any()), None)
    if unknown and column and not ignore_missing:
        raise InputError(
            f"expected every gene of the panel in the data, found {validation.first_few(unknown)} in "
            f"var['{column}'] alone; give names as var_names has them ({adata.var_names[0]}, ...)"
        )
    if unknown and not ignore_missing:
        raise InputError(
            f"expected every gene of the panel in the data, did not find {validation.first_few(unknown)}; correct it, "
            "or leave these out (--ignore-missing-genes)"
        )
    if len(unknown) == len(set(genes)):
        raise InputError("expected at least 1 gene of the panel in the data, found none; give one name per line")
    if unknown:
        logger.info("select-hvg: left out of the panel, since not in the data: %s", validation.first_few(unknown))
    return adata.var_names.isin(genes)
