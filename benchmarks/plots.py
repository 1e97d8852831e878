"""Plots of the report, as small SVG files that are the same for the same results."""

from io import StringIO
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from stmcdi_cli.io.output import write_texts

matplotlib.use("svg")
plt.rcParams.update({"svg.hashsalt": "stmcdi", "svg.fonttype": "none", "font.size": 8, "axes.spines.top": False})

COLORS = {
    "stmcdi": "black",
    "cmfrec": "tab:blue",
    "mofa": "tab:orange",
    "fa-8-smooth": "tab:green",
    "iterative-svd": "tab:red",
    "baseline-factor-analysis": "tab:purple",
    "magic": "tab:brown",
}
"""Methods that stand out; the others are grey."""
KINDS = ("0.1", "0.2", "0.5", "nonzero")


def write(
    mean: pd.DataFrame,
    cases: list[str],
    metrics: dict[str, tuple[str, bool | None]],
    scales: pd.DataFrame,
    folder: Path,
) -> None:
    """Write all plots; ``mean`` has a row per (hidden, case, method), ``scales`` one per step and number of spots."""
    folder.mkdir(exist_ok=True)
    a_fifth = mean[mean["hidden"] == "0.2"]
    figures = {
        "accuracy": accuracy(a_fifth, cases, metrics),
        "hidden": by_hidden(mean),
        "cost": cost(a_fifth),
    }
    if len(scales):
        figures["scale"] = scale(scales)
    write_texts({folder / f"{name}.svg": svg(figure) for name, figure in figures.items()})


def accuracy(mean: pd.DataFrame, cases: list[str], metrics: dict[str, tuple[str, bool | None]]) -> Figure:
    """A panel per metric, cases along x, a dot per method."""
    cases = [case for case in cases if case in set(mean["case"])]
    figure, axes = plt.subplots(2, 4, figsize=(12, 6), sharex=True, layout="constrained")
    for axis, (metric, (title, _)) in zip(axes.flat, metrics.items(), strict=True):
        for method, rows in mean.groupby("method"):
            values = rows.set_index("case")[metric].reindex(cases).to_numpy(float)
            style = {"color": COLORS.get(method, "0.75"), "zorder": 3 if method == "stmcdi" else 1 + (method in COLORS)}
            axis.plot(range(len(cases)), values, "D" if method == "stmcdi" else "o", ms=4, **style)
        if metric == "skill":
            axis.set_ylim(bottom=-0.1)
        if metric == "coverage_90":
            axis.axhline(0.9, color="0.5", lw=0.5)
        axis.set_title(title)
        axis.set_xticks(range(len(cases)), [case.split("_")[0] for case in cases], rotation=45, ha="right")
    legend(figure, set(mean["method"]))
    return figure


def by_hidden(mean: pd.DataFrame) -> Figure:
    """Mean skill over the cases against what is hidden, of entries."""
    mean = mean[mean["hidden"].isin(KINDS)]
    figure, axis = plt.subplots(figsize=(6, 4), layout="constrained")
    complete = mean.groupby(["method", "hidden"]).agg(skill=("skill", "mean"), n=("case", "nunique"))
    complete = complete[complete["n"] == mean["case"].nunique()]["skill"]
    for method in complete.index.unique("method"):
        values = complete[method].reindex(KINDS).to_numpy(float)
        axis.plot(
            KINDS, values, "o-", ms=3, lw=1, color=COLORS.get(method, "0.75"), zorder=2 if method in COLORS else 1
        )
    axis.set(ylabel="mean skill over the cases", xlabel="hidden", ylim=(-0.1, None))
    legend(figure, set(mean["method"]))
    return figure


def cost(mean: pd.DataFrame) -> Figure:
    """Skill against CPU time and memory, on the cases every method has."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 4), sharey=True, layout="constrained")
    over_cases = mean.groupby("method").agg(
        skill=("skill", "mean"), cpu_s=("cpu_s", "max"), peak_mb=("peak_mb", "max"), n=("case", "nunique")
    )
    over_cases = over_cases[over_cases["n"] == mean["case"].nunique()]
    for axis, column, title in zip(axes, ("cpu_s", "peak_mb"), ("CPU seconds", "peak memory, MB"), strict=True):
        for method, row in over_cases.iterrows():
            axis.plot(row[column], max(row["skill"], -0.1), "o", ms=5, color=COLORS.get(method, "0.75"))
        axis.set(xscale="log", xlabel=f"{title}, largest case")
    axes[0].set_ylabel("mean skill over the cases (below -0.1: at -0.1)")
    legend(figure, set(mean["method"]))
    return figure


def scale(table: pd.DataFrame) -> Figure:
    """Wall seconds and memory against spots, a line per step."""
    drawn, axes = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
    for axis, column, title in zip(axes, ("wall_s", "peak_mb"), ("seconds", "peak memory, MB"), strict=True):
        for color, (step, rows) in zip(plt.cm.tab10.colors, table.groupby("step", sort=False), strict=False):
            axis.plot(rows["spots"], rows[column], "o-", ms=4, lw=1, color=color, label=step)
        axis.set(xscale="log", yscale="log", xlabel="spots", ylabel=title)
    first = table["spots"].min()
    ends = [first, table["spots"].max()]
    axes[0].plot(ends, [10 * end / first for end in ends], ":", color="0.5", lw=1, label="linear")
    axes[1].axhline(8 * 2**30 / 1e6, color="0.5", lw=0.5)
    axes[1].annotate("8 GiB", (first, 8 * 2**30 / 1e6), va="bottom", color="0.5", fontsize=8)
    drawn.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
    return drawn


def legend(figure: Figure, found: set[str]) -> None:
    """Name the colours."""
    shown = {name: color for name, color in COLORS.items() if name in found} | {"others": "0.75"}
    handles = [plt.Line2D([], [], marker="o", ls="", color=color, label=name) for name, color in shown.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(shown), frameon=False)


def svg(figure: Figure) -> str:
    """A figure as text, without the date it was made."""
    text = StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    plt.close(figure)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n"
