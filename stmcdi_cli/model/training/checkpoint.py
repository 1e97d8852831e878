"""A training that was stopped goes on from its checkpoint, to the weights it would have had without the stop.

A training has stages (the fit of each encoder, the networks, ...). Each saves its state whenever that is complete. From
time to time, and when a signal asks the process to stop, the states of all stages are written to one file. Its format
is that of safetensors: numbers and JSON, no pickle.
"""

import hashlib
import json
import logging
import os
import signal
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

logger = logging.getLogger(__name__)

_CONTENT = "stmcdi"


class Checkpoint:
    """The state of a training, and the file from which it can go on.

    Parameters
    ----------
    path
        The file; None writes nothing.
    key
        What the training depends on (`key_of`): a file with another key is never used.
    every
        Seconds between writings.
    """

    def __init__(self, path: Path | None = None, key: str = "", every: float = 60.0) -> None:
        self.path = path
        self.key = key
        self.every = every
        self.state: dict[str, Any] = {}
        self._changing = False  # whether a stage is changing its state in place
        self._on_disk = False  # whether the file is of this training
        self._signal: int | None = None
        self._written = time.monotonic()

    def stage(self, name: str) -> "Stage":
        """Give the stage with a name."""
        return Stage(self, name)

    # The file

    def load(self) -> str:
        """Read the file; gives a line that says what was found, empty where there is no file."""
        if self.path is None:
            return ""
        try:
            if not self.path.exists():
                return ""
            with safe_open(self.path, framework="pt") as file:
                content = json.loads((file.metadata() or {})[_CONTENT])
                if content["key"] != self.key:
                    return f"{self.path} is of other data, settings or software; starting afresh"
                self.state = _unpack(content["state"], file.get_tensor)
        except (SafetensorError, OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError):
            return f"{self.path} is no checkpoint; starting afresh"
        self._on_disk = True
        return f"going on from {self.path}"

    def write(self) -> bool:
        """Write the file, completely or not at all; a failure is reported and does not end the training.

        Returns
        -------
        Whether there is a file of this training, from now or from before.
        """
        self._written = time.monotonic()
        if self.path is None or distributed.rank() > 0:
            return True
        tensors: dict[str, Tensor] = {}
        content = {"key": self.key, "state": _pack(self.state, tensors)}
        data = save(tensors, {_CONTENT: json.dumps(content)})
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_file(self.path, private=True) as temporary:
                temporary.write_bytes(data)
        except (OSError, InputError) as error:
            logger.warning("train: no checkpoint: %s", error)
        else:
            self._on_disk = True
        return self._on_disk

    def remove(self) -> None:
        """Remove the file, and what a process that was killed while writing left beside it; a failure is reported."""
        if self.path is None:
            return
        try:
            self.path.unlink(missing_ok=True)
            remove_stale_temporaries(self.path)
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error)
            logger.warning("train: %s: cannot be removed (%s); it is no longer needed", self.path, reason)

    # Signals

    @contextmanager
    def stoppable(self) -> Iterator[None]:
        """Within, a signal that asks the process to end writes the file and raises `Stopped`."""
        with listening(self._stop) if self.path else nullcontext():
            try:
                yield
            except Stopped as stopped:
                self._changing = True  # a second signal does not interrupt the writing
                if self.write():
                    raise
                name = signal.Signals(stopped.exit_code - 128).name
                raise Stopped(f"stopped by {name}; without a checkpoint to go on from", stopped.exit_code) from None

    def _stop(self, number: int) -> None:
        self._signal = number
        if not self._changing:
            self._raise()

    def _raise(self) -> None:
        number = self._signal or signal.SIGTERM  # None where another process received it
        name = signal.Signals(number).name
        raise Stopped(f"stopped by {name}; the same command goes on from {self.path}", 128 + number)

    def _save(self, name: str, state: Any) -> None:
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


class Stage(NamedTuple):
    """One stage of a training."""

    checkpoint: Checkpoint
    name: str

    @property
    def state(self) -> Any:
        """The state saved last, in this run or, at its beginning, in the run that it continues; None without one."""
        return self.checkpoint.state.get(self.name)

    def save(self, state: Any) -> None:
        """Save the state, and write the checkpoint when it is time to.

        Parameters
        ----------
        state
            Mappings, lists, tensors and plain values that nobody changes afterwards. Where they will be changed, a
            function that gives them: it is only called when the file is to be written, at once.

        Raises
        ------
        Stopped
            A signal has asked the process to stop.
        """
        self.checkpoint._save(self.name, state)


NO_CHECKPOINT = Stage(Checkpoint(), "")
"""A stage that is never written."""


def key_of(tissue: Tissue, settings: Mapping[str, Any]) -> str:
    """Digest of all that the result of a training depends on: visible data, settings, software."""
    digest = hashlib.blake2b(digest_size=16)
    software = {"stmcdi": __version__, "torch": torch.__version__}
    digest.update(json.dumps([software, settings, tissue.genes, tissue.count_scale], sort_keys=True).encode())
    for matrix in (tissue.x, tissue.missing, tissue.graph):
        for array in (matrix.data, matrix.indices, matrix.indptr):
            digest.update(array.tobytes())
    digest.update(tissue.depth.tobytes())
    return digest.hexdigest()


def _pack(value: Any, tensors: dict[str, Tensor]) -> Any:
    """Turn a state into JSON's types; its tensors go to `tensors`, under new names."""
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = stored = value.detach().cpu().clone(memory_format=torch.contiguous_format)
        dense = stored.numel() == _span(value.shape, value.stride())
        return {"tensor": name, "stride": (value if dense else stored).stride()}
    if isinstance(value, Mapping):
        return {"items": [[key, _pack(item, tensors)] for key, item in value.items()]}
    return [_pack(item, tensors) for item in value] if isinstance(value, list | tuple) else value


def _unpack(value: Any, tensor: Callable[[str], Tensor]) -> Any:
    """Undo `_pack`; tensors get their strides back, because the rounding of sums depends on them."""
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
    """Numbers from the first to the last of a tensor in memory, both included."""
    if 0 in shape:
        return 0
    return 1 + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
