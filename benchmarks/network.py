"""What the network adds in holes: ``python -m benchmarks.network [--cases NAME ...] [--hidden KIND] [--seeds N]``.

The same tissue, trained with several seeds. Prints the squared error of the hidden values relative to that of the
encoders alone (the closed form), in percent, for each draw of holes and seed of the training.
"""

import argparse
import tempfile
from pathlib import Path

import anndata as ad
import numpy as np

import stmcdi_cli as stmcdi
from benchmarks import cells
from benchmarks.ablation import reset
from benchmarks.scoring import dense
from stmcdi_cli.model import save_load


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=cells.case_names(), default=["mob_rep11"])
    kinds = [kind for kind, job in cells.JOBS.items() if job in (cells.ENTRIES, cells.GAPS)]
    parser.add_argument("--hidden", choices=kinds, default="gaps-regions")
    parser.add_argument("--draws", nargs="+", type=int, choices=range(3), default=[0, 1, 2])
    parser.add_argument("--seeds", type=int, default=2)
    options = parser.parse_args()
    print("case", "draw", "seed", "change of squared error, %", sep="\t")
    for case in options.cases:
        for draw in options.draws:
            folder = cells.cut(case, options.hidden, seed=draw)
            masked, truth = (ad.read_h5ad(folder / f"{name}.h5ad") for name in ("graph", "truth"))
            where = dense(truth.layers["missing"]).astype(bool)
            for seed in range(options.seeds):
                with tempfile.TemporaryDirectory() as scratch:
                    model = stmcdi.train(masked, Path(scratch) / "model", seed=seed, device="cpu", quiet=True)
                    encoders = save_load.load(Path(scratch) / "model")
                reset(encoders)
                errors = []
                for each in (model, encoders):
                    imputed = stmcdi.impute(masked, each, device="cpu", quiet=True)
                    errors.append(np.mean((dense(imputed.layers["imputed"]) - dense(truth.X))[where] ** 2))
                print(case, draw, seed, f"{100 * (errors[0] / errors[1] - 1):+.2f}", sep="\t", flush=True)


if __name__ == "__main__":
    main()
