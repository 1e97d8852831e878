"""What a model is weighed and calibrated by: visible entries kept from it, or genes left out whole.

A tissue alone is judged by entries chosen at random. With a reference, most of what is to be filled in are genes that
the target's panel never measured; therefore the genes that both have are left out in turn, a quarter at a time, and
predicted as the others are.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from stmcdi_cli.model.draw_summary import interval
from stmcdi_cli.model.latent.blocks import BLOCK
from stmcdi_cli.model.latent.diffusion import LatentDiffusion
from stmcdi_cli.model.latent.mixture import possible_shares
from stmcdi_cli.model.latent.reference_predictions import PREDICTORS, ReferencePredictions
from stmcdi_cli.model.latent.target_model import TargetFactorModel
from stmcdi_cli.model.tissue import Tissue

N_FOLDS = 4
_MOST_SPOTS = 4096
_TAILS = tuple(percent / 100 for percent in range(1, 13))
_TAILS_OF_GENES = tuple(percent / 100 for percent in range(1, 16))
"""Shares to exclude at each end: of genes that were never measured more, as no dispersion of their own was fitted."""
_LEAST_SHARE = 0.05  # of a prediction that has one at all
_COVERAGE = 0.9


class Moments(NamedTuple):
    """Sums over entries, gene by gene, from which every mixture of the branches can be judged.

    Attributes
    ----------
    products
        Sums of the products of (each prediction, true value, 1) with each other [G, predictions + 2, ...].
    """

    products: np.ndarray

    def error(self, shares: Sequence[float]) -> float:
        """Squared error of the mean of the predictions with these shares, over all genes."""
        difference = np.array([*shares, -1, 0])
        return float((self.products @ difference @ difference).sum())

    def correlations(self, shares: Sequence[float]) -> np.ndarray:
        """Correlation of that mean with the true values of each gene [G]; 0 without variation."""
        n = np.maximum(self.products[:, -1, -1], 1)
        means = self.products[:, -1, :-1] / n[:, None]
        centered = self.products[:, :-1, :-1] - n[:, None, None] * means[:, :, None] * means[:, None, :]
        mixed, true = np.array([*shares, 0]), np.array([*np.zeros(len(shares)), 1])
        variances = (centered @ mixed @ mixed) * (centered @ true @ true)
        varies = variances > 1e-12
        return np.where(varies, (centered @ mixed @ true) / np.sqrt(np.where(varies, variances, 1)), 0)


class Case(NamedTuple):
    """Some entries, and branches that have not seen them.

    Attributes
    ----------
    branches
        The branches, which have encoded `visible`.
    visible
        The tissue without the entries.
    entries
        The entries, CSR bool, spots x genes.
    spots
        Spots to look at, ascending.
    genes
        Which genes were left out whole, bool [G]; None where the entries were chosen at random.
    predictions
        Predictions of these genes from the cells of the reference; None where the entries were chosen at random.
    """

    branches: Sequence[LatentDiffusion]
    visible: Tissue
    entries: sp.csr_matrix
    spots: np.ndarray
    genes: np.ndarray | None = None
    predictions: ReferencePredictions | None = None

    @property
    def n_predictions(self) -> int:
        """Number of predictions of an entry: one of each branch, then one of each predictor."""
        return len(self.branches) + (len(PREDICTORS) if self.predictions else 0)

    def shares(self, weights: Sequence[float], parts: Sequence[float]) -> list[float]:
        """Share of each prediction, given those of the branches, and the parts taken from the predictors."""
        if self.predictions is None:
            return list(weights)
        return [*((1 - sum(parts)) * share for share in weights), *parts]

    def expected(self, tissue: Tissue) -> Iterator[tuple[np.ndarray, list[np.ndarray], np.ndarray, np.ndarray]]:
        """Yield some spots [B], every prediction [B, G], which entries [B, G], and the true x."""
        for i in range(0, len(self.spots), BLOCK):
            spots = self.spots[i : i + BLOCK]
            depth = tissue.depth[spots]
            means = [branch.encoder.decoder(depth)(branch.encoded().mean[spots]).numpy() for branch in self.branches]
            if self.predictions is not None:
                for predicted in self.predictions.expected(spots):
                    means.append(np.zeros_like(means[0]))
                    means[-1][:, self.predictions.genes] = predicted
            yield spots, means, self.entries[spots].toarray(), tissue.x[spots].toarray()

    def moments(self, tissue: Tissue) -> Moments:
        """Compare the predictions with the true values of the entries."""
        size = self.n_predictions + 2
        products = np.zeros((size, size, tissue.n_genes))
        for _, means, entries, x in self.expected(tissue):
            genes, true = np.nonzero(entries)[1], x[entries].astype(np.float64)
            values = [*(mean[entries].astype(np.float64) for mean in means), true, np.ones_like(true)]
            for i in range(size):
                for j in range(i, size):
                    products[i, j] += np.bincount(genes, values[i] * values[j], tissue.n_genes)
                    products[j, i] = products[i, j]
        return Moments(products.transpose(2, 0, 1))


def some_spots(tissue: Tissue, most: int) -> np.ndarray:
    """All spots, or `most` of them at random, ascending."""
    return np.sort(np.random.default_rng(0).permutation(tissue.n_spots)[:most])


def left_out_genes(branches: Sequence[LatentDiffusion], tissue: Tissue, reference: Tissue, seed: int) -> Iterator[Case]:
    """Leave out the genes that target and reference share, a quarter at a time."""
    shared = (tissue.n_visible > 0) & (reference.n_visible > 0)
    dealt = np.random.default_rng(seed).permutation(np.flatnonzero(shared))
    spots = some_spots(tissue, _MOST_SPOTS)
    every_spot = sp.csr_matrix(np.ones((tissue.n_spots, 1), bool))
    for fold in range(N_FOLDS):
        genes = np.isin(np.arange(tissue.n_genes), dealt[fold::N_FOLDS])
        whole = sp.csr_matrix(every_spot @ sp.csr_matrix(genes[None]), dtype=bool)
        entries = sp.csr_matrix(whole > tissue.missing.multiply(whole))
        visible = tissue.without(entries)
        others = []
        for branch in branches:
            assert isinstance(branch.encoder, TargetFactorModel)
            other = branch.with_encoder(branch.encoder.without_genes(genes))
            other.encode(visible)
            others.append(other)
        predictions = ReferencePredictions(others[-1].encoder, reference, visible, genes)
        yield Case(others, visible, entries, spots, genes, predictions)


def best_shares(cases: Sequence[Case], moments: Sequence[Moments]) -> tuple[list[float], list[float]]:
    """Give the weights of the branches, and the parts of the predictors, with which the cases are predicted best.

    Best is the smallest error. Of genes that were left out it is the largest mean correlation: how much a platform
    catches of a gene, and how widely it varies there, is not what the predictions differ in. Few genes do not tell
    similar shares apart; therefore the result is a mean of all shares, with weights that fall by a factor of e for each
    standard error by which their mean correlation lies below the largest.
    """
    n, shares = len(cases[0].branches), np.array(possible_shares(cases[0].n_predictions))
    shares = shares[shares[:, :n].any(1)]
    if cases[0].genes is None:
        errors = [sum(found.error(share) for found in moments) for share in shares]
        best = shares[int(np.argmin(errors))]
    else:
        achieved = np.array([_correlations(cases, moments, share) for share in shares])
        below = achieved.mean(1).max() - achieved.mean(1)
        spread = (achieved - achieved[below.argmin()]).std(1).mean()
        weights = np.exp(-below * np.sqrt(achieved.shape[1]) / max(spread, 1e-9))
        best = weights @ shares / weights.sum()
        best = np.where(best < _LEAST_SHARE, 0, best)
        best /= best.sum()
    return (best[:n] / best[:n].sum()).tolist(), best[n:].tolist()


def _correlations(cases: Sequence[Case], moments: Sequence[Moments], shares: Sequence[float]) -> np.ndarray:
    """Correlation of each gene that was left out in one of the cases [K]."""
    return np.concatenate([found.correlations(shares)[case.genes] for case, found in zip(cases, moments, strict=True)])


def interval_tail(samples: np.ndarray, truth: np.ndarray, genes: np.ndarray, *, left_out: bool) -> float:
    """Give the largest tail with which the interval of some draws [draws, n] surely covers 90 % of the true values [n].

    Counts are discrete: the interval between the 5 % and 95 % quantiles often contains far more than 90 %. Genes [n]
    are covered unequally well, and a few of them say little about others: the coverage less its standard error between
    genes counts. `left_out` says that whole genes were left out.
    """
    tails = _TAILS_OF_GENES if left_out else _TAILS
    best = tails[0]
    if not len(truth):
        return best
    n = np.bincount(genes)
    n_genes = np.count_nonzero(n)
    for tail in tails:
        low, high = interval(samples, tail)
        inside = np.bincount(genes, (low <= truth) & (truth <= high))
        coverage = inside.sum() / len(truth)
        error = np.sqrt(np.sum((inside - coverage * n) ** 2) * n_genes / max(n_genes - 1, 1)) / len(truth)
        if coverage - error >= _COVERAGE:
            best = tail
    return best
