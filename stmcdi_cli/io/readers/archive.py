"""Zarr stores in one ``.zip`` file, as instruments and viewers write them."""

import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from stmcdi_cli.errors import InputError, in_file
from stmcdi_cli.io import safety
from stmcdi_cli.io.text import MAX_SIZE

MARKS = ("zarr.json", ".zgroup", ".zattrs", ".zmetadata")
"""Files at the top of a store."""


def is_archive(path: Path) -> bool:
    """Whether a path is a ``.zip`` file."""
    return path.is_file() and path.name.lower().endswith(".zip") and zipfile.is_zipfile(path)


def first_level(path: Path) -> tuple[list[str], set[str]]:
    """Give the texts that say what a zipped store is, and the names at its top; none where it is no store."""
    try:
        with zipfile.ZipFile(path) as archive:
            top = _top(archive)
            names = [name.removeprefix(top) for name in archive.namelist() if name.startswith(top)]
            texts = [name for name in MARKS[:3] if name in names and archive.getinfo(top + name).file_size < MAX_SIZE]
            content = [archive.read(top + name).decode("utf-8", "replace") for name in texts]
    except Exception:  # noqa: BLE001 - a damaged archive raises many kinds
        return [], set()
    return content, {name.partition("/")[0] for name in names}


@contextmanager
def unpacked(path: Path) -> Iterator[Path]:
    """Give a store as a folder: itself, or a temporary one with what the archive holds.

    Raises
    ------
    InputError
        The archive is damaged, holds much more than its size, or names files outside of itself.
    """
    if not path.is_file():
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="stmcdi-") as folder:
        with in_file(path, "cannot be unpacked", "make the archive again"), zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
            size = sum(member.file_size for member in members)
            if len(members) > safety.MAX_OBJECTS * 10 or size > safety.MAX_RATIO * path.stat().st_size:
                raise InputError(
                    f"{path}: expected a zarr store, found {len(members)} files of {size} bytes in it; unpack it"
                )
            if size > shutil.disk_usage(folder).free:
                raise InputError(f"{path}: {size / 2**30:.1f} GiB do not fit in {folder}; set TMPDIR to a larger disk")
            for member in members:
                parts = PurePosixPath(member.filename).parts
                if ".." in parts or PurePosixPath(member.filename).is_absolute():
                    raise InputError(
                        f"{path}: expected files within the archive, found {ascii(member.filename)[:60]}; make it again"
                    )
                archive.extract(member, folder)
            top = _top(archive)
        yield Path(folder) / top if top else Path(folder)


def _top(archive: zipfile.ZipFile) -> str:
    """Folder of the archive that the store lies in: its least deep one with the mark of a store."""
    tops = [name[: name.rindex("/") + 1] if "/" in name else "" for name in archive.namelist() if name.endswith(MARKS)]
    return min(tops, key=lambda top: (top.count("/"), top), default="")
