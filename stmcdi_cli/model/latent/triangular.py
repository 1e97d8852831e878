"""Exact solutions of (Q + diag weight) s = information on a graph, from sparse triangular factors.

Q differs from factor to factor and the weight from call to call, but where they have entries is the same for all. So
the order of the spots in which the factors stay small, and the part of Q that the range does not change, are found once
for a graph.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import splu

from stmcdi_cli.model.device import begin_worker
from stmcdi_cli.resources import n_workers

_OPTIONS = {"diag_pivot_thresh": 0.0, "options": {"SymmetricMode": True}}

Result = TypeVar("Result")
Solve = Callable[[np.ndarray], np.ndarray]
"""Gives the solution [n] or [n, d] of a system of equations from its right-hand side, of the same shape."""


class Solvers:
    """Solutions of several systems, each computed by the thread that factorised it, and given up by it in the end.

    SciPy gives memory of SuperLU back only in the thread that took it (scipy issue 15921). Factors that were made by
    the threads of a pool would stay in memory for ever, or, in newer versions, be lost with their thread.

    Parameters
    ----------
    make
        Gives the function that solves a system, from the system's number.
    n
        Number of systems.
    """

    def __init__(self, make: Callable[[int], Solve], n: int) -> None:
        self._solve: dict[int, Solve] = {}
        self._threads = [
            ThreadPoolExecutor(1, initializer=begin_worker) for _ in range(max(1, min(n, n_workers())))
        ]  # not begun if it is one
        self._n = n
        try:
            self._each(lambda number: self._solve.update({number: make(number)}))
        except BaseException:
            self.close()
            raise

    def map(self, function: Callable[[int, Solve], Result]) -> list[Result]:
        """Call a function with the number of each system and what solves it; gives the results in order."""
        return self._each(lambda number: function(number, self._solve[number]))

    def by_factor(self, information: np.ndarray) -> np.ndarray:
        """Solve each system for its column of the right-hand sides, float32 [n, systems]."""
        columns = self.map(lambda number, solve: solve(information[:, number]))
        return np.stack(columns, axis=1).astype(np.float32)

    def close(self) -> None:
        """Give the factors up."""
        self._each(lambda number: self._solve.pop(number, None) and None)
        for thread in self._threads:
            thread.shutdown()

    def __enter__(self) -> "Solvers":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _each(self, function: Callable[[int], Result]) -> list[Result]:
        step = len(self._threads)
        if step == 1:
            return [function(number) for number in range(self._n)]

        def every(start: int) -> list[Result]:
            return [function(number) for number in range(start, self._n, step)]

        parts = [future.result() for future in [self._threads[k].submit(every, k) for k in range(step)]]
        return [parts[number % step][number // step] for number in range(self._n)]


class TriangularFactors:
    """Factorise tau A C^-1 A + diag weight, with A = diag - edges and C diagonal; see `spatial_field`.

    Parameters
    ----------
    edges
        Weights of the edges between connected spots, symmetric CSR [n, n].
    inverse_area
        Diagonal of C^-1 [n].
    """

    def __init__(self, edges: sp.csr_matrix, inverse_area: np.ndarray) -> None:
        edges = sp.csc_matrix(edges, dtype=np.float64)
        walks = sp.csc_matrix(edges @ sp.diags_array(inverse_area) @ edges)
        # With a large diagonal, no entry of the sum is 0: these are all that Q can have.
        everywhere = sp.csc_matrix(walks + edges + sp.eye_array(len(inverse_area)) * (1 + abs(walks).sum(0).max()))
        order = np.argsort(splu(everywhere, permc_spec="MMD_AT_PLUS_A", **_OPTIONS).perm_c)
        pattern = sp.csc_matrix(everywhere[order][:, order])
        pattern.sort_indices()
        column = np.repeat(np.arange(len(order)), np.diff(pattern.indptr))
        self._order, self._pattern, self._pairs = order, pattern, (pattern.indices, column)
        self._edges, self._walks = (_entries_at(matrix, order, pattern) for matrix in (edges, walks))
        self._diagonal = np.flatnonzero(pattern.indices == column)
        self._inverse_area = inverse_area[order]

    def solver(self, tau: float, diagonal: np.ndarray, weight: np.ndarray) -> Solve:
        """Give a function that solves the system of one factor.

        Parameters
        ----------
        tau
            Scale of Q.
        diagonal
            Diagonal of A [n].
        weight
            What is added to the diagonal of Q [n].
        """
        order, (row, column) = self._order, self._pairs
        diagonal = diagonal[order].astype(np.float64)
        per_area = diagonal * self._inverse_area
        values = self._walks - (per_area[row] + per_area[column]) * self._edges
        values[self._diagonal] += diagonal * per_area
        values *= tau
        values[self._diagonal] += weight[order]
        system = sp.csc_matrix((values, self._pattern.indices, self._pattern.indptr), shape=self._pattern.shape)
        factors = splu(system, permc_spec="NATURAL", **_OPTIONS)

        def solve(information: np.ndarray) -> np.ndarray:
            solution = np.empty(information.shape)
            solution[order] = factors.solve(np.asarray(information, np.float64)[order])
            return solution

        return solve


def _entries_at(matrix: sp.csc_matrix, order: np.ndarray, pattern: sp.csc_matrix) -> np.ndarray:
    """Entries of a matrix, its rows and columns in another order, at those of a pattern that has all of them."""
    reordered = sp.csc_matrix(matrix[order][:, order])
    values = np.zeros(pattern.nnz)
    values[np.searchsorted(_number(pattern), _number(reordered))] = reordered.data
    return values


def _number(matrix: sp.csc_matrix) -> np.ndarray:
    """Number of each entry, counted down the columns as if none were 0, ascending."""
    matrix.sort_indices()
    n = matrix.shape[0]
    return np.repeat(np.arange(n) * n, np.diff(matrix.indptr)) + matrix.indices
