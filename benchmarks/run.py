"""Accuracy of every method on every case: ``make benchmark``, or ``python -m benchmarks.run [options]``.

Runs the cells that have no result yet, one row of benchmarks/results.tsv each, then writes benchmarks/README.md. What
fails or runs out of time is a row too, and stops nothing. One cell again:

    python -m benchmarks.run --only case=mob_rep11 method=cmfrec hidden=0.2 seed=0 --again all
"""

import argparse
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks import cells, methods, report, results, scoring


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only",
        nargs="+",
        default=[],
        metavar="KEY=VALUE[,VALUE]",
        help=f"cells to run; keys: case, method, seed, hidden ({', '.join(cells.HIDDEN)})",
    )
    parser.add_argument("--again", choices=["failed", "all"], help="run chosen cells again that have a result")
    parser.add_argument("--jobs", type=int, default=1, help="cells at a time (default: 1)")
    parser.add_argument("--threads", type=int, default=2, help="threads of a method's libraries (default: 2)")
    parser.add_argument("--timeout", type=float, default=1800, help="most seconds of one process (default: 1800)")
    parser.add_argument("--list", action="store_true", help="print the cells that would run, and run none")
    parser.add_argument("--report", action="store_true", help="write README.md from the results there are")
    options = parser.parse_args()
    try:
        chosen = choose(options.only)
    except ValueError as error:
        parser.error(str(error))
    if not options.report:
        known = results.status(results.load())
        todo = [cell for cell in chosen if due(known.get(cell), options.again)]
        print(f"benchmark: {len(todo)} of {len(chosen)} cells to run", flush=True)
        if options.list:
            print(*todo, sep="\n")
            return
        limits = methods.Limits(options.timeout, options.threads)
        with ThreadPoolExecutor(options.jobs) as pool:
            for _ in pool.map(lambda cell: run(cell, limits), todo):
                pass
    report.write(results.load())


def choose(only: list[str]) -> list[cells.Cell]:
    """Cells that match ``--only``; by default all of every tissue but those poor as a target, genes of all pairs."""
    known = {
        "case": cells.case_names(),
        "hidden": list(cells.HIDDEN),
        "seed": [str(seed) for seed in cells.FOLDS],  # there are more folds than seeds
        "method": methods.names(),
    }
    if not known["case"]:
        raise ValueError(f"no tissues in {cells.SHARED / 'data'}; set STMCDI_SHARED")
    chosen = dict(known)
    for pair in only:
        key, _, values = pair.partition("=")
        if key not in known:
            raise ValueError(f"--only: expected a key of {', '.join(known)}, found {key!r}")
        chosen[key] = values.split(",")
        for value in set(chosen[key]) - set(known[key]):
            raise ValueError(f"--only: no {key} {value!r}; there are {', '.join(known[key])}")
    seeds = [int(seed) for seed in chosen["seed"]]
    every = cells.all_cells(chosen["case"], chosen["hidden"], seeds, chosen["method"])
    by_name = any(pair.startswith("case=") for pair in only)
    return [
        cell
        for cell in every
        if cells.exists(cell) and (by_name or cells.by_default(cell)) and methods.does(cell.method, cell.hidden)
    ]


def due(status: str | None, again: str | None) -> bool:
    """Whether a cell with this status runs."""
    return status is None or again == "all" or (again == "failed" and status != "ok")


def run(cell: cells.Cell, limits: methods.Limits) -> None:
    """Cut the case, run the method, score it, write the row."""
    logs = cells.WORK / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    log = logs / f"{cell.case}_{cell.hidden}_{cell.seed}_{cell.method}.log"
    log.unlink(missing_ok=True)
    start = time.perf_counter()
    row: dict[str, object]
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        try:
            case, imputed = cells.cut(cell.case, cell.hidden, cell.seed), Path(folder) / "imputed.h5ad"
            job = cells.JOBS[cell.hidden]
            row = methods.run(cell.method, case, imputed, log, limits, job=job)
            row |= {"status": "ok", **scoring.of_job(job, imputed, case / "truth.h5ad")}
        except methods.Failed as failure:
            row = {"status": failure.status, "error": str(failure)}
        except Exception as error:  # noqa: BLE001 - one cell must not stop the others
            row = {"status": "failed", "error": methods.last_line(f"{type(error).__name__}: {error}")}
    results.save(cell, row)
    outcome = _headline(row) if row["status"] == "ok" else f"{row['status']}: {row['error']}"
    print(f"{cell}: {outcome} ({time.perf_counter() - start:.0f} s)", flush=True)


def _headline(row: dict[str, object]) -> str:
    """The figure that a job is ranked by."""
    metric = "skill" if "skill" in row else "gene_pcc"
    return f"{metric} {row[metric]:.4f}"


if __name__ == "__main__":
    main()
