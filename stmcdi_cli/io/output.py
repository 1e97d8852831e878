"""Atomic outputs: files and folders that are complete or absent, also if the process is stopped while it writes.

An output is written to a temporary folder beside it, which only its owner can open, and is renamed when it is complete.
The process holds a lock on the folder. A folder whose lock is free was left by a killed process: the next process that
writes the same output removes it.

Where the output is a symbolic link, all this happens where it leads to: the link stays.
"""

import errno
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from stmcdi_cli.errors import InputError, OutputError, one_line

try:
    import fcntl
except ImportError:  # Windows: there a killed process cannot be told from a running one, so nothing is removed
    fcntl = None  # type: ignore[assignment]


LOCK, OLD = "lock", "old"
"""Names in the temporary folder: the lock, and the folder that the output replaces."""
UNLOCKED_FOR = 60
"""Seconds after which a temporary folder without a lock is one that a killed process left."""


@contextmanager
def writing(path: str | os.PathLike[str]) -> "Iterator[None]":
    """Turn an error of the system while a file is written (disk full, no permission) into an OutputError."""
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else one_line(error)
        raise OutputError(f"{path}: cannot be written ({reason}); free space or choose another place") from error


@contextmanager
def atomic_file(path: str | os.PathLike[str], *, private: bool = False) -> "Iterator[Path]":
    """Give a temporary name beside ``path`` that becomes ``path`` on success and is removed on failure.

    With `private` nobody else may read it, and a symbolic link at ``path``, which anybody may have made, is replaced.

    Raises
    ------
    InputError
        The file cannot be written; what was at ``path`` before is still there.
    """
    with atomic_files([Path(path)], private=private) as (temporary,):
        yield temporary


@contextmanager
def atomic_files(paths: Sequence[Path], *, private: bool = False) -> "Iterator[list[Path]]":
    """Give temporary names beside some files: all become them on success, none does on failure.

    Raises
    ------
    InputError
        One cannot be written; what was there before is still there.
    """
    places = []
    for path in paths:
        with writing(path):
            places.append(path if private else followed(path))
    with ExitStack() as stack:
        temporaries = [
            stack.enter_context(_temporary_folder(place)) / path.name for place, path in zip(places, paths, strict=True)
        ]
        with writing(paths[0]):
            yield temporaries
        for path, temporary in zip(paths, temporaries, strict=True):
            with writing(path):
                if path.is_dir():
                    raise IsADirectoryError(21, os.strerror(21))
                temporary.chmod(0o600 if private else 0o666 & ~umask())
                _sync(temporary)
        for path, place, temporary in zip(paths, places, temporaries, strict=True):
            with writing(path):
                temporary.replace(place)
                _sync(place.parent)


@contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> "Iterator[Path]":
    """Give a new folder that becomes ``path`` on success, replacing an older one, and is removed on failure.

    Raises
    ------
    InputError
        The folder cannot be written; what was at ``path`` before is still there.
    """
    with writing(path):
        path = followed(Path(path))
    with _temporary_folder(path) as folder, writing(path):
        temporary = folder / path.name
        temporary.mkdir()
        yield temporary
        for part in (*temporary.rglob("*"), temporary):
            _sync(part)
        # A folder cannot be replaced in one call: the old one is moved away first, and back if the new one fails.
        if path.exists():
            path.rename(folder / OLD)
        try:
            temporary.rename(path)
        except OSError:
            _restore(folder, path)
            raise
        _sync(path.parent)


def followed(path: Path) -> Path:
    """Give the place that a symbolic link leads to, which may not exist yet; any other path as it is.

    Raises
    ------
    OSError
        The link leads back to itself.
    """
    if not path.is_symlink():
        return path
    target = Path(os.path.realpath(path))
    if target.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    return target


def umask() -> int:
    """Give the permissions that new files of this process do not get; it can be read only by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


@contextmanager
def _temporary_folder(path: Path) -> "Iterator[Path]":
    """Make a locked folder beside an output to write it in, and remove those that killed processes left."""
    with writing(path):
        remove_stale_temporaries(path)
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent))
    try:
        with ExitStack() as held:
            with writing(path):
                lock = held.enter_context(open(folder / f"{LOCK}ing", "wb"))
                _try_lock(lock)
                (folder / f"{LOCK}ing").rename(folder / LOCK)  # other processes see it locked only
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_stale_temporaries(path: Path) -> None:
    """Remove the temporary folders of killed processes beside an output; restore a folder that one had moved away."""
    for folder in path.parent.glob(f".{_glob_pattern(path.name)}.*.part"):
        try:
            with open(folder / LOCK, "r+b") as lock:
                dead = _try_lock(lock)
        except FileNotFoundError:
            dead = fcntl is not None and time.time() - folder.stat().st_mtime > UNLOCKED_FOR
        except OSError:
            dead = False
        if dead:
            _restore(folder, path)
            shutil.rmtree(folder, ignore_errors=True)


def _try_lock(lock: IO[bytes]) -> bool:
    """Take a lock if no process holds it; False if one does, or if the file system has no locks."""
    try:
        if fcntl is not None:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return fcntl is not None
    except OSError:
        return False


def _restore(folder: Path, path: Path) -> None:
    if (folder / OLD).exists() and not path.exists():
        (folder / OLD).rename(path)


def _glob_pattern(name: str) -> str:
    """Give the glob pattern that matches a file's name alone."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def check_output(output: str | os.PathLike[str], *inputs: str | os.PathLike[str]) -> None:
    """Refuse an output that is an input, or that cannot be written, before any work is done.

    Raises
    ------
    InputError
        The output names one of the inputs, a folder or a device, or its folder is missing or read-only.
    """
    output = Path(output)
    for other in inputs:
        if os.path.realpath(output) == os.path.realpath(other):
            raise InputError(f"{output}: the output is also an input, or another output; give the output another name")
    if output.is_dir():
        raise InputError(f"{output}: is a folder; name a file in it")
    if output.exists() and not output.is_file():
        raise InputError(f"{output}: is not a regular file; give the output another name")
    with writing(output):
        folder = followed(output).parent
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; create it first")
    if not os.access(folder, os.W_OK):
        raise InputError(f"{folder}: folder is not writable; choose another output")


def check_model_dir(path: str | os.PathLike[str]) -> None:
    """Refuse a model folder that cannot be written, before the training.

    Raises
    ------
    InputError
        A file has that name, or a folder that holds no model, or the parent folder is missing or read-only.
    """
    path = Path(path)
    if path.is_dir() and any(path.iterdir()) and not (path / "config.yaml").is_file():
        raise InputError(f"{path}: is a folder, but not of a model; give another name")
    check_output(path / "model.safetensors" if path.is_dir() else path)
    if path.is_file():
        raise InputError(f"{path}: is a file; a model is a folder: give another name")


def write_texts(files: "Mapping[Path, str]") -> None:
    """Write several text files: all are complete, or none is there."""
    with atomic_files(list(files)) as temporaries:
        for path, temporary in zip(files, temporaries, strict=True):
            with writing(path):
                temporary.write_text(files[path], encoding="utf-8")


def check_space(path: str | os.PathLike[str], need: float) -> None:
    """Refuse an output of ``need`` bytes if the file system has less space.

    Raises
    ------
    InputError
        There is less space.
    """
    free = shutil.disk_usage(followed(Path(path)).parent).free
    if need > free:
        raise InputError(
            f"{path}: needs about {need / 2**30:.1f} GiB, found {free / 2**30:.1f} GiB free; "
            "free space or choose another place"
        )
