"""The section of README.md on scale, from scale.tsv."""

import pandas as pd

from benchmarks.cells import ROOT
from benchmarks.markdown import markdown

TABLE = ROOT / "benchmarks" / "scale.tsv"
COLUMNS = ["spots", "step", "wall_s", "cpu_s", "peak_mb", "output_mb"]
BY_STEPS = "train"
"""The step whose time is set by its own steps, not by the spots."""

HEAD = """## Scale

Simulated tissues of 1,000 genes, 5 % of the entries above zero, a fifth of the entries hidden; each step is a process
of its own on 2 cores. Imputation: 10 samples, means and standard deviations only. *Growth* is the time per spot against
that at a tenth of the spots: 1.00 is linear, less is better; the start of the process is part of it.

    python -m benchmarks.scale                  # every step that has no row in scale.tsv yet
    python -m benchmarks.scale --spots 100000   # one size

![Seconds and memory against spots](plots/scale.svg)
"""


def load() -> pd.DataFrame:
    """Read the table; empty where there is none yet."""
    return pd.read_csv(TABLE, sep="\t") if TABLE.exists() else pd.DataFrame(columns=COLUMNS)


def section(table: pd.DataFrame) -> str:
    """Seconds, growth and memory of every step by the number of spots; empty where nothing is measured."""
    if table.empty:
        return ""
    costs = table.set_index(["step", "spots"])
    parts = {
        "Wall time, s": wide(costs["wall_s"]),
        "Growth of wall time": growth(costs["wall_s"]),
        "CPU time, user and system, s": wide(costs["cpu_s"]),
        "Growth of CPU time": growth(costs["cpu_s"]),
        "Peak memory, MB": wide(costs["peak_mb"]),
    }
    note = f"`{BY_STEPS}` takes a number of steps that no spot adds to, and learns from at most 30,000 spots.\n"
    return "\n".join([HEAD, *(_table(title, values) for title, values in parts.items()), note])


def wide(values: pd.Series) -> pd.DataFrame:
    """A row per step, in the order of the workflow; a column per number of spots."""
    return values.unstack("spots").reindex(values.index.unique("step"))


def growth(values: pd.Series) -> pd.DataFrame:
    """How many times as much a step takes per spot as at a tenth of the spots."""
    table = wide(values).drop(index=BY_STEPS, errors="ignore")
    return pd.DataFrame({spots: table[spots] / table[spots / 10] / 10 for spots in table if spots / 10 in table})


def _table(title: str, values: pd.DataFrame) -> str:
    digits = 2 if title.startswith("Growth") else 0
    rows = []
    for step, line in values.iterrows():
        shown = [f"{value:,.{digits or int(value < 10)}f}" if value == value else "" for value in line]
        rows.append([str(step), *shown])
    return markdown([title, *(f"{spots:,} spots" for spots in values)], rows)
