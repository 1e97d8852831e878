"""Soft-impute: fill the hidden entries from a soft-thresholded singular value decomposition, until it converges.

Mazumder, Hastie and Tibshirani 2010: minimise the squared error of the visible entries plus a penalty on the nuclear
norm, for a sequence of falling penalties, each from the solution for the one before. The decomposition is truncated
and starts from that of the step before.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from stmcdi_cli.baselines import base
from stmcdi_cli.model.gene_scaler import GeneScaler

MAX_RANK = 30
MOST_STEPS = 40
TOLERANCE = 1e-3
"""Relative change of the singular values below which the solution for a penalty counts as converged."""
SHRINKAGE = 0.8
PATIENCE = 2
VALIDATION = 0.1


class Decomposition(NamedTuple):
    """U diag(s) V' with U [n, r], s [r] (some of them 0) and V [G, r]."""

    u: Tensor
    s: Tensor
    v: Tensor

    def product(self) -> Tensor:
        """The matrix [n, G]."""
        some = self.s > 0
        return (self.u[:, some] * self.s[some]) @ self.v[:, some].T


def impute(data: base.DenseTissue, *, seed: int) -> base.Estimate:
    """Predict every entry by the low-rank matrix whose penalty was best on an inner validation mask."""
    validation_mask = base.choose_entries(data.seen, VALIDATION, seed)
    part = data.seen & ~validation_mask
    penalty, predicted = _best_penalty(data.x, part, validation_mask, seed)
    sd = base.residual_sd(data.x, data.seen, predicted, validation_mask)

    # Genes keep their variance: those that vary most matter most.
    scaler = GeneScaler.fit(data.x, data.seen, power=0)
    z, seen = base.masked_tensor(scaler, data.x, data.seen), torch.from_numpy(data.seen)
    found = _solve(z, seen, _start(z, seed), penalty)
    return base.fill_gaps(data, base.Estimate(scaler.inverse(found.product().numpy()), sd))


def _best_penalty(x: np.ndarray, part: np.ndarray, validation_mask: np.ndarray, seed: int) -> tuple[float, np.ndarray]:
    """Lower the penalty until the validation error no longer falls; give the best and its prediction."""
    scaler = GeneScaler.fit(x, part, power=0)
    z, seen = base.masked_tensor(scaler, x, part), torch.from_numpy(part)
    found = _start(z, seed)
    penalty = best_penalty = float(torch.linalg.norm(z @ found.v[:, 0]))
    best_error, best, since = np.inf, np.empty(0), 0
    while since < PATIENCE:
        found = _solve(z, seen, found, penalty)
        predicted = scaler.inverse(found.product().numpy())
        error = float(((predicted - x) ** 2 * validation_mask).sum(dtype=np.float64))
        since += 1
        if error < best_error:
            best_error, best_penalty, best, since = error, penalty, predicted, 0
        penalty *= SHRINKAGE
    return best_penalty, best


def _start(z: Tensor, seed: int) -> Decomposition:
    """Decompose the matrix with the hidden entries filled by means."""
    v = base.leading_directions(z, MAX_RANK, seed)
    u, s, right = torch.linalg.svd(z @ v, full_matrices=False)
    return Decomposition(u, torch.zeros_like(s), v @ right.T)


def _solve(z: Tensor, seen: Tensor, found: Decomposition, penalty: float) -> Decomposition:
    """Fill, decompose and shrink until the singular values converge."""
    for _ in range(MOST_STEPS):
        filled = torch.where(seen, z, found.product())
        q = torch.linalg.qr(filled @ found.v)[0]
        u, s, right = torch.linalg.svd(q.T @ filled, full_matrices=False)
        before, found = found.s, Decomposition(q @ u, (s - penalty).clamp(min=0), right.T)
        if (found.s - before).norm() <= TOLERANCE * found.s.norm():
            break
    return found
