"""Score one imputed file: ../shared/benchmark/score.py's figures, CRPS, and what is left of the data's distribution."""

from pathlib import Path

import anndata as ad
import numpy as np
import scipy.sparse as sp
from scipy.stats import rankdata

import stmcdi_cli as stmcdi
from benchmarks.cells import DEPTH, GENES
from stmcdi_cli import metrics
from stmcdi_cli.sparse import layers_of

Z90 = 1.6448536269514722
"""A Gaussian's 90 % interval reaches so many standard deviations to each side."""
SAMPLE = "imputed_sample_"
"""Layers of single draws, numbered from 0."""


def of_job(job: str, imputed_file: Path, truth_file: Path) -> dict[str, float | str | None]:
    """Score an imputed file by what its job asks for."""
    if job == GENES:
        return dict(unmeasured(imputed_file, truth_file))
    return score(imputed_file, truth_file, denoised=job == DEPTH)


def score(imputed_file: Path, truth_file: Path, *, denoised: bool = False) -> dict[str, float | str | None]:
    """Score an imputed file on the entries hidden in a truth; a `denoised` one on all, against the other molecules.

    Returns
    -------
    dict
        ``skill``, ``rmse``, ``pcc``, ``cs``, ``mae``, ``mae_median``, ``gene_pcc``, ``coverage_90`` as score.py defines
        them; ``crps``, from draws (``imputed_sample_*``) or, where there are none, of the Gaussian with
        ``imputed_sd``; ``spread_from``: ``draws`` or ``gaussian``; ``var_ratio``, ``zero_error``, ``corr_error`` (see
        `distribution`) of the point value, and the same with ``draw_`` before it of one draw. None where a method
        gives no spread.
    """
    imputed, truth = ad.read_h5ad(imputed_file), ad.read_h5ad(truth_file)
    scores = denoising(imputed, truth) if denoised else stmcdi.evaluate(imputed, truth)
    result = {
        key: scores[key] for key in ("skill", "rmse", "pcc", "cs", "mae", "mae_median", "gene_pcc", "coverage_90")
    }
    hidden, t = dense(truth.layers["missing"]).astype(bool), dense(truth.X).astype(float)
    depth = truth.obs["size_factor"].to_numpy(float)
    layers = {
        name: dense(layer).astype(float) for name, layer in layers_of(imputed).items() if name.startswith("imputed")
    }
    mean = layers["imputed"]
    draws = [layers[name] for name in sorted(layers) if name.startswith(SAMPLE)]
    spread_from = None
    if draws:
        spread_from = "draws"
        result["crps"] = crps_draws(np.stack([draw[hidden] for draw in draws]), t[hidden])
    elif "imputed_sd" in layers:
        spread_from = "gaussian"
        sd = layers["imputed_sd"]
        result["crps"] = metrics.crps_gaussian(mean[hidden], sd[hidden], t[hidden])
        draws = [np.maximum(mean + sd * np.random.default_rng(0).standard_normal(mean.shape), 0)]
        if result["coverage_90"] is None:
            low, high = mean - Z90 * sd, mean + Z90 * sd
            result["coverage_90"] = metrics.coverage(low[hidden], high[hidden], t[hidden])
    result["spread_from"] = spread_from
    if denoised:  # the other molecules are noisy themselves: their distribution is no aim
        return result
    result |= distribution(mean, t, hidden, depth)
    if draws:
        result |= {f"draw_{key}": value for key, value in distribution(draws[0], t, hidden, depth).items()}
    return result


def denoising(imputed: ad.AnnData, truth: ad.AnnData) -> dict[str, float | None]:
    """Score all values denoised from one half of the molecules against the other half, as split_counts.py does.

    Returns
    -------
    dict
        The keys that `score` takes from `stmcdi.evaluate`; skill is over each gene's mean in the half.
    """
    scored = dense(truth.layers["missing"]).any(1)
    t, half = (dense(values)[scored].astype(float) for values in (truth.X, imputed.X))
    layers = {
        name: dense(layer)[scored].astype(float) for name, layer in imputed.layers.items() if name.startswith("imputed")
    }
    p = layers["imputed"]
    error = np.mean((p - t) ** 2)
    result = {
        "skill": 1 - error / np.mean((half.mean(0) - t) ** 2),
        "rmse": np.sqrt(error),
        "pcc": np.corrcoef(p.ravel(), t.ravel())[0, 1],
        "cs": np.vdot(p, t) / (np.linalg.norm(p) * np.linalg.norm(t)),
        "mae": metrics.mae(p, t),
        "gene_pcc": _mean_correlation(p, t),
    }
    scores: dict[str, float | None] = {name: float(value) for name, value in result.items()}
    scores |= {"mae_median": None, "coverage_90": None}
    if "imputed_median" in layers:
        scores["mae_median"] = metrics.mae(layers["imputed_median"], t)
    if "imputed_q05" in layers:
        scores["coverage_90"] = metrics.coverage(layers["imputed_q05"], layers["imputed_q95"], t)
    return scores


def unmeasured(imputed_file: Path, truth_file: Path) -> dict[str, float]:
    """Score genes that a panel never measured, as make_panel.py does.

    Returns
    -------
    dict
        ``gene_pcc`` and ``spearman``, mean correlation per gene over spots (0 with a constant one);
        ``mse_over_variance``, squared error over the genes' variance, both summed; and with ``imputed_q05`` and
        ``imputed_q95`` the share of true values within, ``coverage_90``, and its tenth percentile over genes.
    """
    truth = ad.read_h5ad(truth_file)
    imputed = ad.read_h5ad(imputed_file)[truth.obs_names, truth.var_names]
    depth = truth.obs["size_factor"].to_numpy(float)
    t = np.log1p(dense(truth.X) / depth[:, None])
    p = dense(imputed.layers["imputed"]).astype(float)
    scores = {
        "gene_pcc": _mean_correlation(p, t),
        "spearman": _mean_correlation(rankdata(p, axis=0), rankdata(t, axis=0)),
        "mse_over_variance": float(np.square(p - t).sum() / (t.var(0).sum() * len(t))),
    }
    if {"imputed_q05", "imputed_q95"} <= set(imputed.layers):
        within = (dense(imputed.layers["imputed_q05"]) <= t) & (t <= dense(imputed.layers["imputed_q95"]))
        scores["coverage_90"] = float(within.mean())
        scores["coverage_90_tenth_percentile_gene"] = float(np.quantile(within.mean(0), 0.1))
    return scores


def _mean_correlation(values: np.ndarray, truth: np.ndarray) -> float:
    """Mean over columns of the correlation of two matrices; a constant column counts as 0."""
    z, z_true = (matrix - matrix.mean(0) for matrix in (values, truth))
    norm = np.linalg.norm(z, axis=0) * np.linalg.norm(z_true, axis=0)
    return float(np.mean(np.where(norm > 1e-12, (z * z_true).sum(0) / np.maximum(norm, 1e-12), 0)))


def crps_draws(draws: np.ndarray, truth: np.ndarray) -> float:
    """Mean CRPS of draws [S, entries], E|X - t| - E|X - X'| / 2, without bias from their number (Ferro 2014)."""
    n = len(draws)
    ordered = np.sort(draws, axis=0)
    weight = 2 * np.arange(1, n + 1) - n - 1
    pairs = 2 * np.tensordot(weight, ordered, 1) / (n * (n - 1))  # E|X - X'| over different draws
    return float(np.mean(np.abs(draws - truth).mean(0) - pairs / 2))


def distribution(values: np.ndarray, truth: np.ndarray, hidden: np.ndarray, depth: np.ndarray) -> dict[str, float]:
    """What imputed values keep of the data's distribution.

    Parameters
    ----------
    values, truth
        Imputed and true expression, log1p scale, spots x genes.
    hidden
        Entries that were hidden; elsewhere both are the truth.
    depth
        Size factor of each spot, by which a value is less than half a count, that is zero.

    Returns
    -------
    dict
        ``var_ratio``: median over genes of the imputed entries' variance over the true one's (1 is right);
        ``zero_error``: mean over genes of the absolute difference in the share of zeros (0 is right); ``corr_error``:
        root mean square difference, over pairs of genes, of their correlation in the completed matrix (0 is right).
    """
    least = np.log1p(0.5 / np.maximum(depth, 1e-12))[:, None]
    n = np.maximum(hidden.sum(0), 1)

    def mean(matrix: np.ndarray) -> np.ndarray:
        return np.where(hidden, matrix, 0).sum(0) / n

    def variance(matrix: np.ndarray) -> np.ndarray:
        return mean((matrix - mean(matrix)) ** 2)

    usable = (n > 2) & (variance(truth) > 0)
    ratio = variance(values)[usable] / variance(truth)[usable]
    zeros = np.abs(mean(values < least) - mean(truth < least))[usable]
    difference = correlation(np.where(hidden, values, truth)) - correlation(truth)
    pairs = difference[np.triu_indices_from(difference, 1)]
    return {
        "var_ratio": float(np.median(ratio)),
        "zero_error": float(np.mean(zeros)),
        "corr_error": float(np.sqrt(np.mean(pairs**2))),
    }


def joint(draws: np.ndarray, truth: np.ndarray, hidden: np.ndarray) -> dict[str, float]:
    """What draws tell of several genes at once.

    Parameters
    ----------
    draws
        Draws of every entry [S, spots, genes]; what they hold at visible ones does not matter.
    truth, hidden
        True expression, and which entries were hidden [spots, genes].

    Returns
    -------
    dict
        ``corr_error``: root mean square error, over pairs of genes, of the correlation in the completed matrix,
        averaged over the draws (multiple imputation, Rubin 1987). Of the sums of a spot's hidden entries over 20 sets
        of 50 genes, and over all genes: ``set_crps`` and ``spot_crps``, in standard deviations of the true sums;
        ``set_coverage`` and ``spot_coverage``, the share of them within the middle 90 % of the draws. Sums are where
        it shows whether the errors of a spot's genes hang together.
    """
    right = correlation(truth)
    found = np.mean([correlation(np.where(hidden, draw, truth)) for draw in draws], axis=0)
    pairs = (found - right)[np.triu_indices_from(right, 1)]
    random, n_genes = np.random.default_rng(0), truth.shape[1]
    scores = {"corr_error": float(np.sqrt(np.mean(pairs**2)))}
    for name, sets in {
        "set": [random.permutation(n_genes)[:50] for _ in range(20)],
        "spot": [np.arange(n_genes)],
    }.items():
        of_sets = [_sums(draws, truth, hidden, genes) for genes in sets]
        crps, coverage, spread = np.mean(of_sets, axis=0)
        scores |= {f"{name}_crps": float(crps / spread), f"{name}_coverage": float(coverage)}
    return scores


def _sums(draws: np.ndarray, truth: np.ndarray, hidden: np.ndarray, genes: np.ndarray) -> tuple[float, ...]:
    """Mean CRPS and 90 % coverage of the sums of each spot's hidden entries over some genes; the true sums' spread."""
    spots = hidden.any(1)
    use = hidden[np.ix_(spots, genes)]
    true = np.where(use, truth[np.ix_(spots, genes)], 0).sum(1)
    sums = np.where(use, draws[:, spots][:, :, genes], 0).sum(2)
    # Between these ends one more draw of the same distribution lies 9 times in 10, however few the draws.
    low, high = np.quantile(sums, (0.05, 0.95), axis=0, method="weibull")
    return float(np.mean(crps_draws(sums, true))), float(np.mean((low <= true) & (true <= high))), float(true.std())


def correlation(matrix: np.ndarray) -> np.ndarray:
    """Correlation of every pair of columns; 0 with a constant one."""
    z = matrix - matrix.mean(0)
    z /= np.maximum(np.linalg.norm(z, axis=0), 1e-12)
    return z.T @ z


def dense(matrix: np.ndarray | sp.spmatrix) -> np.ndarray:
    """Any matrix as an array."""
    return matrix.toarray() if sp.issparse(matrix) else np.asarray(matrix)
