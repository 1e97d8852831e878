"""The parts of the page about what was measured on hidden values: calibration, and comparison with other methods."""

import numpy as np

from stmcdi_cli.reporting import charts
from stmcdi_cli.reporting.charts import Chart
from stmcdi_cli.reporting.html import figure, number, share, table_of
from stmcdi_cli.reporting.statistics import Findings, Scores

SCORES = (  # key, heading, whether higher is better
    ("skill", "skill", True),
    ("gene_pcc", "PCC per gene", True),
    ("pcc", "PCC pooled", True),
    ("rmse", "RMSE", False),
    ("mae", "MAE", False),
    ("coverage_90", "in 90% interval", None),
)

_NO_TRUTH = (
    "<p>No values were hidden in this run, so this was not measured. <code>stmcdi run --evaluate FILE</code>, the "
    "workflow's <code>--evaluate</code>, or <code>stmcdi hold-out</code> hide some; <code>stmcdi report --truth FILE"
    "</code> then measures.</p>"
)


def calibration_part(found: Findings) -> str:
    """Whether hidden values lie where they were expected, and inside their intervals as often as promised."""
    bins = found.calibration
    if bins is None:
        return _NO_TRUTH
    low, high = charts.padded(np.concatenate([bins.predicted, bins.observed]))
    low = max(low, 0)
    mean = Chart("imputed", "hidden value", (low, high), (low, high), "Mean hidden value in bins of the imputed value")
    mean.line((low, high), (low, high), "guide", "perfect")
    mean.line(bins.predicted, bins.observed, "main", "mean of the hidden values")
    mean.points(bins.predicted, bins.observed, "main", radius=4)
    pictures = figure(mean.svg(), "Values", "Hidden values, averaged over entries with like imputed values")
    if bins.below is not None and bins.above is not None:
        inside = 1 - bins.below - bins.above
        axis = Chart(
            "imputed",
            "share of hidden values",
            charts.padded(bins.predicted),
            (0, 1.04),
            "Share of hidden values inside the interval, below it and above it, in bins of the imputed value",
        )
        axis.line(axis.x_range, (0.9, 0.9), "guide", "90%")
        for values, style, label in (
            (inside, "main", "inside the 90% interval"),
            (bins.above, "second", "above"),
            (bins.below, "third", "below"),
        ):
            axis.line(bins.predicted, values, style, label)
        pictures += figure(
            axis.svg(), "Intervals", "Counts are lumpy: where most are zero, intervals hold more than 90%"
        )
    return f'<div class="charts">{pictures}</div>'


def methods_part(found: Findings) -> str:
    """Scores beside those of the baselines, and of each section."""
    if not found.methods:
        return _NO_TRUTH
    shown = [(key, name) for key, name, _ in SCORES if any(scores.get(key) is not None for _, scores in found.methods)]
    rows = [[name, *(_score(scores, key) for key, _ in shown)] for name, scores in found.methods]
    table = table_of(["method", *(name for _, name in shown)], rows, own=0)
    ranked = [
        (name, float(scores["skill"] or 0), "main" if k == 0 else "other")
        for k, (name, scores) in enumerate(found.methods)
    ]
    ranked.sort(key=lambda bar: -bar[1])
    per_gene = [
        (name, float(scores["gene_pcc"] or 0), "main" if name == "stmcdi" else "other")
        for name, scores in found.methods
    ]
    per_gene.sort(key=lambda bar: -bar[1])
    hidden = found.methods[0][1]["n_hidden"]
    text = (
        f"<p>All on the same {hidden:,} hidden values, which no method saw. Skill is 1 - squared error / squared error "
        "of each gene's mean. Counting noise keeps it far below 1 on any real tissue.</p>"
    )
    if len(found.methods) == 2:
        text += (
            '<p class="note">Add others with <code>stmcdi baseline</code> and '
            "<code>stmcdi report --baseline FILE</code>.</p>"
        )
    content = (
        f'{text}<div class="scroll">{table}</div><div class="charts" style="margin-top:14px">'
        + figure(charts.bars(ranked, "Skill of each method"), "Skill")
        + figure(charts.bars(per_gene, "Mean correlation per gene of each method"), "PCC per gene")
        + "</div>"
    )
    if found.section_scores:
        rows = [
            [name, *(_score(scores, key) for key, _ in shown)]
            for name, scores in zip(found.section_names, found.section_scores, strict=True)
        ]
        content += (
            "<h3>By section</h3>"
            f'<div class="scroll">{table_of(["section", *(name for _, name in shown)], rows)}</div>'
            '<p class="note">Within one section, against the gene\'s mean in that section: differences between '
            "sections no longer count.</p>"
        )
    return content


def _score(scores: Scores, key: str) -> str:
    value = scores.get(key)
    return share(value) if key == "coverage_90" and value is not None else number(value)
