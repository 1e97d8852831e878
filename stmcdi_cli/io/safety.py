"""What a file says it holds, looked at before any of it is read: a file from elsewhere may be made to do harm.

A small file can declare arrays larger than any memory, point to other files, or go round in circles. Nothing of that is
in what anndata, scanpy or Space Ranger write, so it is refused.
"""

import faulthandler
import json
import os
import re
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stmcdi_cli.errors import InputError
from stmcdi_cli.io.text import read_text

if TYPE_CHECKING:
    import h5py


MOST_OBJECTS = 100_000
"""Groups and data sets in a file, and attributes of one of them."""
DEEPEST = 32
"""Groups within each other."""
PACKED = 1100
"""Bytes that a stored byte can stand for: gzip packs at most 1032 to 1."""
SMALL = 2**24
"""Bytes of an array that are never too many, however few are stored."""
LARGEST_CHUNK = 2**30
"""Bytes that have to be unpacked at one time."""
TEXT = 64
"""Bytes that a short text takes in memory."""
CODECS = {
    *("blosc", "bz2", "gzip", "lz4", "lzma", "zlib", "zstd"),
    *("bytes", "crc32", "crc32c", "delta", "sharding_indexed", "shuffle", "transpose", "vlen-bytes", "vlen-utf8"),
}
"""Ways in which zarr packs numbers and text."""
PATIENCE = 20
"""Seconds of a processor's time in which HDF5 has to have read all that is not numbers..."""
TEXT_RATE = 2**23
"""... and one more for so many bytes of the file."""
WORKING_ROOM = 2**30
"""Bytes that reading may take beside a few times what it reads."""


def check_hdf5(file: "h5py.File") -> int:
    """Walk through an open HDF5 file without reading its numbers.

    Returns
    -------
    Bytes that all of its arrays take in memory.

    Raises
    ------
    InputError
        The file links to others or in circles, is nested too deeply, holds kinds of data that no table has, declares
        much more than it stores, is packed in a way that cannot be unpacked here, or is so damaged that HDF5 never
        comes to its end with it.
    """
    patience = PATIENCE + os.path.getsize(file.filename) // TEXT_RATE
    if not ends(lambda: _read_texts(file), patience):
        raise InputError(f"{file.filename}: damaged (reading it does not end); make the file again")
    try:
        return sum(_sizes(file))
    except _Refusal as refusal:
        raise InputError(f"{file.filename}: {refusal}; write it again with anndata") from refusal
    except Exception as error:  # whatever HDF5 trips over, the file is what is wrong
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{file.filename}: damaged ({reason}); make the file again") from error


def _read_texts(file: "h5py.File") -> None:
    """Read attributes and texts, whose storage HDF5 follows without asking where it leads."""
    import h5py

    def read(_: str, thing: "h5py.Group | h5py.Dataset") -> None:
        with suppress(Exception):  # what can be caught is told of later
            dict(thing.attrs)
            if isinstance(thing, h5py.Dataset) and h5py.check_string_dtype(thing.dtype) is not None:
                thing[()]

    with bounded(sum(_sizes(file))):
        read("", file)
        file.visititems(read)


class _Refusal(Exception):
    """Why a file is refused."""


def _sizes(root: "h5py.Group") -> Iterator[int]:
    """Bytes of every data set below a group, each object visited once; refuses what does not belong there."""
    import h5py

    waiting: list[tuple[h5py.Group, int]] = [(root, 0)]
    seen = {h5py.h5o.get_info(root.id).addr}
    _check_attributes(root)
    while waiting:
        group, depth = waiting.pop()
        if depth > DEEPEST:
            raise _Refusal(f"expected at most {DEEPEST} groups within each other, found more")
        if len(group) + len(seen) > MOST_OBJECTS:
            raise _Refusal(f"expected at most {MOST_OBJECTS} groups and data sets, found more")
        for name in group:
            where = f"{group.name.rstrip('/')}/{name}"
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise _Refusal(f"expected no links, found one at {where}")
            thing = group[name]
            address = h5py.h5o.get_info(thing.id).addr
            if address in seen:
                raise _Refusal(f"expected every part once, found another name for one at {where}")
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

    if len(thing.attrs) > MOST_OBJECTS:
        raise _Refusal(f"expected at most {MOST_OBJECTS} attributes at {thing.name}, found more")
    for name in thing.attrs:
        attribute = h5py.h5a.open(thing.id, name.encode("utf-8", "surrogateescape"))
        if prod(attribute.shape) > MOST_OBJECTS:
            raise _Refusal(f"expected short attributes, found a long one, {name}, at {thing.name}")


def _size(dataset: "h5py.Dataset", where: str) -> int:
    """Bytes that a data set takes in memory; refuses one that cannot be what it seems."""
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
            raise _Refusal(f"expected packing with gzip, found filter {name} ({code}) at {where}")
    width = dataset.id.get_type().get_size()
    text = h5py.check_string_dtype(dataset.dtype)
    size = prod(dataset.shape) * (TEXT if text is not None and text.length is None else width)
    if size > SMALL + PACKED * dataset.id.get_storage_size():
        raise _Refusal(
            f"expected as much as is declared, found {dataset.id.get_storage_size()} bytes stored for {size} at {where}"
        )
    if prod(dataset.chunks or ()) * width > LARGEST_CHUNK:
        raise _Refusal(f"expected chunks of at most 1 GiB, found a larger one at {where}")
    return size


def _check_type(kind: Any, where: str) -> None:
    """Refuse what is neither number nor text, nor a row of those."""
    from h5py import h5t

    if isinstance(kind, h5t.TypeCompoundID):
        for member in range(kind.get_nmembers()):
            _check_type(kind.get_member_type(member), where)
    elif isinstance(kind, h5t.TypeArrayID):
        _check_type(kind.get_super(), where)
    elif kind.get_class() not in (h5t.INTEGER, h5t.FLOAT, h5t.STRING, h5t.ENUM):
        raise _Refusal(f"expected numbers and text, found another kind of data at {where}")


def check_zarr(path: Path, within: str = "") -> int:
    """Look through the metadata of a zarr store, of format 2 or 3.

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
        The store has links, or an array is packed in a way that is not plain data (pickle runs what it is told to).
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
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: damaged ({reason}); make the store again") from error
    return size


def _walk(path: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    for folder, folders, files in os.walk(path):
        yield Path(folder), folders, files


def _arrays(content: Any, where: str) -> Iterator[int]:
    """Bytes of every array that JSON describes, at any depth; refuses those that are not plain data."""
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
                raise _Refusal(f"expected usual ways of packing, found {name[:60]} in {where}")
    if "shape" in content and ("dtype" in content or "data_type" in content):
        width = re.search(r"\d+$", str(content.get("dtype", content.get("data_type"))))
        bytes_each = int(width[0]) // (8 if "data_type" in content else 1) if width else TEXT
        chunk = content["chunks"] if "chunks" in content else content["chunk_grid"]["configuration"]["chunk_shape"]
        if prod(chunk) * bytes_each > LARGEST_CHUNK:
            raise _Refusal(f"expected chunks of at most 1 GiB, found a larger one in {where}")
        yield prod(content["shape"]) * max(1, bytes_each)
    for key, value in content.items():
        if key != "attributes" and not key.endswith(".zattrs"):
            yield from _arrays(value, where)


@contextmanager
def bounded(size: int) -> Iterator[None]:
    """Let the process take a few times ``size`` bytes more than it has, then MemoryError; where the system can.

    Texts may be told of many times and stored once, so that no one knows their size before they are read.
    """
    try:
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        now = int(Path("/proc/self/statm").read_text("ascii").split()[0]) * resource.getpagesize()
    except (ImportError, OSError, ValueError):  # only Linux tells
        yield
        return
    most = now + 4 * size + WORKING_ROOM
    others = [limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_AS, (min([most, *others]), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def ends(action: Callable[[], object], seconds: int) -> bool:
    """Whether an action comes to its end, with or without an exception, in a copy of this process.

    Parameters
    ----------
    action
        What to try; nothing of what it does is kept.
    seconds
        Of a processor's time that it may take.

    Returns
    -------
    False where it took longer or crashed. True where the system knows no such copies, or killed this one, for memory
    perhaps, which says nothing of the action.
    """
    try:
        import resource
    except ImportError:
        return True
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # threads do not come along, and none is needed
        copy = os.fork()
    if copy:
        status = os.waitpid(copy, 0)[1]
        return os.WIFEXITED(status) or os.WTERMSIG(status) == signal.SIGKILL
    try:
        faulthandler.disable()
        for kind, most in ((resource.RLIMIT_CPU, seconds), (resource.RLIMIT_CORE, 0)):
            hard = resource.getrlimit(kind)[1]
            resource.setrlimit(kind, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
        action()
    except BaseException:  # noqa: BLE001 - it will come again where it can be told
        pass
    finally:
        os._exit(0)
