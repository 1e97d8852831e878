"""Factor analysis by EM on visible entries (Rubin and Thayer 1982, with missing values): ``--rank R [--smooth]``.

x_j = w_j . z + e_j on genes standardised on visible entries and cut at 10 standard deviations (as scanpy's scale with
max_value=10), z ~ N(0, I), e_j ~ N(0, psi_j). With ``--smooth`` each spot's scores are drawn by 0.4 towards the mean of
its 6 spatial neighbours' scores.
"""

import argparse
import sys

import adapter
import numpy as np

SWEEPS = 30
MOST = 10  # standard deviations; spots with next to no counts have values far out
NEIGHBORS = 6
SMOOTHING = 0.4  # share of the neighbours' mean score


def predict(case: adapter.Case) -> tuple[np.ndarray, np.ndarray]:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rank", type=int, required=True)
    parser.add_argument("--smooth", action="store_true")
    options = parser.parse_args(sys.argv[3:])
    visible, mean = (~case.missing).astype(float), case.gene_mean()
    n_seen = visible.sum(0)
    scale = np.sqrt(np.maximum((visible * (case.x - mean) ** 2).sum(0) / np.maximum(n_seen, 1), 1e-6))
    y = np.clip(visible * (case.x - mean) / scale, -MOST, MOST)

    rank = options.rank
    left, singular, right = np.linalg.svd(y, full_matrices=False)
    w = right[:rank].T * singular[:rank] / np.sqrt(len(y))  # loadings [G, r]
    psi = np.ones(y.shape[1])
    for sweep in range(SWEEPS + 1):
        # E: each spot's scores, by its own visible genes
        outer = (w[:, :, None] * w[:, None, :]).reshape(-1, rank**2)
        precision = ((visible / psi) @ outer).reshape(-1, rank, rank) + np.eye(rank)
        cov = np.linalg.inv(precision)
        z = np.einsum("nab,nb->na", cov, (y / psi) @ w)
        if sweep == SWEEPS:
            break
        # M: each gene's loadings, by the spots it is visible in
        second = (cov + z[:, :, None] * z[:, None, :]).reshape(-1, rank**2)
        gram = (visible.T @ second).reshape(-1, rank, rank) + 1e-6 * np.eye(rank)
        cross = y.T @ z
        w = np.linalg.solve(gram, cross[..., None])[..., 0]
        psi = np.maximum(((y**2).sum(0) - (cross * w).sum(1)) / np.maximum(n_seen, 1), 0.05)
    if options.smooth:
        z = (1 - SMOOTHING) * z + SMOOTHING * z[case.neighbors(NEIGHBORS)].mean(1)
    spread = np.einsum("nab,gab->ng", cov, w[:, :, None] * w[:, None, :], optimize=True) + psi
    return mean + scale * (z @ w.T), scale * np.sqrt(spread)


adapter.run(predict)
