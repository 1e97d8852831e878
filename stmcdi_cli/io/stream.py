"""Tissues larger than memory: matrices stay in their files, and are read and written a few spots at a time.

`open_h5ad` gives an AnnData object whose matrices of spots x genes (``X``, layers, ``raw``) are still on disk; all else
grows with spots or with genes but not with both, and is in memory. A step that works this way makes a `Stream`:
blocks of rows, one after the other. `to_memory` puts them together in memory, `write` in a file: the content is the
same, whatever the size of the blocks.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from stmcdi_cli import anndata_keys as keys
from stmcdi_cli.io import elements
from stmcdi_cli.io.elements import COMPRESSION
from stmcdi_cli.io.h5ad import DeferredErrorFile, matrices, place, shallow_copy, write_matrix
from stmcdi_cli.io.output import atomic_files, check_space, writing
from stmcdi_cli.sparse import layers_of, on_disk, vstack

if TYPE_CHECKING:
    import h5py
    from anndata import AnnData


Block = Mapping[str | None, "sp.csr_matrix | np.ndarray"]
"""Rows of several matrices by their names: `anndata_keys.X`, those of layers, `anndata_keys.RAW_X`."""

MATRIX_COMPRESSION = {**COMPRESSION, "shuffle": True}
CHUNK = 2**16
"""Roughly how many numbers HDF5 compresses at a time."""
CACHE = 2**21
"""Bytes of a data set that HDF5 caches, so that a chunk shared by two blocks is compressed once."""


@dataclass
class Stream:
    """What a step makes of a tissue.

    Attributes
    ----------
    header
        All but the new matrices. Matrices in it are copied as they are. It may be changed until the last of the
        `blocks` is made, not later.
    blocks
        The new matrices from the first spot to the last, every block with the same keys; each is CSR or dense.
    size
        Bytes that the new matrices will take on disk, roughly.
    """

    header: "AnnData"
    blocks: Iterable[Block]
    size: float = 0


def to_memory(stream: Stream) -> "AnnData":
    """Put a stream together in memory."""
    blocks, header = list(stream.blocks), stream.header
    made = {name: vstack([block[name] for block in blocks]) for name in (blocks[0] if blocks else ())}
    changed: dict[str, Any] = {"X": made.pop(keys.X, header.X)}
    if keys.RAW_X in made:
        changed["raw"] = {"X": made.pop(keys.RAW_X), "var": header.raw.var, "varm": dict(header.raw.varm)}
    return shallow_copy(header, layers={**layers_of(header), **made}, **changed)


def write(files: "Mapping[Path, Stream]") -> None:
    """Write several streams, block by block, side by side: all files are complete, or none is there.

    Raises
    ------
    InputError
        A file cannot be written, there is too little space for it, or the input holds what h5ad files do not.
    """
    for path, stream in files.items():
        elements.check_parts(stream.header)
        check_space(path, sum(map(disk_usage, matrices(stream.header).values())) + stream.size)
    with atomic_files(list(files)) as temporaries, ExitStack() as stack:
        writers = [
            stack.enter_context(_growing(path, temporary, stream.header))
            for (path, stream), temporary in zip(files.items(), temporaries, strict=True)
        ]
        for blocks in zip(*(stream.blocks for stream in files.values()), strict=True):
            for writer, block in zip(writers, blocks, strict=True):
                writer.append(block)
        for writer in writers:
            writer.finish()


@contextmanager
def _growing(path: Path, temporary: Path, header: "AnnData") -> "Iterator[_Writer]":
    with writing(path), DeferredErrorFile(temporary) as raw, raw.hdf5(rdcc_nbytes=CACHE) as file:
        yield _Writer(raw, file, header)


class _Writer:
    """An h5ad file that grows block by block.

    Parameters
    ----------
    raw, file
        Open for writing, and empty; and the HDF5 file in it.
    header
        All that is written beside the blocks.
    """

    def __init__(self, raw: DeferredErrorFile, file: "h5py.File", header: "AnnData") -> None:
        self.raw, self.file, self.header = raw, file, header
        self.growing: dict[str | None, _GrowingCsr | _GrowingArray] = {}
        elements.begin(file, header)
        for name, matrix in matrices(header).items():
            if on_disk(matrix):
                element = getattr(matrix, "group", matrix)
                element.file.copy(element, file, name="/".join(place(name)))
            else:
                write_matrix(file, name, matrix, **MATRIX_COMPRESSION)

    def append(self, block: Block) -> None:
        for name, rows in block.items():
            if name not in self.growing:
                key = "/".join(place(name))
                if key in self.file:  # raw cannot be without X, so that the header has a placeholder
                    del self.file[key]
                kind = _GrowingCsr if sp.issparse(rows) else _GrowingArray
                self.growing[name] = kind(self.file, key, rows, self.header.n_obs)
            self.growing[name].append(rows)
        self.raw.check()  # so that a full disk ends the work now, not hours later

    def finish(self) -> None:
        for matrix in self.growing.values():
            matrix.finish()
        elements.write_parts(self.file, self.header)


class _GrowingCsr:
    """A CSR matrix in a file, as anndata writes it.

    anndata's ``sparse_dataset(group).append`` would do, but it opens the data sets anew and reads the whole ``indptr``
    at every block: 1,000,000 spots x 1,000 genes in blocks of 256 spots take 26 s of CPU time with it, and 3 s here.
    """

    def __init__(self, file: "h5py.File", key: str, first: sp.csr_matrix, n_spots: int) -> None:
        self.group = file.create_group(key)
        self.group.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0"})
        self.group.attrs["shape"] = (n_spots, first.shape[1])
        growing = {"shape": (0,), "maxshape": (None,), "chunks": (CHUNK,), **MATRIX_COMPRESSION}
        self.data = self.group.create_dataset("data", dtype=first.dtype, **growing)
        self.indices = self.group.create_dataset("indices", dtype=np.int32, **growing)
        self.lengths = [np.zeros(1, np.int64)]

    def append(self, rows: sp.csr_matrix) -> None:
        start = self.data.shape[0]
        for dataset, values in ((self.data, rows.data), (self.indices, rows.indices)):
            dataset.resize(start + values.size, 0)
            dataset[start:] = values
        self.lengths.append(np.diff(rows.indptr))

    def finish(self) -> None:
        indptr = np.cumsum(np.concatenate(self.lengths))
        kind = np.int32 if indptr[-1] < 2**31 else np.int64
        self.group.create_dataset("indptr", data=indptr.astype(kind), **COMPRESSION)


class _GrowingArray:
    """A dense matrix in a file."""

    def __init__(self, file: "h5py.File", key: str, first: np.ndarray, n_spots: int) -> None:
        n_columns = first.shape[1]
        chunks = (min(n_spots, max(1, CHUNK // n_columns)), n_columns)
        self.data = file.create_dataset(key, (n_spots, n_columns), first.dtype, chunks=chunks, **MATRIX_COMPRESSION)
        self.data.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
        self.start = 0

    def append(self, rows: np.ndarray) -> None:
        self.data[self.start : self.start + len(rows)] = rows
        self.start += len(rows)

    def finish(self) -> None:
        assert self.start == self.data.shape[0], "each spot needs a row"


def disk_size(n_values: float, n_missing: float = 0, n_dense: float = 0) -> float:
    """Bytes that matrices will take on disk, roughly: entries of sparse ones, of masks, and of dense ones."""
    return 4 * n_values + n_missing + 4 * n_dense


def disk_usage(matrix: Any) -> float:
    """Bytes that a matrix takes on disk, or would take at the usual rate of compression."""
    if hasattr(matrix, "group"):
        return sum(part.id.get_storage_size() for part in matrix.group.values())
    if on_disk(matrix):
        return matrix.id.get_storage_size()
    return disk_size(matrix.nnz) if sp.issparse(matrix) else disk_size(0, 0, np.size(matrix))
