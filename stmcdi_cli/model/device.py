"""Where to compute."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

from stmcdi_cli.errors import DeviceMemoryError, OptionError
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
    if n == 1:
        yield from map(function, items)
        return
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(n) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > 2 * n:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


@contextmanager
def oom_as_error() -> Iterator[None]:
    """Turn a GPU's lack of memory into an error with an exit code of its own.

    Raises
    ------
    DeviceMemoryError
        The GPU ran out of memory.
    """
    try:
        yield
    except RuntimeError as error:
        # What CUDA and its libraries say when they, not torch, find no memory.
        said = ("CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
        if not isinstance(error, torch.cuda.OutOfMemoryError) and not any(text in str(error) for text in said):
            raise
        raise DeviceMemoryError(
            "the GPU ran out of memory; use --device cpu, or smaller batches "
            "(`train --batch-size`, `impute --batch-size`)"
        ) from error
