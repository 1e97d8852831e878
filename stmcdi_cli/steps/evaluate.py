"""Compare imputed values with the ones that were hidden (paper, appendix D)."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import scipy.sparse as sp

from stmcdi_cli import anndata_keys as keys
from stmcdi_cli import checks, metrics
from stmcdi_cli.errors import InputError
from stmcdi_cli.io import write_texts
from stmcdi_cli.sparse import column_sums, missing_entries, scale_rows, to_csr, values_at, without

if TYPE_CHECKING:
    from anndata import AnnData
    from pandas import DataFrame


class Hidden(NamedTuple):
    """The hidden entries, one element each.

    Attributes
    ----------
    mask
        Which entries they are, CSR bool, spots x genes.
    gene
        Column of each entry.
    truth
        The hidden value, on the scale of the imputed file's ``X``.
    predicted
        The imputed value.
    guess
        Mean of the entry's gene over visible entries.
    """

    mask: sp.csr_matrix
    gene: np.ndarray
    truth: np.ndarray
    predicted: np.ndarray
    guess: np.ndarray


def evaluate(imputed: "AnnData", truth: "AnnData", *, layer: str = keys.IMPUTED) -> dict[str, float | int | None]:
    """Score imputed values on the hidden entries alone.

    Where values were hidden before ``normalize`` (so that the truth holds counts), the truth is first scaled as the
    imputed file was: divided by its size factors, then log(1 + x).

    Parameters
    ----------
    imputed
        Output of ``impute``: the same spots as ``truth`` in the same order, and genes of it in the same order.
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
        Spots or genes do not match, a layer is absent, or a hidden entry has no finite imputed value.
    """
    hidden = hidden_entries(imputed, truth, layer)
    t, p = hidden.truth, hidden.predicted

    def spread(name: str) -> np.ndarray | None:
        key = f"{layer}_{name}"
        return values_at(imputed.layers[key], hidden.mask) if key in imputed.layers else None

    sd, median, q05, q95 = map(spread, ("sd", "median", "q05", "q95"))
    quantiles = {q: value for q, value in ((0.05, q05), (0.5, median), (0.95, q95)) if value is not None}
    gene_pcc = _per_gene(hidden)["pcc"]
    return {
        "pcc": metrics.pcc(p, t),
        "cs": metrics.cosine_similarity(p, t),
        "rmse": metrics.rmse(p, t),
        "mae": metrics.mae(p, t),
        "mae_median": None if median is None else metrics.mae(median, t),
        "skill": _none_if_nan(metrics.skill(p, t, hidden.guess)),
        "gene_pcc": _none_if_nan(gene_pcc.mean()),
        "coverage_90": None if q05 is None or q95 is None else metrics.coverage(q05, q95, t),
        "crps_gaussian": None if sd is None else metrics.crps_gaussian(p, sd, t),
        "pinball": metrics.pinball(quantiles, t) if len(quantiles) == 3 else None,
        "n_hidden": int(t.size),
        "n_spots": int(np.count_nonzero(np.diff(hidden.mask.indptr))),
        "n_genes": int(np.unique(hidden.gene).size),
    }


def evaluate_genes(imputed: "AnnData", truth: "AnnData", *, layer: str = keys.IMPUTED) -> "DataFrame":
    """Score every gene by itself: a row per gene with columns ``n_hidden``, ``pcc``, ``rmse``, ``skill``.

    ``pcc`` is 0 for a constant prediction, and NaN where the truth is constant or has fewer than 3 hidden entries.
    Parameters and errors are those of :func:`evaluate`.
    """
    table = _per_gene(hidden_entries(imputed, truth, layer))
    table.index = imputed.var_names.rename("gene")
    return table


def write_scores(
    imputed: "AnnData",
    truth: "AnnData",
    metrics_json: str | os.PathLike[str],
    genes_tsv: str | os.PathLike[str],
    *,
    layer: str = keys.IMPUTED,
) -> None:
    """Write what :func:`evaluate` and :func:`evaluate_genes` find, both files or none."""
    scores = json.dumps(evaluate(imputed, truth, layer=layer), indent=2) + "\n"
    table = evaluate_genes(imputed, truth, layer=layer).to_csv(sep="\t", na_rep="NA", float_format="%.6g")
    write_texts({Path(metrics_json): scores, Path(genes_tsv): table})


def hidden_entries(imputed: "AnnData", truth: "AnnData", layer: str) -> Hidden:
    """Take the hidden entries out of both files; parameters and errors are those of :func:`evaluate`."""
    if layer not in imputed.layers:
        raise InputError(
            f"expected imputed values in layers['{layer}'], found {checks.some(imputed.layers)}; run impute"
        )
    if keys.MISSING not in truth.layers:
        raise InputError(f"expected hidden entries in the truth's layers['{keys.MISSING}'], found none; run hold-out")
    if not imputed.obs_names.equals(truth.obs_names):
        raise InputError("expected the spots of the truth in their order, found others; spots were lost or reordered")
    column = truth.var_names.get_indexer(imputed.var_names)
    if (column < 0).any():
        unknown = checks.some(imputed.var_names[column < 0])
        raise InputError(f"expected genes of the truth, found {unknown}; give the truth that belongs to this file")
    if (np.diff(column) <= 0).any():
        raise InputError("expected the genes in the order of the truth, found another; genes were reordered")

    mask = to_csr(missing_entries(truth)[:, column], bool)
    if not mask.nnz:
        raise InputError("expected hidden entries among these genes, found none; give the truth of hold-out")
    values = _on_scale_of(imputed, truth, to_csr(truth.X, np.float64)[:, column])
    predicted = values_at(imputed.layers[layer], mask)
    if not np.isfinite(predicted).all():
        raise InputError(
            f"expected a finite value at every hidden entry of layers['{layer}'], found NaN or infinite ones"
        )
    unseen = mask + missing_entries(imputed)
    mean = column_sums(without(values, unseen)) / np.maximum(truth.n_obs - column_sums(unseen), 1)
    gene = mask.indices
    return Hidden(mask, gene, values_at(values, mask), predicted, mean[gene])


def _on_scale_of(imputed: "AnnData", truth: "AnnData", values: sp.csr_matrix) -> sp.csr_matrix:
    """Do to the truth what ``normalize`` did to the imputed file after the values were hidden, if it did."""
    done = imputed.uns.get(keys.PROVENANCE, {}).get("normalize")
    if done is None or "normalize" in truth.uns.get(keys.PROVENANCE, {}) or done["parameters"]["skip"]:
        return values
    size_factor = imputed.obs[keys.SIZE_FACTOR].to_numpy(np.float64)
    return scale_rows(values, size_factor, log=bool(done["parameters"]["log"]))


def _per_gene(hidden: Hidden) -> "DataFrame":
    import pandas as pd

    n_genes = hidden.mask.shape[1]
    n = np.bincount(hidden.gene, minlength=n_genes)

    def mean(values: np.ndarray) -> np.ndarray:
        return np.bincount(hidden.gene, values, n_genes) / np.maximum(n, 1)

    t = hidden.truth - mean(hidden.truth)[hidden.gene]
    p = hidden.predicted - mean(hidden.predicted)[hidden.gene]
    t_sd, p_sd = np.sqrt(mean(t**2)), np.sqrt(mean(p**2))
    mse, trivial = mean((hidden.predicted - hidden.truth) ** 2), mean((hidden.guess - hidden.truth) ** 2)
    nothing = 1e-9  # a constant's standard deviation, up to rounding
    with np.errstate(divide="ignore", invalid="ignore"):
        correlation = np.where(p_sd > nothing, mean(t * p) / (t_sd * p_sd), 0.0)
        correlation[(n < 3) | (t_sd <= nothing)] = np.nan
        skill = np.where(trivial > 0, 1 - mse / trivial, np.nan)
    rmse = np.where(n > 0, np.sqrt(mse), np.nan)
    return pd.DataFrame({"n_hidden": n, "pcc": correlation, "rmse": rmse, "skill": skill})


def _none_if_nan(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
