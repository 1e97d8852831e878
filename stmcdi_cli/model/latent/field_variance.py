"""Variance of a field given all entries, from draws of its posterior (Papandreou and Yuille 2010)."""

from collections.abc import Callable

import numpy as np

from stmcdi_cli.model.latent.triangular import Solve

_SAMPLES = 24
_DRAWN_AT_ONCE = 500_000  # values, few enough to stay in a processor's cache


def variance_of_draws(
    times_a: Callable[[np.ndarray], np.ndarray],
    inverse_area: np.ndarray,
    tau: np.ndarray,
    own: np.ndarray,
    solve: Solve,
    random: np.random.Generator,
) -> np.ndarray:
    """Mean square of draws of a field around its mean, at each spot [n]; see `spatial_field` for A, C and tau.

    Parameters
    ----------
    times_a
        Product of A with values [n, d].
    inverse_area
        Diagonal of C^-1 [n, 1].
    tau
        Scale of the precision Q.
    own
        Precision of each spot's own entries [n, 1].
    solve
        Gives s [n, d] with (Q + diag own) s equal to its argument.
    random
        Where the noise comes from.
    """
    n = len(own)
    total = np.zeros(n)
    at_once = min(_SAMPLES, max(1, _DRAWN_AT_ONCE // n))
    for first in range(0, _SAMPLES, at_once):
        of_prior, of_entries = random.standard_normal((2, n, min(at_once, _SAMPLES - first)), dtype=np.float32)
        draws = solve(np.sqrt(tau) * times_a(of_prior * np.sqrt(inverse_area)) + np.sqrt(own) * of_entries)
        total += np.einsum("nd,nd->n", draws, draws)
    return total / _SAMPLES
