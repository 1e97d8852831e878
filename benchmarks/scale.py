"""Time and memory of every step against the number of spots: ``python -m benchmarks.scale [--spots 10000 100000]``.

Simulates a tissue of each size (1,000 genes, 5 % of the entries above zero) and runs every step on it as a process of
its own. Each gives a row of benchmarks/scale.tsv when it is done; steps that have a row are not run again. With
``--piece SECONDS`` a step is killed after so long, and this program ends; the next run goes on with it (as train and
impute can), and the costs of the pieces are added up. Then writes benchmarks/README.md. Files are in
benchmarks/.work/scale.
"""

import argparse
import json
import os
import subprocess
import sys

import pandas as pd

from benchmarks import report, results
from benchmarks.cells import ROOT, WORK
from benchmarks.scale_page import COLUMNS, TABLE, load
from stmcdi_cli.io.output import write_texts

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spots", nargs="+", type=int, default=list(SPOTS), help="sizes (default: all three)")
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=list(STEPS), help="steps (default: all)")
    parser.add_argument("--again", action="store_true", help="run steps again that have a row")
    parser.add_argument("--piece", type=float, default=24 * 3600, help="most seconds of a step at a time")
    options = parser.parse_args()
    for spots in options.spots:
        for step in options.steps:
            table = load()
            done = ((table["spots"] == spots) & (table["step"] == step)).any()
            if options.again or not done:
                save(run(step, spots, options.piece))
    report.write(results.load())


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


def save(row: dict[str, object]) -> None:
    """Put a row into the table, in place of an older one."""
    table = load()
    table = table[(table["spots"] != row["spots"]) | (table["step"] != row["step"])]
    table = pd.concat([table, pd.DataFrame([row])]) if len(table) else pd.DataFrame([row])
    order = table["step"].map(list(STEPS).index)
    table = table.assign(order=order).sort_values(["spots", "order"])[COLUMNS]
    write_texts({TABLE: table.to_csv(sep="\t", index=False, float_format="%.4g")})


if __name__ == "__main__":
    main()
