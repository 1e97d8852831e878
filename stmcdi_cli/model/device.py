"""Where to compute."""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
import torch

from stmcdi_cli.errors import DeviceMemoryError, InputError, OptionError, one_line
from stmcdi_cli.resources import n_workers

Item = TypeVar("Item")
Result = TypeVar("Result")


def choose_device(name: str) -> torch.device:
    """Turn ``auto``, ``cpu`` or ``cuda`` into a device.

    Raises
    ------
    OptionError
        ``cuda`` was asked for and there is no GPU.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise OptionError("--device cuda: no GPU is visible to torch; use --device auto or cpu, or ask for a GPU")
    return torch.device(name)


def cpu_fallback(name: str, device: torch.device) -> str | None:
    """Say why ``auto`` became the CPU, for logs and records; None where it did not."""
    if name != "auto" or device.type != "cpu":
        return None
    return "no GPU is visible to torch" if torch.version.cuda else "torch was built without CUDA"


@contextmanager
def single_threaded() -> Iterator[None]:
    """Compute on one thread, so that no sum depends on the number of threads.

    Whole blocks of work are computed in parallel instead (`parallel_map`). That is also faster here: the operations are
    small, and threads within an operation would spend their time waiting for each other.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def parallel_map(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Call a function on each item, on all cores; yields the results in order and computes a few in advance."""
    n = n_workers()
    if n == 1 or _is_worker():
        yield from map(function, items)
        return
    pool, waiting = _pool(n), deque[Future[Result]]()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > 2 * n:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def parallel_each(function: Callable[[Item], object], items: Iterable[Item]) -> None:
    """Call a function on each item, on all cores: each takes every n-th, so that sharing them out takes no time."""
    items = list(items)
    n = min(n_workers(), len(items))

    def share(first: int) -> None:
        for item in items[first::n]:
            function(item)

    if n < 2 or _is_worker():
        for item in items:
            function(item)
        return
    others = [_pool(n_workers()).submit(share, first) for first in range(1, n)]
    try:
        share(0)
    finally:
        wait(others)
    for other in others:
        other.result()  # raises its error


_thread = threading.local()
_pools: dict[int, ThreadPoolExecutor] = {}  # by their number of threads


def _pool(n: int) -> ThreadPoolExecutor:
    """Give the threads that work in parallel; begun once, since many pieces of work take less than a millisecond."""
    if n not in _pools:
        _pools[n] = ThreadPoolExecutor(n, initializer=begin_worker)
    return _pools[n]


def begin_worker() -> None:
    """Let this thread compute by itself.

    OpenMP keeps the number of threads for each thread. A new one has as many as there are cores, whatever
    `single_threaded` set: products of matrices were shared out again, in sums whose order was another in every run.
    """
    _thread.works = True
    torch.set_num_threads(1)


def _is_worker() -> bool:
    """Whether this thread is one of those that work in parallel; they do not wait for each other."""
    return getattr(_thread, "works", False)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pools.clear)  # threads do not come along


@contextmanager
def torch_errors_in_one_line() -> Iterator[None]:
    """Turn a GPU's lack of memory, and values that no factorisation can take, into errors of ours.

    Raises
    ------
    DeviceMemoryError
        The GPU ran out of memory.
    InputError
        A matrix cannot be factorised.
    """
    try:
        yield
    except (torch.linalg.LinAlgError, np.linalg.LinAlgError) as error:
        raise InputError(
            f"the values are too far apart to compute with ({one_line(error, 100)}); look for spots with counts far "
            "above all others, and remove them"
        ) from error
    except RuntimeError as error:
        # What CUDA and its libraries say when they, not torch, find no memory.
        said = ("CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
        if not isinstance(error, torch.cuda.OutOfMemoryError) and not any(text in str(error) for text in said):
            raise
        raise DeviceMemoryError(
            "the GPU ran out of memory; use --device cpu, or smaller batches "
            "(`train --batch-size`, `impute --batch-size`)"
        ) from error
