"""The section about single genes: verdicts, whether they hold, and the table of genes."""

from typing import Any

import numpy as np
import pandas as pd

from stmcdi_cli import anndata_keys as keys
from stmcdi_cli.reporting import charts
from stmcdi_cli.reporting.formatting import STYLES
from stmcdi_cli.reporting.reliability import (
    CAUTION,
    DONT,
    FEW_FILLED,
    GOOD_R,
    POOR_R,
    RARE_SHARE,
    RARE_SPOTS,
    TRUST,
    ReferenceFit,
)
from stmcdi_cli.reporting.statistics import Findings

MOST_DOTS = 3000


def genes(found: Findings) -> dict[str, Any]:
    """Rules and distribution of the verdicts, and the table of genes: for ``genes.html.j2``."""
    table = found.genes
    measured = "measured_r" in table
    return {
        "good_r": GOOD_R,
        "poor_r": POOR_R,
        "rare_share": RARE_SHARE,
        "rare_spots": RARE_SPOTS,
        "few_filled": FEW_FILLED,
        "histogram": _histogram(table) if np.isfinite(table["expected_r"]).any() else None,
        "measured": _expected_and_measured(table) if measured else None,
        "medians": _medians(table) if measured else "",
        "left_out": _left_out(found),
        "table": _table(found),
    }


def _left_out(found: Findings) -> dict[str, Any] | None:
    """What genes achieved that were left out whole, and how many were never measured; None without a reference."""
    left_out = ReferenceFit.in_record(found.adata)
    if left_out is None:
        return None
    chart, var = None, found.adata.var
    if {keys.LEFT_OUT_R, keys.LEFT_OUT_EXPECTED_R} <= set(var):
        achieved, expected = (
            pd.to_numeric(var[key], errors="coerce").to_numpy(np.float64)
            for key in (keys.LEFT_OUT_R, keys.LEFT_OUT_EXPECTED_R)
        )
        known = np.isfinite(achieved) & np.isfinite(expected)
        groups = {"left out": (achieved[known], np.ones(known.sum(), dtype=bool), charts.COLORS["main"])}
        description = "Expected against achieved correlation of genes that were left out whole"
        if known.any():
            chart = _against_expected(expected[known], groups, "r when left out", description)
    n_unmeasured = int((found.visible.missing.sum(0) == found.adata.n_obs).sum())
    return {**left_out._asdict(), "n_unmeasured": n_unmeasured, "chart": chart}


def _table(found: Findings) -> dict[str, Any]:
    """Columns and rows of the table of genes, which ``page.js`` sorts and searches."""
    columns = [
        ("gene", "gene", "text", "Name of the gene"),
        ("verdict", "verdict", "text", "How far to trust the imputed values"),
        ("expected_r", "expected r", "number", "Expected correlation of imputed values with new measurements"),
    ]
    data = found.genes.reset_index()
    data["verdict"] = data["verdict"].astype(str)
    if "within_r" in data:
        columns.append(("within_r", "within sections", "number", "The same, from differences within sections alone"))
        for code, name in enumerate(found.section_names if len(found.section_names) <= 4 else ()):
            data[f"seen_{name}"] = _seen_in(found, code)
            columns.append((f"seen_{name}", f"seen in {name}", "share", f"Share of visible entries above 0 in {name}"))
    if "measured_r" in data:
        columns.append(("measured_r", "measured r", "number", "Correlation with the hidden values"))
        columns.append(("measured_skill", "measured skill", "number", "1 - squared error / that of the gene's mean"))
    if "left_out_r" in data:
        columns.append(
            ("left_out_r", "r when left out", "number", "Correlation of a shared gene, predicted without it")
        )
    columns += [
        ("seen", "seen", "share", "Share of the visible entries above zero"),
        ("n_filled", "filled", "count", "Entries that were filled"),
        ("reason", "reason for the verdict", "text", "Predicted share of the variance: expected r squared"),
    ]
    return {
        "columns": [dict(zip(("key", "name", "kind", "help"), column, strict=True)) for column in columns],
        "rows": [[_jsonable(row[key]) for key, *_ in columns] for row in data.to_dict("records")],
        "styles": STYLES,
    }


def _jsonable(value: Any) -> Any:
    """A cell as JSON can hold it: no NaN, four decimals."""
    if isinstance(value, float | np.floating):
        return None if not np.isfinite(value) else round(float(value), 4)
    return int(value) if isinstance(value, np.integer) else value


def _histogram(table: pd.DataFrame) -> charts.Drawing:
    groups = {
        name: (table.loc[table["verdict"] == name, "expected_r"].to_numpy(), charts.COLORS[name])
        for name in (TRUST, CAUTION, DONT)
    }
    description = "Histogram of expected correlations by verdict"
    return charts.histogram(groups, "expected r", "genes", description, (0, 1))


def _expected_and_measured(table: pd.DataFrame) -> charts.Drawing:
    shown = table[np.isfinite(table["expected_r"]) & np.isfinite(table["measured_r"])]
    if len(shown) > MOST_DOTS:
        shown = shown.sample(MOST_DOTS, random_state=0)
    verdicts = {name: (shown["verdict"] == name).to_numpy() for name in (DONT, CAUTION, TRUST)}
    groups = {name: (shown["measured_r"].to_numpy(), some, charts.COLORS[name]) for name, some in verdicts.items()}
    description = "Expected against measured correlation of each gene"
    return _against_expected(shown["expected_r"].to_numpy(), groups, "measured r", description)


def _against_expected(
    expected: np.ndarray, groups: dict[str, tuple[np.ndarray, np.ndarray, str]], label: str, description: str
) -> charts.Drawing:
    """Correlations against the expected ones [n]; each group has all values [n], which are its own, and a colour."""
    found = next(iter(groups.values()))[0]
    low = min(-0.1, float(np.quantile(found, 0.005))) if len(found) else -0.1
    axes = charts.axes_of("expected r", label, (0, 1), (low, 1))
    axes.plot([0, 1], [0, 1], label="equal", **charts.GUIDE)
    look: dict[str, Any] = {"markersize": 5, "markeredgewidth": 0, "alpha": 0.6, "clip_on": False}
    for name, (values, own, color) in groups.items():
        some = own & (values >= low)
        axes.plot(expected[some], values[some], "o", color=color, label=name, **look)
    return charts.drawing_of(axes, description)


def _medians(table: pd.DataFrame) -> str:
    medians = table.groupby("verdict", observed=True)["measured_r"].median()
    groups = [f"{name} {medians[name]:.2f}" for name in (TRUST, CAUTION, DONT) if name in medians]
    return f"Median correlation with hidden values: {', '.join(groups)}"


def _seen_in(found: Findings, code: int) -> np.ndarray:
    n_spots = (found.sections == code).sum()
    return found.visible.seen[code] / np.maximum(n_spots - found.visible.missing[code], 1)
