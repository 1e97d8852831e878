"""Where to compute."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

from stmcdi_cli.errors import DeviceMemoryError, OptionError
from stmcdi_cli.resources import n_workers as n_workers

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
def one_thread() -> Iterator[None]:
    """Compute on one thread, so that no sum depends on how many there are.

    Work is shared out over threads in whole blocks instead, which is also faster here: the operations are small, and
    threads that wait for each other within each of them spin.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def in_order(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Give what a function makes of each item, in order: computed on every core, a few ahead of what is taken."""
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
def memory_guard() -> Iterator[None]:
    """Give a GPU's lack of memory an error, and so an exit code, of its own.

    Raises
    ------
    DeviceMemoryError
        The GPU ran out of memory.
    """
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise DeviceMemoryError("the GPU ran out of memory; lower --batch-size or use --device cpu") from error
