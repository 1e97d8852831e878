"""The sections about what was measured on hidden values: calibration, and comparison with other methods."""

from typing import Any

import numpy as np

from stmcdi_cli.reporting import charts
from stmcdi_cli.reporting.statistics import Calibration, Findings

METRICS = {
    "skill": "skill",
    "gene_pcc": "PCC per gene",
    "pcc": "PCC pooled",
    "rmse": "RMSE",
    "mae": "MAE",
    "coverage_90": "in 90% interval",
}
"""Headings of the tables of metrics."""


def calibration(found: Findings) -> dict[str, Any] | None:
    """Charts of values and of intervals for ``calibration.html.j2``; None where no values were hidden."""
    if found.calibration is None:
        return None
    return {"mean_values": _values(found.calibration), "intervals": _intervals(found.calibration)}


def _values(bins: Calibration) -> charts.Drawing:
    low, high = charts.padded(np.concatenate([bins.predicted, bins.observed]))
    low = max(low, 0)
    axes = charts.axes_of("imputed", "hidden value", (low, high), (low, high))
    axes.plot([low, high], [low, high], label="perfect", **charts.GUIDE)
    label, color = "mean of the hidden values", charts.COLORS["main"]
    axes.plot(bins.predicted, bins.observed, "o-", label=label, color=color, markersize=8, markeredgewidth=0)
    return charts.drawing_of(axes, "Mean hidden value in bins of the imputed value")


def _intervals(bins: Calibration) -> charts.Drawing | None:
    """Share of the hidden values inside, above and below the interval; None without the layers of its ends."""
    if bins.below is None or bins.above is None:
        return None
    axes = charts.axes_of("imputed", "share of hidden values", charts.padded(bins.predicted), (0, 1.04))
    axes.axhline(0.9, label="90%", **charts.GUIDE)
    inside = 1 - bins.below - bins.above
    axes.plot(bins.predicted, inside, label="inside the 90% interval", color=charts.COLORS["main"])
    axes.plot(bins.predicted, bins.above, label="above", color=charts.COLORS["second"])
    axes.plot(bins.predicted, bins.below, label="below", color=charts.COLORS["third"])
    return charts.drawing_of(
        axes, "Share of hidden values inside the interval, below it and above it, in bins of the imputed value"
    )


def methods(found: Findings) -> dict[str, Any] | None:
    """Metrics of each method and each section for ``methods.html.j2``; None where no values were hidden."""
    if not found.methods:
        return None
    known = [key for key in METRICS if any(metrics.get(key) is not None for _, metrics in found.methods)]
    return {
        "n_hidden": found.methods[0][1]["n_hidden"],
        "columns": {key: METRICS[key] for key in known},
        "methods": found.methods,
        "sections": list(zip(found.section_names, found.section_metrics, strict=False)),
        "skill": _ranked(found, "skill", "Skill of each method"),
        "gene_pcc": _ranked(found, "gene_pcc", "Mean correlation per gene of each method"),
    }


def _ranked(found: Findings, key: str, description: str) -> charts.Drawing:
    """Bars of one metric, best method first."""
    values = [(name, float(metrics[key] or 0)) for name, metrics in found.methods]
    rows = [(name, value, charts.COLORS["other" if k else "main"]) for k, (name, value) in enumerate(values)]
    return charts.bars(sorted(rows, key=lambda row: -row[1]), description)
