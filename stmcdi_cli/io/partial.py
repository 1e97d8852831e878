"""Finished parts of long work, kept in files so that a killed process can continue.

They are in a folder that only their user can open, and are removed when the work is done. A part is only used for the
same work: on the same data, with the same software and settings. Its name says which work that is, so that two
processes that were given one folder never take each other's parts.
"""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from stmcdi_cli import __version__
from stmcdi_cli.errors import InputError
from stmcdi_cli.io.output import atomic_file, write_texts

logger = logging.getLogger(__name__)

KEY, PART = "key", ".part"


class Parts:
    """Parts of the work on one output.

    A folder that others can write to, or that holds something else, is not used: nothing is kept then.

    Parameters
    ----------
    folder
        Where to keep them; made when work begins.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ready = False
        self._ending = PART

    def begin(self, work: Mapping[str, Any]) -> None:
        """Prepare the folder. Parts of the same work are kept, those of other work are removed.

        Parameters
        ----------
        work
            All that the result depends on beside the software, as types of JSON.
        """
        text = json.dumps([__version__, work], sort_keys=True)
        key = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
        self._ending = f"-{key}{PART}"
        with suppress(OSError, InputError):
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self._is_mine():
                self._ready = True
                if self._key() != key:
                    self._remove(f"*{PART}", KEY)
                    write_texts({self.folder / KEY: key})

    def _is_mine(self) -> bool:
        """Whether nobody else can have filled the folder."""
        found = self.folder.lstat()
        mine = found.st_uid == getattr(os, "getuid", lambda: found.st_uid)()
        closed = os.name != "posix" or not found.st_mode & 0o077
        return (
            mine
            and closed
            and self.folder.is_dir()
            and (bool(self._key()) or not any(map(_foreign, self.folder.iterdir())))
        )

    def _key(self) -> str:
        key = self.folder / KEY
        return key.read_text("ascii", "replace") if key.is_file() else ""

    def count(self) -> int:
        """Give how many runs of spots are done."""
        return len(list(self.folder.glob(f"[0-9]*{self._ending}"))) if self._ready else 0

    def load(self, name: str) -> dict[str, np.ndarray] | None:
        """Give the arrays of a part; None where there is none, or an incomplete one."""
        with suppress(OSError, SafetensorError, ValueError):
            if self._ready:
                return load((self.folder / (name + self._ending)).read_bytes())
        return None

    def save(self, name: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Keep a part, complete or not at all; where it cannot be written it is not kept."""
        if not self._ready:
            return
        content = save({key: np.ascontiguousarray(value) for key, value in arrays.items()})
        with suppress(InputError), atomic_file(self.folder / (name + self._ending), private=True) as temporary:
            temporary.write_bytes(content)

    def remove(self) -> None:
        """Remove the parts of this work; what cannot be removed does not fail the work that is done."""
        if not self._ready:
            return
        try:
            self._remove(f"*{self._ending}", f".*{self._ending}.*{PART}")
            if not any(self.folder.glob(f"*{PART}")):  # the key last: until then the folder is known as ours
                self._remove(KEY)
        except OSError as error:
            logger.warning("%s: cannot be removed (%s); it is no longer needed", self.folder, error.strerror or error)
            return
        with suppress(OSError):
            self.folder.rmdir()

    def _remove(self, *patterns: str) -> None:
        for pattern in patterns:
            for path in self.folder.glob(pattern):
                if path.is_dir():  # a part that was being written when a process was killed
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)


def _foreign(path: Path) -> bool:
    """Whether something in a folder without a key is not of ours: a process can be killed while it writes the key."""
    return not (path.name.startswith(f".{KEY}.") and path.name.endswith(PART))


@contextmanager
def kept_in(folder: "str | os.PathLike[str] | Parts | None") -> Iterator[Parts | None]:
    """Give a place for parts and remove it in the end, unless it comes from a caller, who then does that."""
    if folder is None or isinstance(folder, Parts):
        yield folder
        return
    parts = Parts(Path(folder))
    try:
        yield parts
    except Exception:
        if parts.count() == 0:  # otherwise they are kept: a full disk must not cost hours of work
            parts.remove()
        raise
    parts.remove()
