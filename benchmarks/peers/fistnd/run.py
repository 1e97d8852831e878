"""FIST-nD's algorithm with the defaults of its command (rank 200, lambda 0.1), without a protein network.

It completes a tensor of genes x rows x columns and takes every zero as not observed, hidden or not. Spots on a grid of
whole numbers keep their places; others go to bins of equal numbers of spots along each axis, as its ``--binning`` does,
about one spot to a bin. Each section is a tensor of its own. log1p-normalised expression in place of log1p counts.
"""

import adapter
import numpy as np
from fistnd.algorithm import FIST

DEFAULTS = {"l": 0.1, "rank_k": 200, "stop_crit": 1e-4, "max_iters": 500}


def predict(case: adapter.Case) -> np.ndarray:
    np.random.seed(0)
    result = case.filled()
    for section in np.unique(case.section):
        here = case.section == section
        result[here] = complete(case.x[here], grid(case.spatial[here]))
    return result


def grid(xy: np.ndarray) -> np.ndarray:
    """Row and column of each spot in the tensor."""
    whole = np.round(xy - xy.min(0)).astype(int)
    if len(np.unique(whole, axis=0)) > 0.9 * len(xy) and whole.max() < 200:
        return whole
    n_bins = int(np.ceil(np.sqrt(len(xy))))
    rank = np.argsort(np.argsort(xy, axis=0, kind="stable"), axis=0, kind="stable")
    return rank * n_bins // len(xy)


def complete(x: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Predicted values of spots [n, G] at their places [n, 2]; those of one bin share a value."""
    row, column = place.T
    total, number = (np.zeros((x.shape[1], row.max() + 1, column.max() + 1)) for _ in range(2))
    np.add.at(total, (slice(None), row, column), x.T)
    np.add.at(number, (slice(None), row, column), x.T > 0)
    tensor = total / np.maximum(number, 1)
    imputed = FIST(tensor, np.identity(x.shape[1]), metadata={}, **DEFAULTS)
    return imputed[:, row, column].T


adapter.run(predict)
