"""The part of the page about single genes: verdicts, how they were reached, whether they hold."""

import json
from html import escape

import numpy as np
import pandas as pd

from stmcdi_cli.reporting import charts
from stmcdi_cli.reporting.charts import Chart
from stmcdi_cli.reporting.findings import Findings
from stmcdi_cli.reporting.pieces import STYLES, badge, figure, jsonable
from stmcdi_cli.reporting.reliability import CAUTION, DONT, FEW_FILLED, GOOD_R, POOR_R, RARE_SHARE, RARE_SPOTS, TRUST
from stmcdi_cli.sparse import column_sums, mask_out, missing_mask, to_csr

MOST_DOTS = 3000


def genes_part(found: Findings, title: str) -> str:
    """How verdicts are reached, how they are distributed, and the table of genes with its data."""
    table = found.genes
    how = (
        "<p>For every filled entry the model gives the value it expects and the spread that an observation would have "
        "around it. <b>Expected r</b> is the correlation of imputed values with new measurements that follows from "
        "both; its square is the share of their variance that is foreseen. "
        f"{badge(TRUST)} from {GOOD_R}, {badge(CAUTION)} from {POOR_R}, {badge(DONT)} below: there the gene was in "
        f"effect given its mean. A gene seen in under {RARE_SHARE:.0%} of the spots or fewer than {RARE_SPOTS} is "
        f"{badge(DONT)} whatever the model says; one with fewer than {FEW_FILLED} filled entries, or that only tells "
        f"the sections apart, is {badge(CAUTION)} at best. No hidden value is used. Counting noise bounds r: a rare "
        "gene's single counts cannot be foreseen by any method.</p>"
    )
    groups = {name: table.loc[table["verdict"] == name, "expected_r"].to_numpy() for name in (TRUST, CAUTION, DONT)}
    pictures = ""
    if np.isfinite(table["expected_r"]).any():
        pictures = figure(
            charts.histogram(
                groups, STYLES, "expected r", "genes", "Histogram of expected correlations by verdict", (0, 1)
            ),
            "Genes by expected r",
        )
    if "measured_r" in table:
        pictures += figure(_expected_and_measured(table), "Do the verdicts hold?", _group_text(table))
    columns = [
        ("gene", "gene", "text", "Name of the gene"),
        ("verdict", "verdict", "text", "How far to trust the imputed values"),
        ("expected_r", "expected r", "number", "Expected correlation of imputed values with new measurements"),
    ]
    data = table.reset_index()
    data["verdict"] = data["verdict"].astype(str)
    if "within_r" in data:
        columns.append(("within_r", "within sections", "number", "The same, from differences within sections alone"))
        for code, name in enumerate(found.section_names if len(found.section_names) <= 4 else ()):
            seen = _seen_in(found, code)
            data[f"seen_{name}"] = seen
            columns.append((f"seen_{name}", f"seen in {name}", "share", f"Share of visible entries above 0 in {name}"))
    if "measured_r" in data:
        columns.append(("measured_r", "measured r", "number", "Correlation with the hidden values"))
        columns.append(("measured_skill", "measured skill", "number", "1 - squared error / that of the gene's mean"))
    columns += [
        ("seen", "seen", "share", "Share of the visible entries above zero"),
        ("n_filled", "filled", "count", "Entries that were filled"),
        ("reason", "how the verdict was reached", "text", "Foreseen variance: expected r squared"),
    ]
    rows = [[jsonable(row[key]) for key, *_ in columns] for row in data.to_dict("records")]
    content = {"columns": [dict(zip(("key", "name", "kind", "help"), c, strict=True)) for c in columns], "rows": rows}
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    options = "".join(f'<option value="{escape(name)}">{escape(name)}</option>' for name in STYLES)
    return (
        f'{how}<div class="charts">{pictures}</div>'
        '<div class="tools"><input id="find" type="search" placeholder="Find a gene" aria-label="Find a gene">'
        f'<select id="only" aria-label="Verdict"><option value="">all verdicts</option>{options}</select>'
        '<select id="most" aria-label="Rows"><option>25</option><option>100</option><option value="0">all rows</option>'
        '</select><button id="download" type="button">Download CSV</button><span class="note" id="count"></span></div>'
        '<div class="scroll"><table id="genes" '
        f'data-file="{escape(title)}_genes.csv"><thead><tr></tr></thead><tbody></tbody>'
        "</table></div><noscript><p>This table needs JavaScript; the same numbers are in the TSV file beside this page."
        f'</p></noscript><script id="gene-data" type="application/json">{text}</script>'
    )


def _expected_and_measured(table: pd.DataFrame) -> str:
    shown = table[np.isfinite(table["expected_r"]) & np.isfinite(table["measured_r"])]
    if len(shown) > MOST_DOTS:
        shown = shown.sample(MOST_DOTS, random_state=0)
    low = min(-0.1, float(shown["measured_r"].quantile(0.005))) if len(shown) else -0.1
    chart = Chart("expected r", "measured r", (0, 1), (low, 1), "Expected against measured correlation of each gene")
    chart.line((max(low, 0), 1), (max(low, 0), 1), "guide", "equal")
    for name in (DONT, CAUTION, TRUST):
        some = shown[shown["verdict"] == name]
        chart.points(some["expected_r"], some["measured_r"], STYLES[name], name)
    return chart.svg()


def _group_text(table: pd.DataFrame) -> str:
    medians = table.groupby("verdict", observed=True)["measured_r"].median()
    said = [f"{name} {medians[name]:.2f}" for name in (TRUST, CAUTION, DONT) if name in medians]
    return f"Median correlation with hidden values: {', '.join(said)}"


def _seen_in(found: Findings, code: int) -> np.ndarray:
    here = found.sections == code
    missing = missing_mask(found.adata)[here]
    x = mask_out(to_csr(found.adata.X[here]), missing)
    return np.diff(x.tocsc().indptr) / np.maximum(here.sum() - column_sums(missing), 1)
