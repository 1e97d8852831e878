"""Systems of equations for values on a graph, solved by preconditioned conjugate gradients."""

from collections.abc import Callable

import numpy as np

Operator = Callable[[np.ndarray], np.ndarray]
"""Gives a product or an approximate solution [n, r] from values [n, r]; symmetric in its argument."""


def conjugate_gradients(
    times: Operator,
    information: np.ndarray,
    conditioner: Operator,
    component: np.ndarray,
    *,
    start: np.ndarray | None = None,
    iterations: int,
    tolerance: float,
) -> np.ndarray:
    """Solve ``times(s) = information``; gives s, float32 [n, r].

    Parameters
    ----------
    times
        Product of the matrix of the system, which has no negative eigenvalues, with values.
    information
        The right-hand side, float32 [n, r].
    conditioner
        Approximate solution of the system for a right-hand side.
    component
        Number of the part of the graph that each spot is in [n]. No part has an effect on another: each has step
        lengths of its own, and stops by itself.
    start
        First values; 0 by default.
    iterations, tolerance
        Stop after so many steps, or when the residual is so small, relative to the right-hand side.
    """
    n_components = int(component.max(initial=-1)) + 1

    def dot(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        return np.bincount(component, np.einsum("nr,nr->n", first, second), n_components)

    def per_spot(number: np.ndarray) -> np.ndarray:
        return number.astype(np.float32)[component, None]

    s = np.zeros_like(information) if start is None else start.copy()
    residual = information.copy() if start is None else information - times(s)
    direction = conditioner(residual)
    scratch = np.empty_like(direction)
    size = dot(residual, direction)
    enough = tolerance**2 * dot(information, conditioner(information))
    for _ in range(iterations):
        if not (size > enough).any():
            break
        product = times(direction)
        curvature = dot(direction, product)
        going_on = (size > enough) & (curvature > 0)  # 0 where the numbers are too small for single precision
        step = per_spot(np.where(going_on, size / np.where(going_on, curvature, 1), 0))
        s += np.multiply(direction, step, out=scratch)
        residual -= np.multiply(product, step, out=scratch)
        conditioned = conditioner(residual)
        before, size = size, dot(residual, conditioned)
        direction *= per_spot(np.where(going_on, size / np.where(going_on, before, 1), 0))
        direction += conditioned
    return s
