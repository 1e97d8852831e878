"""Time and memory of every step against the number of spots: ``python -m benchmarks.scale [--spots 10000 100000]``.

Simulates a tissue of each size (1,000 genes, 5 % of the entries above zero) and runs every step on it as a process of
its own. Each gives a row of benchmarks/scale.tsv when it is done; steps that have a row are not run again. With
``--piece SECONDS`` a step is killed after so long, and this program ends; the next run goes on with it (as train and
impute can), and the costs of the pieces are added up. Then writes benchmarks/scale.md and its plot. Files are in
benchmarks/.work/scale.
"""

import argparse
import json
import os
import subprocess
import sys

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from benchmarks import plots
from benchmarks.cells import ROOT, WORK
from stmcdi_cli.io import write_texts

TABLE, PAGE, PLOT = (ROOT / "benchmarks" / name for name in ("scale.tsv", "scale.md", "plots/scale.svg"))
COLUMNS = ["spots", "step", "wall_s", "cpu_s", "peak_mb", "output_mb"]
SPOTS = (10_000, 100_000, 1_000_000)
STEPS = {
    "simulate": "raw.h5ad --n-spots {spots} --n-genes 1000 --depth 95 --no-rates",
    "normalize": "raw.h5ad normalized.h5ad",
    "select-hvg": "normalized.h5ad selected.h5ad --min-spots 1e-6",
    "build-graph": "selected.h5ad graph.h5ad",
    "hold-out": "graph.h5ad masked.h5ad truth.h5ad",
    "train": "masked.h5ad model --device cpu --quiet",
    "impute": "masked.h5ad model imputed.h5ad --n-samples 10 --layers imputed,imputed_sd --device cpu --quiet",
    "evaluate": "imputed.h5ad truth.h5ad metrics.json",
}
OUTPUTS = {step: [word for word in command.split() if word.endswith((".h5ad", "model", ".json"))][-1]
           for step, command in STEPS.items()}  # fmt: skip
BY_STEPS = "train"
"""The step whose time is set by its own steps, not by the spots."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spots", nargs="+", type=int, default=list(SPOTS), help="sizes (default: all three)")
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=list(STEPS), help="steps (default: all)")
    parser.add_argument("--again", action="store_true", help="run steps again that have a row")
    parser.add_argument("--piece", type=float, default=24 * 3600, help="most seconds of a step at a time")
    parser.add_argument("--page", action="store_true", help="only write the page and its plot")
    options = parser.parse_args()
    if not options.page:
        for spots in options.spots:
            for step in options.steps:
                table = load()
                done = ((table["spots"] == spots) & (table["step"] == step)).any()
                if options.again or not done:
                    save(run(step, spots, options.piece))
    write_page(load())


def run(step: str, spots: int, piece: float) -> dict[str, object]:
    """Run a step on a tissue of a size, or go on with it; says what it cost in all."""
    folder = WORK / "scale" / str(spots)
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / f"{step}.json"
    before = json.loads(unfinished.read_text()) if unfinished.exists() else {"wall_s": 0, "cpu_s": 0, "peak_mb": 0}
    command = [sys.executable, "-m", "stmcdi_cli.cli", step, *STEPS[step].format(spots=spots).split()]
    measure = [sys.executable, str(ROOT / "benchmarks" / "measure.py"), str(piece), str(folder / "log")]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    shown = subprocess.run([*measure, *command], cwd=folder, env=environment, check=True, stdout=subprocess.PIPE)
    cost = json.loads(shown.stdout)
    cost |= {name: cost[name] + before[name] for name in ("wall_s", "cpu_s")}
    cost["peak_mb"] = max(cost["peak_mb"], before["peak_mb"])
    if cost["timed_out"]:
        unfinished.write_text(json.dumps(cost))
        raise SystemExit(f"{step} at {spots} spots: {cost['wall_s']:.0f} s so far; run this again to go on")
    unfinished.unlink(missing_ok=True)
    if cost["exit_code"]:
        raise SystemExit(f"{step} at {spots} spots failed: {(folder / 'log').read_text()[-2000:]}")
    output = folder / OUTPUTS[step]
    size = sum(file.stat().st_size for file in (output.rglob("*") if output.is_dir() else [output]) if file.is_file())
    row = {"spots": spots, "step": step, **{name: cost[name] for name in COLUMNS[2:5]}, "output_mb": size / 1e6}
    print(f"{spots} {step}: {cost['wall_s']:.1f} s, {cost['cpu_s']:.1f} CPU s, {cost['peak_mb']:.0f} MB", flush=True)
    return row


def load() -> pd.DataFrame:
    """Read the table; empty where there is none yet."""
    return pd.read_csv(TABLE, sep="\t") if TABLE.exists() else pd.DataFrame(columns=COLUMNS)


def save(row: dict[str, object]) -> None:
    """Put a row into the table, in place of an older one."""
    table = load()
    table = table[(table["spots"] != row["spots"]) | (table["step"] != row["step"])]
    table = pd.concat([table, pd.DataFrame([row])]) if len(table) else pd.DataFrame([row])
    order = table["step"].map(list(STEPS).index)
    table = table.assign(order=order).sort_values(["spots", "order"])[COLUMNS]
    write_texts({TABLE: table.to_csv(sep="\t", index=False, float_format="%.4g")})


def growth(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """How many times as much a step takes per spot as at a tenth of the spots: a row per step, a column per size."""
    values = table.pivot(index="step", columns="spots", values=column)
    found = {spots: values[spots] / values[spots / 10] / 10 for spots in values if spots / 10 in values}
    return pd.DataFrame(found).reindex(values.index)


def write_page(table: pd.DataFrame) -> None:
    """Write the page and the plot."""
    sizes, steps = sorted(table["spots"].unique()), [step for step in STEPS if step in set(table["step"])]
    cells = {(row.spots, row.step): row for row in table.itertuples()}
    per_spot = growth(table, "wall_s"), growth(table, "cpu_s")
    head = [f"{size:,} spots" for size in sizes]
    lines = [
        "# Scale",
        "",
        "Written by `python -m benchmarks.scale` from [scale.tsv](scale.tsv); do not edit.",
        "",
        "Simulated tissues of 1,000 genes, 5 % of the entries above zero, a fifth of the entries hidden. Each step",
        "is a process of its own on 2 cores. Imputation: 10 samples, means and standard deviations only.",
        "",
        "## Seconds",
        "",
        "Wall time / CPU time, user and system, which other work on a shared machine disturbs less.",
        "",
        *_table(["step", *head], [[step, *(_seconds(cells, size, step) for size in sizes)] for step in steps]),
        "",
        "## Peak memory, MB",
        "",
        *_table(["step", *head], [[step, *(_cell(cells, size, step, "peak_mb") for size in sizes)] for step in steps]),
        "",
        "## Growth",
        "",
        "Time per spot against that at a tenth of the spots, wall time / CPU time: 1 is linear, below 1 better.",
        f"The start of the process is part of both. `{BY_STEPS}` takes a number of steps that no spot adds to.",
        "",
        *_table(
            ["step", *(f"{size:,} spots" for size in per_spot[0])],
            [
                [step, *(f"{per_spot[0].loc[step, size]:.2f} / {per_spot[1].loc[step, size]:.2f}".replace("nan", "-")
                         for size in per_spot[0])]
                for step in steps
            ],
        ),
        "",
        "![CPU seconds and memory against spots](plots/scale.svg)",
    ]  # fmt: skip
    write_texts({PAGE: "\n".join(lines) + "\n", PLOT: plots.svg(figure(table))})


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (head, ["---", *["--:"] * (len(head) - 1)], *rows)]


def _seconds(cells: dict, size: int, step: str) -> str:
    parts = [_cell(cells, size, step, column) for column in ("wall_s", "cpu_s")]
    return " / ".join(parts) if all(parts) else ""


def _cell(cells: dict, size: int, step: str, column: str) -> str:
    row = cells.get((size, step))
    if row is None:
        return ""
    value = getattr(row, column)
    return f"{value:.1f}" if value < 10 else f"{value:,.0f}"


def figure(table: pd.DataFrame) -> Figure:
    """CPU seconds and memory against spots, a line per step."""
    drawn, axes = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
    for axis, column, title in zip(axes, ("cpu_s", "peak_mb"), ("CPU seconds", "peak memory, MB"), strict=True):
        for color, (step, rows) in zip(plt.cm.tab10.colors, table.groupby("step", sort=False), strict=False):
            axis.plot(rows["spots"], rows[column], "o-", ms=4, lw=1, color=color, label=step)
        axis.set(xscale="log", yscale="log", xlabel="spots", ylabel=title)
    first = table["spots"].min()
    ends = [first, table["spots"].max()]
    axes[0].plot(ends, [10 * end / first for end in ends], ":", color="0.5", lw=1, label="linear")
    axes[1].axhline(8 * 2**30 / 1e6, color="0.5", lw=0.5)
    drawn.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
    return drawn


if __name__ == "__main__":
    main()
