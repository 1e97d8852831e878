"""Compare imputed values with the ones that were hidden (paper, appendix D)."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from stmcdi_cli import anndata_keys as keys
from stmcdi_cli.io.output import write_texts
from stmcdi_cli.logging import log_left_out
from stmcdi_cli.metrics import Comparison, gene_metrics, overall_metrics
from stmcdi_cli.steps._step import of_tissues

if TYPE_CHECKING:
    from anndata import AnnData
    from pandas import DataFrame


@of_tissues
def evaluate(imputed: "AnnData", truth: "AnnData", *, layer: str = keys.IMPUTED) -> dict[str, float | int | None]:
    """Compare imputed values with the true ones, at the hidden entries alone.

    Genes without any visible value, which were left without an imputed one (NaN), take no part, nor do those that
    `impute` was not asked to fill.
    Where values were hidden before ``normalize`` (so that the truth holds counts), the truth is first scaled as the
    imputed file was: divided by its size factors, then log(1 + x).

    Parameters
    ----------
    imputed
        Output of ``impute``: the same spots as ``truth`` in the same order, and genes of it in the same order. Genes
        that came from a reference may be there besides, where values were hidden before.
    truth
        Second output of ``hold-out``: values in ``X``, True in ``layers['missing']`` where they were hidden.
    layer
        Layer with the imputed values.

    Returns
    -------
    dict
        ``pcc``, ``cs``, ``rmse``, ``mae`` (eq. 25-28, all hidden entries pooled); ``skill`` over each gene's visible
        mean; ``gene_pcc``, mean correlation per gene; from the layers ``<layer>_median``, ``_q05``, ``_q95`` and
        ``_sd``, None where absent: ``mae_median``, ``coverage_90``, ``crps_gaussian``, ``pinball``; ``n_hidden``,
        ``n_spots``, ``n_genes``.

    Raises
    ------
    InputError
        Spots or genes do not match, a layer is absent, a hidden entry has no finite imputed value, or the imputed
        file shows the hidden values in ``X``.
    """
    return overall_metrics(_compared(imputed, truth, layer).sums())


@of_tissues
def evaluate_genes(imputed: "AnnData", truth: "AnnData", *, layer: str = keys.IMPUTED) -> "DataFrame":
    """Compare every gene by itself: a row per gene with columns ``n_hidden``, ``pcc``, ``rmse``, ``skill``.

    ``pcc`` is 0 for a constant prediction, and NaN where the truth is constant or has fewer than 3 hidden entries.
    Parameters and errors are those of :func:`evaluate`.
    """
    return gene_metrics(Comparison(imputed, truth, layer).sums(), imputed)


def write_metrics(
    imputed: "AnnData",
    truth: "AnnData",
    metrics_json: str | os.PathLike[str],
    genes_tsv: str | os.PathLike[str],
    *,
    layer: str = keys.IMPUTED,
) -> None:
    """Write what :func:`evaluate` and :func:`evaluate_genes` find, both files or none; the data may be on disk."""
    sums = _compared(imputed, truth, layer).sums()
    metrics = json.dumps(overall_metrics(sums), indent=2) + "\n"
    table = gene_metrics(sums, imputed).to_csv(sep="\t", na_rep="NA", float_format="%.6g")
    write_texts({Path(metrics_json): metrics, Path(genes_tsv): table})


def _compared(imputed: "AnnData", truth: "AnnData", layer: str) -> Comparison:
    """Compare, and say which genes take no part."""
    compared = Comparison(imputed, truth, layer)
    reasons = {
        "not in the imputed file": truth.n_vars - int((compared.column >= 0).sum()),
        "without any visible value": int(compared.unmeasured.sum()),
        "that impute was not asked to fill": int((compared.not_asked & ~compared.unmeasured).sum()),
    }
    log_left_out("evaluate", "genes", truth.n_vars, reasons)
    return compared
