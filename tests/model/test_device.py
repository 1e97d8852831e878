"""Work on all cores gives what one core gives."""

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from stmcdi_cli.errors import InputError
from stmcdi_cli.model import device
from stmcdi_cli.model.device import parallel_each, parallel_map, torch_errors_in_one_line

PRODUCTS = """
import torch
from stmcdi_cli.model.device import parallel_each, parallel_map, single_threaded
random = torch.Generator().manual_seed(0)
a, b = torch.rand(256, 1300, generator=random), torch.rand(1300, 136, generator=random)
with single_threaded():
    alone, each = a @ b, []
    for _ in range(20):  # not every product goes wrong
        each.extend(parallel_map(lambda number: a @ b, range(4)))
        parallel_each(lambda number: each.append(a @ b), range(4))
print(len(each), {torch.equal(product, alone) for product in each})
"""


@pytest.mark.parametrize("threads", ["2", "4"])
def test_products_in_parallel_are_those_of_one_core_to_the_last_bit(threads):
    """In a process of its own: OpenMP reads the number of threads when it is loaded, and each new thread takes it."""
    environment = os.environ | {"OMP_NUM_THREADS": threads}
    done = subprocess.run([sys.executable, "-c", PRODUCTS], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "160 {True}\n"


@pytest.fixture(params=["1", "3"])
def threads(request, monkeypatch) -> int:
    monkeypatch.setenv("OMP_NUM_THREADS", request.param)
    return int(request.param)


def test_results_come_in_order_and_work_is_shared_out(threads):
    where, gate = set(), threading.Barrier(threads)

    def square(number: int) -> int:
        if number < threads:
            gate.wait(20)  # each of the first takes a thread of its own
        where.add(threading.get_ident())
        return number**2

    assert list(parallel_map(square, range(20))) == [number**2 for number in range(20)]
    assert len(where) == threads
    done = []
    parallel_each(done.append, range(20))
    assert sorted(done) == list(range(20))


def test_an_error_reaches_the_caller_and_ends_the_work(threads):
    def fail(number: int) -> int:
        if number == 2:
            raise ZeroDivisionError
        return number

    results = parallel_map(fail, range(1000))
    assert [next(results), next(results)] == [0, 1]
    for call in (lambda: list(results), lambda: parallel_each(fail, range(1000))):
        with pytest.raises(ZeroDivisionError):
            call()
    assert list(parallel_map(abs, range(3))) == [0, 1, 2]  # the threads are still there


def test_work_within_work_does_not_wait_for_itself(threads):
    def inner(number: int) -> int:
        parallel_each(abs, range(5))
        return sum(parallel_map(abs, range(number)))

    assert list(parallel_map(inner, range(12))) == [sum(range(number)) for number in range(12)]
    parallel_each(inner, range(12))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_process_begins_threads_of_its_own(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    list(parallel_map(abs, range(4)))
    assert isinstance(device._pools[2], ThreadPoolExecutor)
    child = os.fork()
    if child == 0:
        os._exit(0 if list(parallel_map(abs, range(4))) == [0, 1, 2, 3] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize("library", [torch.linalg, np.linalg])
def test_a_matrix_that_cannot_be_factorised_is_the_input_s_fault(library):
    negative = -torch.eye(2) if library is torch.linalg else -np.eye(2)
    with pytest.raises(InputError, match="too far apart to compute with .*; look for spots with counts far above"):
        with torch_errors_in_one_line():
            library.cholesky(negative)
