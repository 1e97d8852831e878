import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp

from stmcdi_cli.model.latent.triangular import Solvers, TriangularFactors

SIDE = 60
N = SIDE * SIDE


def grid():
    line = sp.diags_array([1.0, 1.0], offsets=[-1, 1], shape=(SIDE, SIDE))
    return sp.csr_matrix(sp.kron(line, sp.eye_array(SIDE)) + sp.kron(sp.eye_array(SIDE), line))


@pytest.fixture(scope="module")
def edges():
    return grid()


@pytest.fixture(scope="module")
def systems(edges):
    return TriangularFactors(edges, np.linspace(0.5, 1.5, N))


def solvers(systems, n):
    diagonal = np.full(N, 4.1)
    return Solvers(lambda number: systems.solver(1.0 + number, diagonal, np.ones(N)), n)


@pytest.mark.parametrize("threads", ["1", "3"])
def test_solutions_are_those_of_the_systems(edges, systems, threads, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    a = sp.diags_array(np.full(N, 4.1)) - edges
    information = np.random.default_rng(0).normal(size=(N, 5))
    with solvers(systems, 5) as made:
        found = made.map(lambda number, solve: solve(information[:, number]))
    for number, solution in enumerate(found):
        q = (1.0 + number) * (a @ sp.diags_array(np.linspace(0.5, 1.5, N)) @ a) + sp.eye_array(N)
        np.testing.assert_allclose(q @ solution, information[:, number], atol=1e-9)


def test_each_factor_stays_in_one_thread(monkeypatch):
    """And is given up there: elsewhere its memory would stay taken."""
    monkeypatch.setenv("OMP_NUM_THREADS", "2")

    class Factor:
        def __init__(self):
            self.thread = threading.get_ident()

        def __del__(self):
            ended.append(threading.get_ident() == self.thread)

    ended = []
    with Solvers(lambda number: Factor(), 5) as made:
        assert all(made.map(lambda number, factor: factor.thread == threading.get_ident()))
        assert len(set(made.map(lambda number, factor: factor.thread))) == 2
    assert ended == [True] * 5


def sizes():
    """Bytes that this process holds without factors, and then with each of five sets of them."""

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    systems, found = TriangularFactors(grid(), np.linspace(0.5, 1.5, N)), [resident()]
    for _ in range(5):
        with solvers(systems, 8):
            found.append(resident())
    return found


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="MEMORY NOT TESTED: no /proc here")
def test_memory_is_given_back():
    """In a process of its own: what other tests have given back would be taken again."""
    environment = os.environ | {"OMP_NUM_THREADS": "2"}
    output = subprocess.run([sys.executable, __file__], env=environment, check=True, stdout=subprocess.PIPE).stdout
    without, *with_factors = map(int, output.split())
    one_set = with_factors[0] - without
    assert one_set > 10e6
    assert with_factors[-1] - with_factors[0] < 2 * one_set  # 4 of them, if they were kept


def test_a_system_that_cannot_be_solved_ends_the_threads(systems, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    before = threading.active_count()
    with pytest.raises(RuntimeError, match="singular"):
        Solvers(lambda number: systems.solver(0.0, np.ones(N), np.zeros(N)), 3)
    assert threading.active_count() == before


if __name__ == "__main__":
    print(*sizes())
