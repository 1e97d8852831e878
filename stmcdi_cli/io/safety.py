"""Checks of files from elsewhere before they are read: they may be damaged, or made to do harm.

A small file can declare arrays larger than any memory, link to other files, or link in a circle. anndata, scanpy and
Space Ranger write none of this, so it is refused.
"""

import faulthandler
import json
import os
import re
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stmcdi_cli.errors import InputError, one_line
from stmcdi_cli.io.text import read_text

if TYPE_CHECKING:
    import h5py


MAX_OBJECTS = 100_000
"""Groups and data sets in a file, attributes of an object, and values of an attribute."""
MAX_DEPTH = 32
"""Groups within each other."""
MAX_CHUNK = 2**30
"""Bytes of a chunk, which is decompressed as a whole."""
MAX_RATIO = 1100
"""Bytes that one stored byte can decompress to: gzip reaches 1032."""
SMALL_ARRAY = 2**24
"""Bytes of an array that is allowed whatever its ratio: nothing is stored of one that was never written."""
TEXT_SIZE = 64
"""Bytes of memory that a text of variable length is estimated to take."""
CODECS = {
    *("blosc", "bz2", "gzip", "lz4", "lzma", "zlib", "zstd"),
    *("bytes", "crc32", "crc32c", "delta", "sharding_indexed", "shuffle", "transpose", "vlen-bytes", "vlen-utf8"),
}
"""Allowed codecs of zarr arrays: those that decode to numbers and text."""
TIME_LIMIT = 20
"""Seconds of processor time for reading attributes and texts by HDF5, ..."""
TEXT_RATE = 2**23
"""... and one second more for each of so many bytes of the file."""
WALL_PER_PROCESSOR = 30
"""Seconds by the clock for each second of processor time that is allowed.

A sound file may be read by a process that shares its core with many others, or that waits for a slow disk. Much too
long only delays the error about a file on which HDF5 hangs; too short refuses a sound file."""
EXTRA_MEMORY = 2**30
"""Bytes that reading may take beside four times the size of the arrays."""


def check_hdf5(file: "h5py.File") -> int:
    """Walk through an open HDF5 file without reading its numbers.

    Returns
    -------
    Bytes that all of its arrays take in memory.

    Raises
    ------
    InputError
        The file has links, is nested too deeply, holds other data than numbers and text, declares much more than it
        stores, is compressed in a way that cannot be read here, or is so damaged that HDF5 crashes or hangs.
    """
    seconds = TIME_LIMIT + os.path.getsize(file.filename) // TEXT_RATE
    if not completes_in_subprocess(lambda: _read_texts(file), seconds):
        raise InputError(f"{file.filename}: damaged (reading it does not end); make the file again")
    try:
        return sum(_sizes(file))
    except _Refusal as refusal:
        raise InputError(f"{file.filename}: {refusal}; write it again with anndata") from refusal
    except Exception as error:  # of any type: the file is the cause
        raise InputError(f"{file.filename}: damaged ({one_line(error)}); make the file again") from error


def _read_texts(file: "h5py.File") -> None:
    """Read attributes and texts: in a damaged file, HDF5 may hang or crash on where these are stored."""
    import h5py

    def read(_: str, thing: "h5py.Group | h5py.Dataset") -> None:
        with suppress(Exception):  # raised again, and reported, when the file is read
            dict(thing.attrs)
            if isinstance(thing, h5py.Dataset) and h5py.check_string_dtype(thing.dtype) is not None:
                thing[()]

    with memory_limited(sum(_sizes(file))):
        read("", file)
        file.visititems(read)


class _Refusal(Exception):
    """Why a file is refused."""


def _sizes(root: "h5py.Group") -> Iterator[int]:
    """Yield the bytes of every data set below a group; refuse links, depth and objects that AnnData does not have."""
    import h5py

    waiting: list[tuple[h5py.Group, int]] = [(root, 0)]
    seen = {h5py.h5o.get_info(root.id).addr}
    _check_attributes(root)
    while waiting:
        group, depth = waiting.pop()
        if depth > MAX_DEPTH:
            raise _Refusal(f"expected at most {MAX_DEPTH} groups within each other, found more")
        if len(group) + len(seen) > MAX_OBJECTS:
            raise _Refusal(f"expected at most {MAX_OBJECTS} groups and data sets, found more")
        for name in group:
            where = f"{group.name.rstrip('/')}/{name}"
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise _Refusal(f"expected no links, found one at {where}")
            thing = group[name]
            address = h5py.h5o.get_info(thing.id).addr
            if address in seen:
                raise _Refusal(f"expected one name for each object, found a second one at {where}")
            seen.add(address)
            _check_attributes(thing)
            if isinstance(thing, h5py.Group):
                waiting.append((thing, depth + 1))
            elif isinstance(thing, h5py.Dataset):
                yield _size(thing, where)
            else:
                raise _Refusal(f"expected groups and data sets only, found a named type at {where}")


def _check_attributes(thing: "h5py.Group | h5py.Dataset") -> None:
    import h5py

    if len(thing.attrs) > MAX_OBJECTS:
        raise _Refusal(f"expected at most {MAX_OBJECTS} attributes at {thing.name}, found more")
    for name in thing.attrs:
        attribute = h5py.h5a.open(thing.id, name.encode("utf-8", "surrogateescape"))
        if prod(attribute.shape) > MAX_OBJECTS:
            raise _Refusal(f"expected short attributes, found a long one, {name}, at {thing.name}")


def _size(dataset: "h5py.Dataset", where: str) -> int:
    """Give the bytes of a data set in memory; refuse one that is stored elsewhere, or declares more than it stores."""
    import h5py

    if dataset.is_virtual or dataset.external:
        raise _Refusal(f"expected all data within the file, found those of {where} outside")
    _check_type(dataset.id.get_type(), where)
    if dataset.shape is None:
        return 0
    properties = dataset.id.get_create_plist()
    for number in range(properties.get_nfilters()):
        code, _, _, title = properties.get_filter(number)
        if not h5py.h5z.filter_avail(code):
            name = title.decode("ascii", "replace").split(";")[0] or "number"
            raise _Refusal(f"expected compression with gzip, found filter {name} ({code}) at {where}")
    width = dataset.id.get_type().get_size()
    text = h5py.check_string_dtype(dataset.dtype)
    size = prod(dataset.shape) * (TEXT_SIZE if text is not None and text.length is None else width)
    stored = dataset.id.get_storage_size()
    if size > SMALL_ARRAY + MAX_RATIO * stored:
        raise _Refusal(f"expected as much as is declared, found {stored} bytes stored for {size} at {where}")
    if prod(dataset.chunks or ()) * width > MAX_CHUNK:
        raise _Refusal(f"expected chunks of at most 1 GiB, found a larger one at {where}")
    return size


def _check_type(kind: Any, where: str) -> None:
    """Refuse a type that is neither numbers nor text, nor a compound or array of these."""
    from h5py import h5t

    if isinstance(kind, h5t.TypeCompoundID):
        for member in range(kind.get_nmembers()):
            _check_type(kind.get_member_type(member), where)
    elif isinstance(kind, h5t.TypeArrayID):
        _check_type(kind.get_super(), where)
    elif kind.get_class() not in (h5t.INTEGER, h5t.FLOAT, h5t.STRING, h5t.ENUM):
        raise _Refusal(f"expected numbers and text, found another kind of data at {where}")


def check_zarr(path: Path, within: str = "") -> int:
    """Check the metadata of a zarr store, of format 2 or 3.

    Parameters
    ----------
    path
        The store.
    within
        Folder of it whose arrays are going to be read.

    Returns
    -------
    Bytes that the arrays in that folder take in memory.

    Raises
    ------
    InputError
        The store has links, or an array has a codec that is not in `CODECS` (pickle would run code of the file).
    """
    size = 0
    try:
        for folder, folders, files in _walk(path):
            linked = [name for name in (*folders, *files) if (folder / name).is_symlink()]
            if linked:
                raise _Refusal(f"expected no links, found one at {folder / linked[0]}")
            for name in set(files) & {"zarr.json", ".zarray", ".zmetadata"}:
                arrays = list(_arrays(json.loads(read_text(folder / name)), str(folder)))
                if folder.is_relative_to(path / within) and name != ".zmetadata":
                    size += sum(arrays)
    except _Refusal as refusal:
        raise InputError(f"{path}: {refusal}; write it again") from refusal
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise InputError(f"{path}: damaged ({one_line(error)}); make the store again") from error
    return size


def _walk(path: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    for folder, folders, files in os.walk(path):
        yield Path(folder), folders, files


def _arrays(content: Any, where: str) -> Iterator[int]:
    """Yield the bytes of every array that JSON describes, at any depth; refuse codecs that are not in `CODECS`."""
    if isinstance(content, list):
        for item in content:
            yield from _arrays(item, where)
    if not isinstance(content, dict):
        return
    for key in ("filters", "compressor", "codecs"):
        codecs = content.get(key) or []
        for codec in codecs if isinstance(codecs, list) else [codecs]:
            name = str(codec.get("id", codec.get("name")) if isinstance(codec, dict) else codec)
            if name.removeprefix("numcodecs.") not in CODECS:
                raise _Refusal(f"expected a known codec, found {name[:60]} in {where}")
    if "shape" in content and ("dtype" in content or "data_type" in content):
        width = re.search(r"\d+$", str(content.get("dtype", content.get("data_type"))))
        bytes_each = int(width[0]) // (8 if "data_type" in content else 1) if width else TEXT_SIZE
        chunk = content["chunks"] if "chunks" in content else content["chunk_grid"]["configuration"]["chunk_shape"]
        if prod(chunk) * bytes_each > MAX_CHUNK:
            raise _Refusal(f"expected chunks of at most 1 GiB, found a larger one in {where}")
        yield prod(content["shape"]) * max(1, bytes_each)
    for key, value in content.items():
        if key != "attributes" and not key.endswith(".zattrs"):
            yield from _arrays(value, where)


@contextmanager
def memory_limited(size: int) -> Iterator[None]:
    """Limit the memory of this process while it reads arrays of ``size`` bytes; beyond it, MemoryError (Linux only).

    HDF5 can store a text once and refer to it many times, so the memory that texts take is unknown before they are
    read.
    """
    try:
        import resource

        import pandas as pd

        pd.Index(["text"])  # pandas 3 keeps texts in Arrow, whose allocator takes 1 GiB of addresses at its first use
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        now = int(Path("/proc/self/statm").read_text("ascii").split()[0]) * resource.getpagesize()
    except (ImportError, OSError, ValueError):  # not Linux
        yield
        return
    most = now + 4 * size + EXTRA_MEMORY
    others = [limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_AS, (min([most, *others]), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def completes_in_subprocess(action: Callable[[], object], seconds: int, wall: float | None = None) -> bool:
    """Try an action in a copy of this process (``fork``): whether it ends, with or without an exception.

    Parameters
    ----------
    action
        What to try; nothing of what it does is kept.
    seconds
        Processor time that it may take.
    wall
        Seconds by the clock that it may take, for an action that waits; by default `WALL_PER_PROCESSOR` times as many.

    Returns
    -------
    False if it took longer, and was killed, or if it crashed. True also where there is no ``fork``, or where the system
    killed the copy, for lack of memory perhaps: that says nothing about the action.
    """
    try:
        import resource
    except ImportError:  # Windows
        return True
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the copy has no threads but this one, and needs none
        copy = os.fork()
    if copy:
        status = _wait(copy, WALL_PER_PROCESSOR * seconds if wall is None else wall)
        return status is not None and (os.WIFEXITED(status) or os.WTERMSIG(status) == signal.SIGKILL)
    try:
        faulthandler.disable()
        for kind, most in ((resource.RLIMIT_CPU, seconds), (resource.RLIMIT_CORE, 0)):
            hard = resource.getrlimit(kind)[1]
            resource.setrlimit(kind, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
        action()
    except BaseException:  # noqa: BLE001 - it is raised again, and reported, when this process does the same
        pass
    finally:
        os._exit(0)


def _wait(child: int, seconds: float) -> int | None:
    """Give the exit status of a child process; None, and the child killed, if it has not ended in time.

    Time is counted in naps, not by the clock: a batch system may suspend this process and its child for hours.
    """
    waited, nap = 0.0, 0.001
    ended, status = 0, 0
    try:
        while not ended and waited < seconds:
            ended, status = os.waitpid(child, os.WNOHANG)
            if not ended:
                time.sleep(nap)
                waited, nap = waited + nap, min(2 * nap, 0.05)
        return status if ended else None
    finally:  # also if a signal ends the waiting
        if not ended:
            with suppress(ProcessLookupError, ChildProcessError):
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
