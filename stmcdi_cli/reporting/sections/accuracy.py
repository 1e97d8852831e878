"""The sections about what was measured on hidden values: calibration, and comparison with other methods."""

from typing import Any

import numpy as np

from stmcdi_cli.reporting import charts
from stmcdi_cli.reporting.charts import Chart
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
    chart = Chart("imputed", "hidden value", (low, high), (low, high), "Mean hidden value in bins of the imputed value")
    chart.line((low, high), (low, high), "guide", "perfect")
    chart.line(bins.predicted, bins.observed, "main", "mean of the hidden values")
    chart.points(bins.predicted, bins.observed, "main", radius=4)
    return chart.drawing()


def _intervals(bins: Calibration) -> charts.Drawing | None:
    """Share of the hidden values inside, above and below the interval; None without the layers of its ends."""
    if bins.below is None or bins.above is None:
        return None
    chart = Chart(
        "imputed",
        "share of hidden values",
        charts.padded(bins.predicted),
        (0, 1.04),
        "Share of hidden values inside the interval, below it and above it, in bins of the imputed value",
    )
    chart.line(chart.x_range, (0.9, 0.9), "guide", "90%")
    chart.line(bins.predicted, 1 - bins.below - bins.above, "main", "inside the 90% interval")
    chart.line(bins.predicted, bins.above, "second", "above")
    chart.line(bins.predicted, bins.below, "third", "below")
    return chart.drawing()


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
    rows = [(name, value, "other" if k else "main") for k, (name, value) in enumerate(values)]
    return charts.bars(sorted(rows, key=lambda row: -row[1]), description)
