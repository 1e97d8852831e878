"""Read AnnData in zarr stores, of any version, also zipped."""

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stmcdi_cli import resources
from stmcdi_cli.errors import InputError, in_file
from stmcdi_cli.io import safety
from stmcdi_cli.io.readers import archive
from stmcdi_cli.io.readers.reader import Options, Reading
from stmcdi_cli.io.text import read_text

THREADS = 2**30
"""Bytes of address space that zarr's threads take beside the data."""


def kind(path: Path) -> str | None:
    """Give the format of a store by its top: ``zarr`` (AnnData), ``spatialdata``, or None if it is neither."""
    if archive.is_archive(path):
        texts, parts = archive.first_level(path)
    elif path.is_dir():
        texts = []
        for name in ("zarr.json", ".zattrs"):  # of zarr's formats 3 and 2
            try:
                texts.append(read_text(path / name))
            except (OSError, ValueError):
                continue
        is_store = any((path / name).is_file() for name in archive.MARKS)
        parts = {part.name for part in path.iterdir()} if is_store else set()
    else:
        return None
    attributes: dict[str, Any] = {}
    for text in texts:
        try:
            content = json.loads(text)
        except (ValueError, RecursionError):
            continue
        found = content.get("attributes", content) if isinstance(content, dict) else {}
        attributes |= found if isinstance(found, dict) else {}
    elements = {"shapes", "labels", "images", "points"} & parts
    if "spatialdata_attrs" in attributes or ({"tables", "table"} & parts and elements):
        return "spatialdata"
    # Before version 0.8, anndata wrote no attributes at the top.
    return "zarr" if attributes.get("encoding-type") == "anndata" or {"obs", "var"} <= parts else None


def recognises(path: Path) -> bool:
    """Whether a path is AnnData in zarr."""
    return kind(path) == "zarr"


def read(path: Path, options: Options) -> Reading:
    """Read AnnData from a zarr store."""
    import anndata

    with (
        archive.unpacked(path) as folder,
        open_group(folder, path),
        in_file(path, "cannot be read as AnnData", "write it again with anndata"),
    ):
        return Reading(anndata.read_zarr(folder), path)


@contextmanager
def open_group(folder: Path, path: Path, within: str = "") -> Iterator[Any]:
    """Open a checked store with memory limited to what its arrays take, or those in one of its folders.

    Parameters
    ----------
    folder, path
        The store, and what the user calls it.
    within
        Folder of the store whose arrays are going to be read.
    """
    with in_file(path):
        size = safety.check_zarr(folder, within)
    resources.check_fits(str(path), size)
    try:
        import zarr
    except ImportError as error:
        raise InputError(f"{path}: reading zarr needs its package; pip install 'stmcdi[zarr]'") from error
    with safety.memory_limited(size + THREADS), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with in_file(path, "cannot be read as zarr", "make the store again"):
            group = zarr.open_group(str(folder), mode="r")
        yield group
