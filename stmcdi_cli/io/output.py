"""Files and folders that appear complete or not at all, and leave nothing behind, whenever the process is stopped.

What is written grows in a folder of its own beside the output, closed to others, and is renamed when it is complete.
The folder is locked while its process lives: what a killed process left is known by its open lock, and the next one to
write the same output takes it away.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from stmcdi_cli.errors import InputError, one_line

try:
    import fcntl
except ImportError:  # not on Windows: nothing tells the dead from the living there, so nothing is taken away
    fcntl = None  # type: ignore[assignment]


LOCK, OLD = "lock", "old"
"""Names within the folder beside an output: the lock, and what was at the output's place before."""
UNLOCKED_FOR = 60
"""Seconds after which a folder that still has no lock belongs to nobody."""


@contextmanager
def writing(path: str | os.PathLike[str]) -> "Iterator[None]":
    """Turn what the system refuses while a file is written (disk full, no permission) into one line."""
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else one_line(error)
        raise InputError(f"{path}: cannot be written ({reason}); free space or choose another place") from error


@contextmanager
def whole_file(path: str | os.PathLike[str], *, private: bool = False) -> "Iterator[Path]":
    """Give a temporary name beside ``path`` that becomes ``path`` on success and vanishes on failure.

    With `private` nobody else may read it.

    Raises
    ------
    InputError
        The file cannot be written; what was at ``path`` before is still there.
    """
    with whole_files([Path(path)], private=private) as (temporary,):
        yield temporary


@contextmanager
def whole_files(paths: Sequence[Path], *, private: bool = False) -> "Iterator[list[Path]]":
    """Give temporary names beside some files: all become them on success, none does on failure.

    Raises
    ------
    InputError
        One cannot be written; what was there before is still there.
    """
    with ExitStack() as stack:
        temporaries = [stack.enter_context(_place(path)) / path.name for path in paths]
        with writing(paths[0]):
            yield temporaries
        for path, temporary in zip(paths, temporaries, strict=True):
            with writing(path):
                if path.is_dir():
                    raise IsADirectoryError(21, os.strerror(21))
                temporary.chmod(0o600 if private else 0o666 & ~umask())
                _to_disk(temporary)
        for path, temporary in zip(paths, temporaries, strict=True):
            with writing(path):
                temporary.replace(path)
                _to_disk(path.parent)


@contextmanager
def whole_folder(path: str | os.PathLike[str]) -> "Iterator[Path]":
    """Give a new folder that becomes ``path`` on success, in the place of one already there, and vanishes on failure.

    Raises
    ------
    InputError
        The folder cannot be written; what was at ``path`` before is still there.
    """
    path = Path(path)
    with _place(path) as place, writing(path):
        temporary = place / path.name
        temporary.mkdir()
        yield temporary
        for part in (*temporary.rglob("*"), temporary):
            _to_disk(part)
        # A folder cannot be replaced in one call: the old one steps aside first, and comes back if the new one fails.
        if path.exists():
            path.rename(place / OLD)
        try:
            temporary.rename(path)
        except OSError:
            _bring_back(place, path)
            raise
        _to_disk(path.parent)


def umask() -> int:
    """Permissions that new files of this process go without; the system tells it only by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


@contextmanager
def _place(path: Path) -> "Iterator[Path]":
    """Make a folder beside an output to write it in, locked, and take away those that killed processes left."""
    with writing(path):
        take_away_strays(path)
        place = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent))
    try:
        with ExitStack() as held:
            with writing(path):
                lock = held.enter_context(open(place / f"{LOCK}ing", "wb"))
                _locks(lock)
                (place / f"{LOCK}ing").rename(place / LOCK)  # nobody ever sees it open
            yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def take_away_strays(path: Path) -> None:
    """Remove the folders beside an output whose processes are dead; bring back what one had moved aside."""
    for place in path.parent.glob(f".{_literal(path.name)}.*.part"):
        try:
            with open(place / LOCK, "r+b") as lock:
                dead = _locks(lock)
        except FileNotFoundError:
            dead = fcntl is not None and time.time() - place.stat().st_mtime > UNLOCKED_FOR
        except OSError:
            dead = False
        if dead:
            _bring_back(place, path)
            shutil.rmtree(place, ignore_errors=True)


def _locks(lock: IO[bytes]) -> bool:
    """Take a lock if nobody holds it; False where somebody does, or where the file system knows no locks."""
    try:
        if fcntl is not None:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return fcntl is not None
    except OSError:
        return False


def _bring_back(place: Path, path: Path) -> None:
    if (place / OLD).exists() and not path.exists():
        (place / OLD).rename(path)


def _literal(name: str) -> str:
    """A file's name as a pattern that matches it alone."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


def _to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def check_output(output: str | os.PathLike[str], *inputs: str | os.PathLike[str]) -> None:
    """Refuse an output that is an input, or whose folder cannot take it, before any work is done.

    Raises
    ------
    InputError
        The output names one of the inputs or a folder, or its folder is missing or read-only.
    """
    output = Path(output)
    for other in inputs:
        if os.path.realpath(output) == os.path.realpath(other):
            raise InputError(f"{output}: the output is also an input; give the output another name")
    if output.is_dir():
        raise InputError(f"{output}: is a folder; name a file in it")
    if not output.parent.is_dir():
        raise InputError(f"{output.parent}: no such folder; create it first")
    if not os.access(output.parent, os.W_OK):
        raise InputError(f"{output.parent}: folder is not writable; choose another output")


def check_model_dir(path: str | os.PathLike[str]) -> None:
    """Refuse a model folder that could not be written, before hours of training.

    Raises
    ------
    InputError
        There is a file of that name, or a folder that holds no model, or the parent folder is missing or read-only.
    """
    path = Path(path)
    if path.is_dir() and any(path.iterdir()) and not (path / "config.yaml").is_file():
        raise InputError(f"{path}: is a folder, but not of a model; give another name")
    check_output(path / "model.safetensors" if path.is_dir() else path)
    if path.is_file():
        raise InputError(f"{path}: is a file; a model is a folder: give another name")


def write_texts(files: "Mapping[Path, str]") -> None:
    """Write several text files: all are complete, or none is there."""
    with whole_files(list(files)) as temporaries:
        for path, temporary in zip(files, temporaries, strict=True):
            with writing(path):
                temporary.write_text(files[path], encoding="utf-8")


def check_space(path: str | os.PathLike[str], need: float) -> None:
    """Refuse to begin what the file system cannot hold; ``need`` in bytes.

    Raises
    ------
    InputError
        There is less space than that.
    """
    free = shutil.disk_usage(Path(path).parent).free
    if need > free:
        raise InputError(
            f"{path}: needs about {need / 2**30:.1f} GiB, found {free / 2**30:.1f} GiB free; "
            "free space or choose another place"
        )
