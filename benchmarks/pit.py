"""Are the draws calibrated? ``python -m benchmarks.pit [--cases NAME ...] [--hidden KIND ...]``.

The share of the draws below a hidden value is uniform on 0 to 1 if the draws have the value's distribution; counts that
are drawn as well as hidden are counted in part, at random (randomised probability integral transform, Czado, Gneiting
and Held 2009). Prints, for each case, the share of the hidden values in each tenth, and the largest distance from 0.1.
"""

import argparse

import anndata as ad
import numpy as np

from benchmarks import cells
from benchmarks.ablation import CPU, fit
from benchmarks.scoring import dense
from stmcdi_cli.model.base import DrawOptions
from stmcdi_cli.model.device import single_threaded
from stmcdi_cli.model.tissue import Tissue

N_DRAWS = 100
SAME = 1e-4
"""Distance below which a drawn and a hidden value are the same count."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    usual = [name for name in cells.case_names() if name not in cells.NOT_BY_DEFAULT]
    parser.add_argument("--cases", nargs="+", choices=cells.case_names(), default=usual)
    kinds = [kind for kind, job in cells.JOBS.items() if job != cells.GENES]
    parser.add_argument("--hidden", nargs="+", choices=kinds, default=["0.2", "gaps-regions", "depth"])
    parser.add_argument("--seed", type=int, default=0, help="of what is hidden (default: 0)")
    options = parser.parse_args()
    for hidden in options.hidden:
        for case in options.cases:
            with single_threaded():
                shares = tenths(case, hidden, options.seed)
            print(case, hidden, *(f"{share:.3f}" for share in shares), f"{np.abs(shares - 0.1).max():.3f}", flush=True)


def tenths(case: str, hidden: str, seed: int) -> np.ndarray:
    """Share of the hidden values of which each tenth of the draws lies below [10]."""
    folder = cells.cut(case, hidden, seed)
    truth, tissue = ad.read_h5ad(folder / "truth.h5ad"), Tissue.from_anndata(ad.read_h5ad(folder / "graph.h5ad"))
    true, where = dense(truth.X), dense(truth.layers["missing"]).astype(bool)
    model = fit(tissue)
    model.prepare(tissue, device=CPU)
    denoise = cells.JOBS[hidden] == cells.DEPTH
    below, equal = np.zeros((2, *true.shape), dtype=np.int32)

    def count(number: int, rows: slice, values: np.ndarray) -> None:
        difference = values - true[rows]
        below[rows] += difference < -SAME
        equal[rows] += np.abs(difference) <= SAME

    model.draw_each(np.arange(len(true)), DrawOptions(N_DRAWS, 1, "dpm", denoise=denoise), count)
    random = np.random.default_rng(seed).random(where.sum())
    rank = (below[where] + random * (equal[where] + 1)) / (N_DRAWS + 1)
    return np.histogram(rank, 10, (0, 1))[0] / len(rank)


if __name__ == "__main__":
    main()
