"""Tissues larger than memory: matrices stay in their files, and are read and written a few spots at a time.

`opened` gives an AnnData object whose matrices of spots x genes (``X``, layers, ``raw``) are still on disk; all else
grows with spots or with genes but not with both, and is in memory. A step that works this way makes a `Stream`:
blocks of rows, one after the other. `gathered` puts them together in memory, `write` in a file: the content is the
same, whatever the size of the blocks.
"""

import os
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from stmcdi_cli import contract, memory, structure
from stmcdi_cli.errors import InputError
from stmcdi_cli.io import (
    COMPRESSION,
    PatientFile,
    check_output,
    hdf5_of,
    naming,
    note_input,
    read_h5ad,
    reading,
    shallow_copy,
    write_part,
)
from stmcdi_cli.sparse import on_disk
from stmcdi_cli.whole import whole_files, writing

if TYPE_CHECKING:
    import h5py
    from anndata import AnnData

Block = Mapping[str, "sp.csr_matrix | np.ndarray"]
"""Rows of several matrices, by their place in the file: ``X``, ``layers/NAME``, ``raw/X``."""

MATRIX_COMPRESSION = {**COMPRESSION, "shuffle": True}
CHUNK = 2**16
"""Numbers that HDF5 compresses together, about."""
CACHE = 2**21
"""Bytes of a data set that HDF5 keeps at hand: blocks end anywhere; a chunk that two share is compressed once."""


@dataclass
class Stream:
    """What a step makes of a tissue.

    Attributes
    ----------
    header
        All but the matrices made anew. Matrices in it are carried over as they are. May be completed while `blocks`
        are made, not after.
    blocks
        The new matrices from the first spot to the last, every block with the same keys; each is CSR or dense.
    size
        Bytes that the new matrices will take on disk, roughly.
    """

    header: "AnnData"
    blocks: Iterable[Block]
    size: float = 0


@contextmanager
def opened(path: str | os.PathLike[str]) -> "Iterator[AnnData]":
    """Open an h5ad file: matrices of spots x genes stay on disk (read them by `sparse.rows_of`), the rest is read.

    Raises
    ------
    InputError
        As `io.read_h5ad`.
    """
    with hdf5_of(path) as file:
        with reading(path), structure.bounded(structure.check_hdf5(file)), warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*names are not unique.*")  # the steps refuse them in one line
            # Files from before 2020 have no encoding; anndata knows how to read them.
            adata = _backed(file) if file.attrs.get("encoding-type") == "anndata" else read_h5ad(path)
        with naming(path):
            contract.check(adata)
        memory.check(str(path))
        yield adata


def _backed(file: "h5py.File") -> "AnnData":
    import anndata
    from anndata.io import read_elem, sparse_dataset

    def matrix(element: Any) -> Any:
        kind = element.attrs.get("encoding-type")
        if kind in ("csr_matrix", "csc_matrix"):
            return sparse_dataset(element)
        return element if kind == "array" and element.ndim == 2 else read_elem(element)

    parts = {key: read_elem(file[key]) for key in file if key not in ("X", "layers", "raw")}
    raw = None
    if "raw" in file and file["raw"].attrs.get("encoding-type") != "null":
        raw = {key: read_elem(value) for key, value in file["raw"].items() if key != "X"}
        raw["X"] = matrix(file["raw/X"])
    layers = {key: matrix(value) for key, value in file.get("layers", {}).items()}
    return anndata.AnnData(X=matrix(file["X"]) if "X" in file else None, layers=layers, raw=raw, **parts)


def carried(adata: "AnnData", *, without: Iterable[str]) -> "AnnData":
    """Give a copy without some matrices (``X`` and names of layers), which a step makes anew; the rest is shared."""
    copy = shallow_copy(adata)
    for name in without:
        if name == "X":
            copy.X = None
        else:
            copy.layers.pop(name, None)
    return copy


def matrices(adata: "AnnData") -> dict[str, Any]:
    """Give the matrices whose rows are spots and columns genes, by their place in the file."""
    found = {} if adata.X is None else {"X": adata.X}
    found |= {f"layers/{name}": matrix for name, matrix in adata.layers.items()}
    return found if adata.raw is None or adata.raw.X is None else found | {"raw/X": adata.raw.X}


def gathered(stream: Stream) -> "AnnData":
    """Put a stream together in memory."""
    blocks, header = list(stream.blocks), stream.header
    made = {key: stacked([block[key] for block in blocks]) for key in (blocks[0] if blocks else ())}
    layers = {key.removeprefix("layers/"): matrix for key, matrix in made.items() if key.startswith("layers/")}
    changed: dict[str, Any] = {"X": made.get("X", header.X), "layers": {**header.layers, **layers}}
    if "raw/X" in made:
        changed["raw"] = {"X": made["raw/X"], "var": header.raw.var, "varm": dict(header.raw.varm)}
    return shallow_copy(header, **changed)


def stacked(parts: "Sequence[sp.csr_matrix | np.ndarray]") -> "sp.csr_matrix | np.ndarray":
    """Put blocks of rows together."""
    return sp.vstack(parts, format="csr", dtype=parts[0].dtype) if sp.issparse(parts[0]) else np.concatenate(parts)


def named(path: str | os.PathLike[str], blocks: Iterable[Block]) -> Iterator[Block]:
    """Put the input's name before errors that come up while blocks are made."""
    with naming(path):
        yield from blocks


def write(files: "Mapping[Path, Stream]") -> None:
    """Write several streams, block by block, side by side: all files are complete, or none is there.

    Raises
    ------
    InputError
        A file cannot be written, or there is too little space for it.
    """
    for path, stream in files.items():
        check_space(path, sum(map(stored, matrices(stream.header).values())) + stream.size)
    with whole_files(list(files)) as temporaries, ExitStack() as stack:
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
    with writing(path), PatientFile(temporary) as raw, raw.hdf5(rdcc_nbytes=CACHE) as file:
        yield _Writer(raw, file, header)


def transform(
    step: str,
    stream: Callable[..., Stream | tuple[Stream, ...]],
    input: str | os.PathLike[str],
    *outputs: str | os.PathLike[str],
    **options: Any,
) -> None:
    """Open ``input``, make streams of it, add the input's checksum to the step's record, write a file for each."""
    for i, output in enumerate(outputs):
        check_output(output, input, *outputs[:i])
    with opened(input) as adata:
        with naming(input):
            made = stream(adata, **options)
        streams = made if isinstance(made, tuple) else (made,)
        note_input(step, input, *(stream.header for stream in streams))
        streams = tuple(replace(stream, blocks=named(input, stream.blocks)) for stream in streams)
        write(dict(zip(map(Path, outputs), streams, strict=True)))


def together(
    stream: Callable[..., Stream],
    inputs: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    **options: Any,
) -> None:
    """Open several inputs, make one stream of them, write ``output``."""
    check_output(output, *inputs)
    with ExitStack() as stack:
        parts = [stack.enter_context(opened(path)) for path in inputs]
        write({Path(output): stream(parts, **options)})


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


class _Writer:
    """An h5ad file that grows block by block.

    Parameters
    ----------
    raw, file
        Open for writing, and empty; and the HDF5 file in it.
    header
        What goes in beside the blocks.
    """

    def __init__(self, raw: PatientFile, file: "h5py.File", header: "AnnData") -> None:
        self.raw, self.file, self.header = raw, file, header
        self.growing: dict[str, _GrowingCsr | _GrowingArray] = {}
        file.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        file.create_group("layers").attrs.update({"encoding-type": "dict", "encoding-version": "0.1.0"})
        if header.raw is not None:
            file.create_group("raw").attrs.update({"encoding-type": "raw", "encoding-version": "0.1.0"})
        for key, matrix in matrices(header).items():
            if on_disk(matrix):
                element = getattr(matrix, "group", matrix)
                element.file.copy(element, file, name=key)
            else:
                write_part(file, key, matrix, **MATRIX_COMPRESSION)

    def append(self, block: Block) -> None:
        for key, rows in block.items():
            if key not in self.growing:
                if key in self.file:  # raw cannot be without X: what stood in for it in the header goes
                    del self.file[key]
                kind = _GrowingCsr if sp.issparse(rows) else _GrowingArray
                self.growing[key] = kind(self.file, key, rows, self.header.n_obs)
            self.growing[key].append(rows)
        self.raw.check()  # not hours later

    def finish(self) -> None:
        for matrix in self.growing.values():
            matrix.finish()
        header = self.header
        header.strings_to_categoricals()  # as anndata does
        parts: dict[str, Any] = {name: getattr(header, name) for name in ("obs", "var")}
        parts |= {name: dict(getattr(header, name)) for name in ("obsm", "varm", "obsp", "varp", "uns")}
        if header.raw is not None:
            header.strings_to_categoricals(header.raw.var)
            parts |= {"raw/var": header.raw.var, "raw/varm": dict(header.raw.varm)}
        for key, value in parts.items():
            write_part(self.file, key, value)


class _GrowingCsr:
    """A CSR matrix in a file, as anndata writes it."""

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
        assert self.start == self.data.shape[0], "every spot has a row"


def disk_size(n_values: float, n_missing: float = 0, n_dense: float = 0) -> float:
    """Bytes that matrices will take on disk, roughly: entries of sparse ones, of masks, and of dense ones."""
    return 4 * n_values + n_missing + 4 * n_dense


def stored(matrix: Any) -> float:
    """Bytes that a matrix takes on disk, or would take at the usual rate of compression."""
    if hasattr(matrix, "group"):
        return sum(part.id.get_storage_size() for part in matrix.group.values())
    if on_disk(matrix):
        return matrix.id.get_storage_size()
    return disk_size(matrix.nnz) if sp.issparse(matrix) else disk_size(0, 0, np.size(matrix))
