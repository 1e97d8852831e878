"""How many network passes the default needs on real tissues: ``python -m benchmarks.passes [--cases NAME ...]``.

One trained model, drawn from with different numbers of passes of ``dpm``. Prints the squared error of the hidden
values, and the coverage, mean width and interval score of the 90 % interval (Gneiting and Raftery 2007).
"""

import argparse
import tempfile
from pathlib import Path

import anndata as ad
import numpy as np

import stmcdi_cli as stmcdi
from benchmarks import cells
from benchmarks.scoring import dense

PASSES = (50, 25, 15, 10, 8, 6, 5, 4, 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=cells.case_names(), default=["mob_rep11"])
    kinds = [kind for kind, job in cells.JOBS.items() if job in (cells.ENTRIES, cells.GAPS)]
    parser.add_argument("--hidden", nargs="+", choices=kinds, default=["gaps-regions"])
    options = parser.parse_args()
    print("case", "hidden", "passes", "squared error", "coverage", "width", "interval score", sep="\t")
    for case in options.cases:
        for hidden in options.hidden:
            folder = cells.cut(case, hidden, seed=0)
            masked, truth = (ad.read_h5ad(folder / f"{name}.h5ad") for name in ("graph", "truth"))
            where = dense(truth.layers["missing"]).astype(bool)
            true = dense(truth.X)[where]
            with tempfile.TemporaryDirectory() as scratch:
                model = stmcdi.train(masked, Path(scratch) / "model", device="cpu", quiet=True)
            for passes in PASSES:
                imputed = stmcdi.impute(masked, model, n_steps=passes, device="cpu", quiet=True)
                names = ("imputed", "imputed_q05", "imputed_q95")
                mean, low, high = (dense(imputed.layers[name])[where] for name in names)
                outside = np.maximum(low - true, 0) + np.maximum(true - high, 0)
                figures = (np.mean((mean - true) ** 2), np.mean(outside == 0), np.mean(high - low))
                score = np.mean(high - low + 2 / 0.1 * outside)
                print(case, hidden, passes, *(f"{x:.4f}" for x in (*figures, score)), sep="\t", flush=True)


if __name__ == "__main__":
    main()
