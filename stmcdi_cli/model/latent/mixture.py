"""How the draws are shared out over the branches of the model."""

import itertools
from collections.abc import Sequence

import numpy as np

_PARTS = 4
"""Parts of which the shares of the branches are made up."""


def possible_shares(n_branches: int) -> list[tuple[float, ...]]:
    """All shares in quarters that add up to 1, those with more for the first branches first."""
    counts = itertools.product(range(_PARTS, -1, -1), repeat=n_branches)
    return [tuple(part / _PARTS for part in parts) for parts in counts if sum(parts) == _PARTS]


def share_draws(shares: Sequence[float], n_samples: int) -> tuple[list[list[int]], np.ndarray]:
    """Give the pairs of draws of each branch, evenly interleaved; and the weight of one draw of each branch."""
    left, shares_left = list(range(-(-n_samples // 2))), list(shares)
    pairs: list[list[int]] = []
    while len(shares_left) > 1:  # the last branch takes its share of what is left, then the one before
        share = shares_left[-1] / max(sum(shares_left), 1e-9)
        taken = [pair for k, pair in enumerate(left) if int((k + 1) * share) > int(k * share)]
        pairs.insert(0, taken)
        left = [pair for pair in left if pair not in taken]
        shares_left.pop()
    pairs.insert(0, left)
    n_draws = np.array([sum(min(2, n_samples - 2 * pair) for pair in own) for own in pairs])
    weights = np.where(n_draws > 0, np.asarray(shares, np.float64), 0)
    return pairs, np.where(n_draws > 0, weights / np.maximum(n_draws, 1), 0) / weights.sum()
