"""How far to trust each imputed gene, judged without knowing the truth.

For every filled entry the model gives the value it expects, and the standard deviation of a new observation around it
(``imputed_sd``, counting noise included). If a gene's expected values differ little from spot to spot, compared with
that standard deviation, the imputed values are hardly more than the gene's mean. With V = Var(expected) over the gene's
filled entries and S = mean(sd^2), the variance of new measurements is V + S, of which the model predicts V. Their
correlation with the imputed values is then expected to be

    r = sqrt(V / (V + S))

Of a gene that the panel never measured (`add_reference`), the same holds as far as the reference fits. Training has
left out each gene that both have, and noted which correlation was expected and which was found: the ratio of the two
corrects r (`ReferenceFit`).

This rests on the model alone. Properties of the data can lower the verdict: a gene is seen in too few spots, too few of
its entries were filled, or a section lacks it. Where a run hid values, the report also shows the measured correlation.
"""

from collections.abc import Mapping
from numbers import Real
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from stmcdi_cli import anndata_keys as keys
from stmcdi_cli.provenance import parameters_of
from stmcdi_cli.reporting.visible import Visible, dense_rows, visible_entries
from stmcdi_cli.sparse import missing_mask, row_chunks

if TYPE_CHECKING:
    from anndata import AnnData
    from pandas import DataFrame

TRUST, CAUTION, DONT, UNFILLED = "trust", "caution", "don't", "not filled"
VERDICTS = (TRUST, CAUTION, DONT, UNFILLED)

GOOD_R = 0.4
"""Expected correlation from which a gene can be trusted to show where it is high and low."""
POOR_R = 0.2
"""Expected correlation below which the imputed value is hardly more than the gene's mean (4 % of the variance)."""
RARE_SHARE, RARE_SPOTS = 0.02, 10
"""A gene seen in fewer spots than this, as a share or a number, is not to be trusted, whatever its expected r."""
FEW_FILLED = 20
"""Filled entries of a gene below which V is too uncertain for more than caution."""
MANY_LACKING = 0.1
"""Share of a gene's filled entries in sections without any value of it above which there is no more than caution."""
_LARGEST_RATIO = 1.25
"""Largest correction upwards of what is expected of genes that were never measured."""


def reliability(adata: "AnnData", sections: np.ndarray | None = None, visible: Visible | None = None) -> "DataFrame":
    """Give a verdict on every gene of an imputed file.

    Parameters
    ----------
    adata
        Output of ``impute``, with ``layers['imputed_sd']``.
    sections
        Integer code of each spot's section, where there are several.
    visible
        What `visible_entries` found, where that is known.

    Returns
    -------
    DataFrame
        A row per gene, indexed by name: ``verdict`` and ``reason``; ``expected_r`` (NaN where nothing was filled);
        ``within_r``, the same from differences within sections alone (absent with one section); ``left_out_r``, what a
        gene achieved when it was left out whole (NaN for others; absent without a reference); ``seen``, share of the
        visible entries above zero; ``mean``, over visible entries; ``n_filled``; ``gain``, expected_r times the share
        of spots without a measured value above zero.
    """
    import pandas as pd

    sections = np.zeros(adata.n_obs, dtype=int) if sections is None else sections
    visible = visible_entries(adata, sections) if visible is None else visible
    n_visible = np.maximum(adata.n_obs - visible.missing.sum(0), 1)
    n_seen = visible.seen.sum(0).astype(int)
    seen, mean = n_seen / n_visible, visible.total.sum(0) / n_visible

    n, between, within, spread = _moments(adata, sections)
    unmeasured = visible.missing.sum(0) == adata.n_obs
    fit = ReferenceFit.in_record(adata)
    ratio = np.where(unmeasured, fit.ratio if fit else 1, 1)
    expected = _correlation(between, spread) * ratio
    columns = {"expected_r": expected}
    if sections.max() > 0:
        columns["within_r"] = _correlation(within, spread) * ratio
    if fit and keys.LEFT_OUT_R in adata.var:
        columns["left_out_r"] = pd.to_numeric(adata.var[keys.LEFT_OUT_R], errors="coerce").to_numpy(np.float64)
    table = pd.DataFrame(columns, index=adata.var_names.rename("gene"))
    table["seen"], table["mean"], table["n_filled"] = seen, mean, n
    table["gain"] = expected * (1 - n_seen / adata.n_obs)
    never_seen = np.where(unmeasured, np.nan, seen)
    unknown = pd.Series(RARE_SPOTS, adata.var_names)
    in_reference = pd.to_numeric(adata.var.get(keys.N_REFERENCE_CELLS, unknown), errors="coerce").fillna(RARE_SPOTS)
    n_evidence = np.where(unmeasured, in_reference, n_seen).astype(int)
    # No value says whether a section catches the gene as well: neither level nor interval is calibrated there.
    where_lacking = np.where(visible.missing == np.bincount(sections)[:, None], visible.missing, 0).sum(0)
    lacking = (where_lacking > MANY_LACKING * n) & ~unmeasured
    rows = zip(expected, never_seen, n_evidence, n, columns.get("within_r", expected), lacking, strict=True)
    judged = [_verdict(*row) for row in rows]
    verdict = pd.Categorical([verdict for verdict, _ in judged], VERDICTS, ordered=True)
    table.insert(0, "verdict", pd.Series(verdict, index=table.index))
    table.insert(1, "reason", [reason for _, reason in judged])
    return table


def _moments(adata: "AnnData", group: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Per gene over its filled entries: their number, Var(expected) in all and within groups, mean squared sd."""
    n_groups, n_genes = int(group.max()) + 1, adata.n_vars
    n, total, square, spread = (np.zeros((n_groups, n_genes)) for _ in range(4))
    for rows in row_chunks(adata.shape):
        value, sd = (dense_rows(adata.layers[name], rows) for name in (keys.IMPUTED, keys.IMPUTED_SD))
        filled = filled_entries(adata, rows)
        for code in np.unique(group[rows]):
            here = group[rows] == code
            use = filled[here]
            n[code] += use.sum(0)
            total[code] += np.where(use, value[here], 0).sum(0)
            square[code] += np.where(use, value[here] ** 2, 0).sum(0)
            spread[code] += np.where(use, sd[here] ** 2, 0).sum(0)
    n_all = n.sum(0)
    share = 1 / np.maximum(n_all, 1)
    between = square.sum(0) - total.sum(0) ** 2 * share
    within = (square - total**2 / np.maximum(n, 1)).sum(0)
    return n_all.astype(int), np.maximum(between, 0) * share, np.maximum(within, 0) * share, spread.sum(0) * share


def filled_entries(adata: "AnnData", rows: slice) -> np.ndarray:
    """Which entries of a run of spots ``impute`` filled, bool, spots x genes.

    Its record tells; where there is none, entries with a spread count as filled. Only these rows are read.
    """
    parameters = parameters_of(adata, "impute")
    target = str(parameters.get("target"))
    if target == "all":
        filled = np.ones((len(range(*rows.indices(adata.n_obs))), adata.n_vars), dtype=bool)
    else:
        filled = missing_mask(adata, rows).toarray()
        if target == "zeros":
            filled |= dense_rows(adata.X, rows) == 0
        elif target != "missing":
            filled |= dense_rows(adata.layers[keys.IMPUTED_SD], rows) > 0
    if "genes" in parameters:
        filled &= np.isin(adata.var_names, np.asarray(parameters["genes"], dtype=str))
    if "unmeasured" in parameters:
        filled &= ~np.isin(adata.var_names, np.asarray(parameters["unmeasured"], dtype=str))
    return filled


def _correlation(between: np.ndarray, spread: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.sqrt(between / (between + spread))


class ReferenceFit(NamedTuple):
    """What genes achieved that target and reference share, when training left them out whole.

    Attributes
    ----------
    n
        Number of genes.
    mean
        Mean of their correlations.
    ratio
        Correlation found over that expected: the slope, from 0 to 1.25.
    """

    n: int
    mean: float
    ratio: float

    @classmethod
    def of(cls, columns: Mapping[str, np.ndarray]) -> "ReferenceFit | None":
        """Sum up what a model says of its genes (`ImputationModel.columns`); None where it had no reference."""
        if not columns:
            return None
        found, expected = (columns[key].astype(np.float64) for key in (keys.LEFT_OUT_R, keys.LEFT_OUT_EXPECTED_R))
        known = np.isfinite(found)
        found, expected = found[known], expected[known]
        slope = (found * expected).sum() / max((expected**2).sum(), 1e-12)
        return cls(len(found), float(found.mean()), float(np.clip(slope, 0, _LARGEST_RATIO)))

    def record(self) -> dict[str, float | int]:
        """Entries of the record of a training."""
        return {f"left_out_{name}": value for name, value in self._asdict().items()}

    @classmethod
    def in_record(cls, adata: "AnnData") -> "ReferenceFit | None":
        """Read what `record` gave from the record of an imputed file; None where the training had no reference."""
        parameters = parameters_of(adata, "train")
        values: list[Any] = [parameters.get(f"left_out_{name}") for name in cls._fields]
        if not all(isinstance(value, Real) and np.isfinite(float(value)) for value in values):
            return None
        n, mean, ratio = map(float, values)
        return cls(int(n), mean, float(np.clip(ratio, 0, _LARGEST_RATIO)))


def _verdict(r: float, seen: float, n_seen: int, n_filled: int, within: float, lacking: bool) -> tuple[str, str]:
    """Verdict and reason of one gene; with too few data the verdict is lower than expected r alone would give.

    `seen` is NaN for a gene that was never measured, and `n_seen` then counts cells of the reference.
    """
    if n_filled == 0:
        return UNFILLED, "no entry of this gene was filled"
    if np.isnan(seen) and n_seen < RARE_SPOTS:
        return DONT, f"too rare: seen in {n_seen} cells of the reference"
    if not np.isnan(seen) and (seen < RARE_SHARE or n_seen < RARE_SPOTS):
        return DONT, f"too rare: seen in {n_seen} spots ({seen:.1%})"
    if not r >= POOR_R:
        return DONT, f"little more than its mean: predicts {0 if np.isnan(r) else r * r:.0%} of the variance"
    reason = f"predicts {r * r:.0%} of the variance"
    if np.isnan(seen):
        reason += ", never measured here"
    if n_filled < FEW_FILLED:
        return CAUTION, f"{reason}, judged on {n_filled} entries only"
    if lacking:
        return CAUTION, f"{reason}, not measured in some sections: their level is that of the others"
    if r < GOOD_R:
        return CAUTION, reason
    if within < POOR_R:
        return CAUTION, f"{reason}, nearly all of it the difference between sections"
    return TRUST, reason
