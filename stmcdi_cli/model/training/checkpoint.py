"""Restart: a stopped training goes on from a checkpoint, to the weights it would have had without the stop.

A training is made of parts (the fit of each encoder, the networks, ...). Each says, wherever its state is whole, how it
stands; from time to time, and when the process is asked to stop, all that is known is written to one file. It is in the
format of safetensors: numbers and JSON, no pickle.
"""

import hashlib
import json
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from stmcdi_cli import __version__
from stmcdi_cli.errors import InputError, Stopped
from stmcdi_cli.io.output import atomic_file, remove_stale_temporaries
from stmcdi_cli.model.tissue import Tissue
from stmcdi_cli.model.training import distributed
from stmcdi_cli.model.training.signals import listening

_CONTENT = "stmcdi"


class Restart:
    """Where a training stands, and the file it can go on from.

    Parameters
    ----------
    path
        The file; None keeps nothing.
    key
        What the training depends on (`key_of`): a file with another key is never gone on from.
    every
        Seconds between writings.
    """

    def __init__(self, path: Path | None = None, key: str = "", every: float = 60.0) -> None:
        self.path = path
        self.key = key
        self.every = every
        self.state: dict[str, Any] = {}
        self._changing = False  # whether a part is at work on its state in place
        self._signal: int | None = None
        self._written = time.monotonic()

    def part(self, name: str) -> "Part":
        """Give the part of a name."""
        return Part(self, name)

    # The file

    def load(self) -> str:
        """Take up what the file says; gives a line on what became of it, empty where there is no file."""
        if self.path is None or not self.path.exists():
            return ""
        try:
            with safe_open(self.path, framework="pt") as file:
                content = json.loads((file.metadata() or {})[_CONTENT])
                if content["key"] != self.key:
                    return f"{self.path} is of other data, settings or software; starting afresh"
                self.state = _unpack(content["state"], file.get_tensor)
        except (SafetensorError, OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError):
            return f"{self.path} is no checkpoint; starting afresh"
        return f"going on from {self.path}"

    def write(self) -> None:
        """Write the file, whole or not at all; where that is impossible say so: it is no reason to stop."""
        self._written = time.monotonic()
        if self.path is None or distributed.rank() > 0:
            return
        tensors: dict[str, Tensor] = {}
        content = {"key": self.key, "state": _pack(self.state, tensors)}
        data = save(tensors, {_CONTENT: json.dumps(content)})
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_file(self.path, private=True) as temporary:
                temporary.write_bytes(data)
        except (OSError, InputError) as error:
            print(f"train: no checkpoint: {error}", file=sys.stderr, flush=True)

    def remove(self) -> None:
        """Remove the file, and what a process killed while it wrote has left beside it."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)
            remove_stale_temporaries(self.path)

    # Signals

    @contextmanager
    def stoppable(self) -> Iterator[None]:
        """Within, a signal that asks to end writes the file and raises `Stopped`."""
        with listening(self._stop) if self.path else nullcontext():
            try:
                yield
            except Stopped:
                self._changing = True  # a second signal does not disturb the writing
                self.write()
                raise

    def _stop(self, number: int) -> None:
        self._signal = number
        if not self._changing:
            self._raise()

    def _raise(self) -> None:
        number = self._signal or signal.SIGTERM  # another process was told
        name = signal.Signals(number).name
        raise Stopped(f"stopped by {name}; the same command goes on from {self.path}", 128 + number)

    def _stands(self, name: str, state: Any) -> None:
        if self.path is None:
            return
        due = time.monotonic() - self._written >= self.every
        self._changing = True
        if not callable(state):
            self.state[name] = state
            stop = self._signal is not None
        else:
            stop = distributed.any_of(self._signal is not None)
            if due or stop:
                self.state[name] = state()
        if due and not stop:
            self.write()
        self._changing = callable(state)
        if stop or (self._signal is not None and not self._changing):
            self._raise()


class Part(NamedTuple):
    """One part of a training."""

    restart: Restart
    name: str

    @property
    def state(self) -> Any:
        """How it stood when last told, in this run or, at its beginning, in the one gone on from; None if never."""
        return self.restart.state.get(self.name)

    def stands(self, state: Any) -> None:
        """Tell how it stands.

        Parameters
        ----------
        state
            Mappings, lists, tensors and plain values, which nobody changes later; or, where they will be changed, a
            function that gives them: it is only called when they are to be written, at once.

        Raises
        ------
        Stopped
            A signal has asked to stop.
        """
        self.restart._stands(self.name, state)


ALONE = Part(Restart(), "")
"""Stands for a part where nothing is kept."""


def key_of(tissue: Tissue, settings: Mapping[str, Any]) -> str:
    """Digest of all that the result of a training depends on: what the model sees, settings, software."""
    digest = hashlib.blake2b(digest_size=16)
    software = {"stmcdi": __version__, "torch": torch.__version__}
    digest.update(json.dumps([software, settings, tissue.genes, tissue.scale], sort_keys=True).encode())
    for matrix in (tissue.x, tissue.missing, tissue.graph):
        for part in (matrix.data, matrix.indices, matrix.indptr):
            digest.update(part.tobytes())
    digest.update(tissue.depth.tobytes())
    return digest.hexdigest()


def _pack(value: Any, tensors: dict[str, Tensor]) -> Any:
    """Turn a state into what JSON knows, its tensors put aside by name."""
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = kept = value.detach().cpu().clone(memory_format=torch.contiguous_format)
        dense = kept.numel() == _span(value.shape, value.stride())
        return {"tensor": name, "stride": (value if dense else kept).stride()}
    if isinstance(value, Mapping):
        return {"items": [[key, _pack(item, tensors)] for key, item in value.items()]}
    return [_pack(item, tensors) for item in value] if isinstance(value, list | tuple) else value


def _unpack(value: Any, tensor: Callable[[str], Tensor]) -> Any:
    """Turn it back; tensors lie in memory as they did, because sums are rounded by that."""
    if isinstance(value, list):
        return [_unpack(item, tensor) for item in value]
    if not isinstance(value, dict):
        return value
    if "items" in value:
        return {key: _unpack(item, tensor) for key, item in value["items"]}
    saved = tensor(value["tensor"])
    if saved.numel() != _span(saved.shape, value["stride"]):
        raise ValueError("a tensor's strides do not fit its shape")
    return torch.empty_strided(saved.shape, value["stride"], dtype=saved.dtype).copy_(saved)


def _span(shape: Sequence[int], stride: Sequence[int]) -> int:
    """Numbers between the first and the last of a tensor that lies in memory so."""
    if 0 in shape:
        return 0
    return 1 + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
