"""Where to compute."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from stmcdi_cli.errors import DeviceMemoryError, InputError


def choose_device(name: str) -> torch.device:
    """Turn ``auto``, ``cpu`` or ``cuda`` into a device.

    Raises
    ------
    InputError
        ``cuda`` was asked for and there is no GPU.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: no GPU is visible to torch; use --device auto or cpu, or ask for a GPU")
    return torch.device(name)


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
