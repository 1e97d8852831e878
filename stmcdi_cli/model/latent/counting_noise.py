"""Rates of the genes of a tissue, and the moments of expression around them that the factor model is built on."""

import numpy as np
import torch
from torch import Tensor

from stmcdi_cli.model.latent.count_moments import count_table
from stmcdi_cli.model.scales import SHALLOWEST
from stmcdi_cli.model.tissue import Tissue

_HEADROOM = 20
"""Largest mean count in the tables, relative to that of the most abundant gene in the deepest spot."""


def gene_rates(tissue: Tissue, weight: np.ndarray | None = None) -> tuple[Tensor, Tensor]:
    """Rate and standard deviation of every gene [G] from the visible entries, as `CountingNoise` takes them.

    Parameters
    ----------
    tissue
        The tissue.
    weight
        Weights of the spots [n], where counts are not to be modelled although the tissue has them.
    """
    if tissue.count_scale is None or weight is not None:
        weight = np.ones(tissue.n_spots) if weight is None else weight
        n_visible = np.maximum(weight.sum() - tissue.missing.T @ weight, 1)
        mean = tissue.x.T @ weight / n_visible
        second = tissue.x.multiply(tissue.x).T @ weight / n_visible
        rate, scale = mean, np.sqrt(np.maximum(second - mean**2, 1e-6))
    else:
        observed = tissue.counts()
        total_depth = tissue.depth.sum() - tissue.missing.T @ tissue.depth
        # A tenth of a count is added: a gene without counts, or without visible entries, has a small rate, not 0.
        rate = (np.asarray(observed.sum(0)).ravel() + 0.1) / np.maximum(total_depth, 1)
        scale = np.ones(tissue.n_genes)
    return torch.tensor(rate, dtype=torch.float32), torch.tensor(scale, dtype=torch.float32)


def largest_mean(tissue: Tissue, rate: Tensor) -> float:
    """Largest mean count to tabulate for a tissue, given the rates of its genes [G]."""
    return _HEADROOM * tissue.depth.max() * float(rate.max())


class CountingNoise:
    """Mean, slope and variance of expression in the spots of one tissue.

    Parameters
    ----------
    tissue
        Gives the depths, and how expression was computed from counts.
    rate
        Mean count of each gene at depth 1 (its mean, where counts are not modelled) [G].
    scale
        Standard deviation of each gene, used where counts are not modelled [G].
    counts
        Model the counts, where the tissue has them.

    Attributes
    ----------
    table
        Poisson moments over the depths of the tissue; None where counts are not modelled.
    """

    def __init__(self, tissue: Tissue, rate: Tensor, scale: Tensor, *, counts: bool = True) -> None:
        self._rate, self._scale = rate.numpy(), scale.numpy()
        self.table = None
        if tissue.count_scale is not None and counts:
            self._log_rate = np.log(self._rate, dtype=np.float64).astype(np.float32)
            self.table = count_table(tissue.count_scale, 0.0, tissue.depth, largest_mean(tissue, rate))

    def log_mean(self, depth: np.ndarray) -> np.ndarray:
        """Log mean count of every gene at its mean rate, in spots of some depths, float32 [B, G]."""
        return np.log(np.maximum(depth, SHALLOWEST)).astype(np.float32)[:, None] + self._log_rate

    def moments(self, depth: np.ndarray, log_rate: np.ndarray | float = 0.0) -> tuple[np.ndarray, ...]:
        """a, b and v of spots of some depths at log rates relative to the gene's [B, G]; each float32 [B, G]."""
        if self.table is None:
            shape = (len(depth), len(self._rate))
            scale = np.broadcast_to(self._scale, shape)
            return np.broadcast_to(self._rate, shape), scale, scale**2
        a, b, v = self.table.moments(depth, self.log_mean(depth) + log_rate)
        return a, np.maximum(b, 1e-9), np.maximum(v, 1e-12)
