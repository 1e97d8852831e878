"""Tables of README.md: methods by cases, metric by metric, and ours beside the best peer."""

import numpy as np
import pandas as pd

from benchmarks import cells, methods
from benchmarks.markdown import markdown

NOT_PEERS = [methods.OURS, "baseline-gan", "baseline-vae", "baseline-mlp"]
"""Ours, and what appendix F puts on our own encoder."""
METRICS = {
    "skill": ("Skill", True),
    "rmse": ("RMSE", False),
    "pcc": ("PCC", True),
    "cs": ("CS", True),
    "mae": ("MAE", False),
    "gene_pcc": ("Per-gene PCC", True),
    "crps": ("CRPS", False),
    "coverage_90": ("90 % coverage", None),
}
"""Title of each metric, and whether more is better (None: neither)."""
GENE_METRICS = {
    "gene_pcc": METRICS["gene_pcc"],
    "spearman": ("Spearman", True),
    "mse_over_variance": ("MSE / variance", False),
    "coverage_90": METRICS["coverage_90"],
    "coverage_90_tenth_percentile_gene": ("90 % coverage, tenth percentile of genes", None),
    "cpu_s": ("CPU, s", None),
    "peak_mb": ("Peak memory, MB", None),
}
"""The same, of genes that were never measured."""
TITLES = METRICS | GENE_METRICS
AS_A_WHOLE = ("cpu_s", "peak_mb")
"""Metrics shown without a fraction."""


def label(method: str) -> str:
    """Row name of a method."""
    if method == methods.OURS:
        return f"**{method}**"
    return methods.PACKAGES[method].label if method in methods.PACKAGES else method.replace("-", " ", 1)


def in_order(found: set[str]) -> list[str]:
    """Ours first, then the methods of `stmcdi baseline`, then the packages."""
    baselines = sorted(found - set(methods.PACKAGES) - {methods.OURS})
    return [name for name in [methods.OURS, *baselines, *methods.PACKAGES] if name in found]


def peer_best(mean: pd.DataFrame, kind: str, case: str, metric: str) -> tuple[str, float] | None:
    """Best peer on a case and its figure."""
    if (kind, case) not in mean.index:
        return None
    found = mean.loc[(kind, case), metric].dropna().drop(NOT_PEERS, errors="ignore")
    if found.empty:
        return None
    name = found.idxmax() if TITLES[metric][1] else found.idxmin()
    return name, found[name]


def against_best_peer(
    mean: pd.DataFrame,
    kind: str,
    cases: list[str],
    metrics: tuple[str, ...] = ("skill", "rmse", "pcc", "cs", "mae", "crps"),
) -> str:
    """Ours and the best peer of each metric, side by side; the best in the first is named."""
    first = metrics[0]
    rows, ratios = [], []
    for case in cases:
        best = {metric: peer_best(mean, kind, case, metric) for metric in metrics}
        ours = mean.loc[(kind, case, methods.OURS)] if (kind, case, methods.OURS) in mean.index else None
        pairs = []
        for metric in metrics:
            own = np.nan if ours is None else ours[metric]
            if metric == "mae" and ours is not None:
                own = np.nanmin([ours["mae"], ours["mae_median"]])
            pairs.append(f"{figure(own)} / {figure(best[metric][1] if best[metric] else np.nan)}")
        ratio = ours[first] / best[first][1] if ours is not None and best[first] else np.nan
        ratios.append(ratio)
        peer = best[first][0] if best[first] else "–"
        coverage = figure(np.nan if ours is None else ours["coverage_90"])
        rows.append([cells.title(case, kind), peer, figure(ratio, 2), *pairs, coverage])
    if not np.all(np.isnan(ratios)):
        rows.append(["mean", "", f"**{figure(np.nanmean(ratios), 2)}**", *[""] * len(metrics), ""])
    titles = [f"{TITLES[metric][0]}" for metric in metrics]
    name = titles[0] if first != "skill" else "skill"
    header = ["case", f"best peer in {name}", f"{name} ratio", *titles, "our 90 % coverage"]
    of_mae = " (MAE: the better of our mean and median)" if "mae" in metrics else ""
    note = f"Ours / best peer of each metric, on the same {'folds' if kind == cells.GENES else 'seeds'}{of_mae}."
    return f"{note}\n\n{markdown(header, rows)}"


def metric_table(
    part: pd.DataFrame, mean: pd.DataFrame, n_seeds: pd.Series, kind: str, metric: str, cases: list[str]
) -> str:
    """Methods by cases."""
    title, more_is_better = TITLES[metric]
    source = {name: (name, metric) for name in in_order(set(part["method"]))}
    rows: dict[str, list[float]] = {}
    if metric == "mae" and methods.OURS in source:
        source = {"median": (methods.OURS, "mae_median")} | source
    notes: dict[str, list[str]] = {}
    status = part[part["status"] != "ok"].groupby(["method", "case"])["status"].first()
    for row, (name, column) in source.items():
        keys = [(kind, case, name) for case in cases]
        rows[row] = [mean[column].get(key, np.nan) for key in keys]
        notes[row] = [
            ("*" if n_seeds[key] < len(cells.seeds(kind)) else "")
            if key in n_seeds.index
            else status.get((name, key[1]), "")
            for key in keys
        ]
    values = np.array(list(rows.values()))
    if np.all(np.isnan(values)):
        return ""
    body = []
    for row, line in rows.items():
        if np.all(np.isnan(line)) and (row == "median" or (metric == "crps" or metric.startswith("coverage"))):
            continue  # gives none
        shown = [label(methods.OURS) + " (median)" if row == "median" else label(row)]
        for column, value in enumerate(line):
            if np.isnan(value):
                shown.append("" if notes[row][column] == "*" else notes[row][column])
                continue
            text = figure(value, 0 if metric in AS_A_WHOLE else 3) + notes[row][column]
            if more_is_better is not None:
                best = (np.nanmax if more_is_better else np.nanmin)(values[:, column])
                text = f"**{text}**" if figure(value) == figure(best) else text
            shown.append(text)
        body.append(shown)
    return f"### {title}\n\n{markdown([title, *(cells.title(case, kind) for case in cases)], body)}"


def figure(value: float, digits: int = 3) -> str:
    """A number for a table."""
    return "–" if np.isnan(value) else f"{value:.{digits}f}"
