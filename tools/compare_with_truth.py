"""Say how well a simulated tissue was imputed, as a share of what knowing the true rates would give."""

import json
import sys

import anndata
import numpy as np
from scipy import stats

from stmcdi_cli import anndata_keys as keys


def expected_log(rate: np.ndarray, size_factor: np.ndarray, dispersion: float) -> np.ndarray:
    """Mean of log(1 + count / size factor) for counts drawn around their rates: the best guess there is."""
    counts = np.arange(int(rate.max() + 10 * np.sqrt(rate.max() + dispersion * rate.max() ** 2)) + 10)
    expected = np.zeros_like(rate)
    for count in counts[1:]:
        if dispersion > 0:
            chance = stats.nbinom.pmf(count, 1 / dispersion, 1 / (1 + dispersion * rate))
        else:
            chance = stats.poisson.pmf(count, rate)
        expected += chance * np.log1p(count / size_factor)
    return expected


def main(imputed_path: str, truth_path: str, metrics_path: str) -> int:
    """Print the comparison; 1 when imputing was no better than each gene's mean."""
    imputed, truth = anndata.read_h5ad(imputed_path), anndata.read_h5ad(truth_path)
    with open(metrics_path) as file:
        skill = json.load(file)["skill"]
    spot, gene = truth.layers[keys.MISSING].nonzero()
    visible = ~truth.layers[keys.MISSING].toarray()
    values = truth.X.toarray()
    observed = values[spot, gene]
    mean = ((values * visible).sum(0) / visible.sum(0))[gene]
    dispersion = truth.uns[keys.PROVENANCE]["simulate"]["parameters"]["dispersion"]
    size_factor = truth.obs[keys.SIZE_FACTOR].to_numpy()[spot]
    best = expected_log(truth.layers[keys.RATES][spot, gene].astype(float), size_factor, dispersion)
    predicted = np.asarray(imputed.layers[keys.IMPUTED][spot, gene]).ravel()

    ceiling = 1 - np.square(best - observed).sum() / np.square(mean - observed).sum()
    residual = np.corrcoef(predicted - mean, best - mean)[0, 1]
    print(f"Hidden values: {observed.size}")
    print(f"Skill over each gene's mean: {skill:.3f}; the true rates would give {ceiling:.3f} ({skill / ceiling:.0%})")
    print(f"Correlation with the noise-free truth, gene means taken out: {residual:.3f}")
    if skill <= 0:
        print("stmcdi demo: no better than each gene's mean; something is wrong", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
