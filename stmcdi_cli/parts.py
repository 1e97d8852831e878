"""Finished parts of a long piece of work, kept in files so that it can be taken up after it was killed.

They lie in a hidden folder beside the output, closed to others, which is removed when the output is there. A part is
only used for the same work: on the same input, by the same software, with the same settings.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from stmcdi_cli import __version__
from stmcdi_cli.io import checksum

KEY = "key"


class Parts:
    """Parts of the work on one output.

    Parameters
    ----------
    output
        File that will be written.
    input
        File that is worked on.
    """

    def __init__(self, output: Path, input: Path) -> None:
        self.folder = output.with_name(f".{output.name}.parts")
        self.input = input
        self._ready = False

    def begin(self, settings: Mapping[str, Any]) -> None:
        """Get ready. Parts of the same work are kept, those of other work are removed.

        Parameters
        ----------
        settings
            All that the result depends on beside input and software, as JSON knows it.
        """
        said = json.dumps([__version__, checksum(self.input), settings], sort_keys=True)
        key = hashlib.blake2b(said.encode(), digest_size=16).hexdigest()
        with suppress(OSError):  # without a place for parts the work is done all the same
            if not self._is_mine() or (self.folder / KEY).read_text("ascii", "replace") != key:
                self.remove()
                self.folder.mkdir(mode=0o700)
                (self.folder / KEY).write_text(key, "ascii")
            self._ready = True

    def count(self) -> int:
        """Give how many runs of spots are done."""
        return len(list(self.folder.glob("[0-9]*.part"))) if self._ready else 0

    def _is_mine(self) -> bool:
        """Whether there is a folder that nobody else can have filled."""
        if self.folder.is_symlink() or not (self.folder / KEY).is_file():
            return False
        found = self.folder.stat()
        return not found.st_mode & 0o077 and found.st_uid == getattr(os, "getuid", lambda: found.st_uid)()

    def load(self, name: str) -> dict[str, np.ndarray] | None:
        """Give the arrays of a part, if it is there and whole."""
        with suppress(OSError, SafetensorError, ValueError):
            if self._ready:
                return load((self.folder / f"{name}.part").read_bytes())
        return None

    def save(self, name: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Keep a part, whole or not at all; where that is impossible it is done without."""
        if not self._ready:
            return
        temporary = self.folder / f"{name}.{os.getpid()}"
        with suppress(OSError):
            with open(temporary, "wb") as file:
                file.write(save({key: np.ascontiguousarray(value) for key, value in arrays.items()}))
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.folder / f"{name}.part")
            return
        with suppress(OSError):
            temporary.unlink()

    def remove(self) -> None:
        """Remove all."""
        shutil.rmtree(self.folder, ignore_errors=True)
