"""results.tsv: one row per cell, replaced whole, so that several runs may write to it."""

from pathlib import Path

import pandas as pd

from benchmarks.cells import ROOT, WORK, Cell, locked
from stmcdi_cli.io.output import write_texts

FILE = ROOT / "benchmarks" / "results.tsv"
KEY = ["case", "hidden", "seed", "method"]
STATUS = ["status", "error", "version", "threads"]
SCORES = [
    *("skill", "rmse", "pcc", "cs", "mae", "mae_median", "gene_pcc", "coverage_90", "crps", "spread_from"),
    *("var_ratio", "zero_error", "corr_error", "draw_var_ratio", "draw_zero_error", "draw_corr_error"),
    *("spearman", "mse_over_variance", "coverage_90_tenth_percentile_gene"),
]
COST = ["wall_s", "cpu_s", "peak_mb", "train_s", "impute_s", "train_mb", "impute_mb"]
COLUMNS = [*KEY, *STATUS, *SCORES, *COST]


def load(file: Path = FILE) -> pd.DataFrame:
    """Read the table, every column as text; empty where there is none yet."""
    if not file.exists():
        return pd.DataFrame(columns=COLUMNS, dtype=str)
    return pd.read_csv(file, sep="\t", dtype=str, keep_default_na=False).reindex(columns=COLUMNS, fill_value="")


def numbers(table: pd.DataFrame) -> pd.DataFrame:
    """Turn the columns of scores and costs into numbers, NaN where there is none."""
    columns = [column for column in (*SCORES, *COST) if column != "spread_from"]
    return table.assign(**{column: pd.to_numeric(table[column]) for column in columns})


def status(table: pd.DataFrame) -> dict[Cell, str]:
    """Status of every cell there is a row of."""
    return {Cell(row.case, row.hidden, int(row.seed), row.method): row.status for row in table.itertuples()}


def save(cell: Cell, row: dict[str, object], file: Path = FILE) -> None:
    """Put a cell's row into the table, in place of an older one."""
    values = {key: _text(value) for key, value in {**vars(cell), **row}.items()}
    with locked(WORK / "results.lock"):
        table = load(file)
        older = (table[KEY] == [values[key] for key in KEY]).all(axis=1)
        new = pd.DataFrame([{column: values.get(column, "") for column in COLUMNS}])
        table = pd.concat([table[~older], new]).sort_values(KEY, kind="stable")
        write_texts({file: table.to_csv(sep="\t", index=False)})


def _text(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.5g}" if isinstance(value, float) else str(value)
