"""Reading h5ad files, with errors of one line, and writing them, complete or not at all."""

import os
import shlex
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stmcdi_cli import anndata_keys as keys
from stmcdi_cli import resources, validation
from stmcdi_cli.errors import InputError, in_file
from stmcdi_cli.io import elements, safety
from stmcdi_cli.io.output import atomic_files, writing
from stmcdi_cli.sparse import as_row_major, layers_of

if TYPE_CHECKING:
    import h5py
    from anndata import AnnData


def read_h5ad(path: str | os.PathLike[str], *, for_import: bool = True) -> "AnnData":
    """Read an h5ad file into memory.

    ``for_import`` is False where `import_` may read what is refused here: then its command is named.

    Raises
    ------
    InputError
        The file does not exist or cannot be read, is not HDF5, or is HDF5 but no AnnData.
    """
    import anndata
    from anndata.io import read_elem

    with in_file(path, "cannot be read as AnnData", "write it again with anndata"):
        with open_hdf5(path, for_import=for_import) as file:
            size = safety.check_hdf5(file)
            resources.check_fits(str(path), size)
            with safety.memory_limited(size), warnings.catch_warnings():
                warnings.filterwarnings("ignore", ".*names are not unique.*")  # the steps refuse them in one line
                if _is_encoded(file):
                    adata = _read(file, read_elem)
                else:
                    with open(path, "rb") as unlocked:
                        adata = anndata.read_h5ad(unlocked)
    with in_file(path):
        validation.check(adata)
    return adata


def open_hdf5(path: str | os.PathLike[str], *, for_import: bool = True) -> "h5py.File":
    """Open an h5ad file as HDF5; what is in it is still to be checked (`safety.check_hdf5`).

    ``for_import`` is that of `read_h5ad`. No lock is taken: the file may be open in a notebook, or on a file system
    that has no locks.

    Raises
    ------
    InputError
        As `read_h5ad`.
    """
    import h5py

    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: no such file; check the path")
    if not os.access(path, os.R_OK):
        raise InputError(f"{path}: no permission to read it; change its mode or copy it")
    if path.is_dir() or not h5py.is_hdf5(path):
        raise InputError(f"{path}: not an HDF5 file; {_remedy(path, for_import)}")
    with in_file(path, "cannot be read as AnnData", "write it again with anndata"):
        try:
            file = h5py.File(path, locking=False)
        except OSError as error:
            if "lock" not in str(error) and "open for write" not in str(error):
                raise
            raise InputError(
                f"{path}: open in another program that writes to it; close it there (in a notebook: file.close() or "
                "restart the kernel), or make a copy and use that"
            ) from error
        content = set(file)
        modalities = list(file["mod"]) if "mod" in content else []
    if modalities:
        file.close()
        name = "rna" if "rna" in modalities else modalities[0]
        raise InputError(
            f"{path}: MuData, with {', '.join(modalities)}; write the one with counts as AnnData: "
            f"mudata.read_h5mu('{path}')['{name}'].write_h5ad('{name}.h5ad')"
        )
    if not {"obs", "var"} <= content:
        file.close()
        raise InputError(f"{path}: HDF5, but not AnnData (no obs and var in it); {_remedy(path, for_import)}")
    return file


def _remedy(path: Path, for_import: bool) -> str:
    """What to do with a file or folder that is no h5ad."""
    if for_import:
        return "an .h5ad written by anndata or scanpy is needed"
    output = path.resolve().with_suffix(".h5ad").name
    output = f"imported.{output}" if output == path.name else output
    return f"`stmcdi import {shlex.quote(str(path))} {shlex.quote(output)}` reads what platforms write"


def write_h5ad(adata: "AnnData", path: str | os.PathLike[str]) -> None:
    """Write an h5ad file that is either complete or absent."""
    write_h5ads({Path(path): adata})


def write_h5ads(files: "Mapping[Path, AnnData]") -> None:
    """Write several h5ad files: all are complete, or none is there."""
    with atomic_files(list(files)) as temporaries:
        for path, temporary in zip(files, temporaries, strict=True):
            with writing(path):
                _write_h5ad(files[path], temporary)


def _write_h5ad(adata: "AnnData", path: Path) -> None:
    with DeferredErrorFile(path) as raw, raw.hdf5() as file:
        elements.begin(file, adata)
        for name, matrix in matrices(adata).items():
            write_matrix(file, name, matrix)
        elements.write_parts(file, adata)


class DeferredErrorFile(FileIO):
    """A file that keeps its first write error, to be raised at the end.

    HDF5 cannot close a file that it failed to write: it prints pages of errors and crashes at exit. So this file takes
    all further writes without an error.
    """

    error: OSError | None = None

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(path, "w+b")

    @contextmanager
    def hdf5(self, **options: Any) -> "Iterator[h5py.File]":
        """Write HDF5 into this file; a write error is raised at the end."""
        import h5py

        try:
            with h5py.File(self, "w", **options) as file:
                yield file
        finally:
            self.check()

    def check(self) -> None:
        """Raise the write error that was kept, if any."""
        if self.error is not None:
            raise self.error

    def write(self, data: Any) -> int:
        """Write all of ``data``, unless a write has failed before."""
        rest = memoryview(data).cast("B")
        size = len(rest)
        try:
            while self.error is None and len(rest):
                rest = rest[super().write(rest) :]
        except OSError as error:
            self.error = error
        return size


def shallow_copy(adata: "AnnData", **changed: Any) -> "AnnData":
    """Give a new AnnData whose parts can be replaced without touching the old one; matrices are shared, not copied.

    ``changed`` are parts to take instead of its own.
    """
    import anndata

    parts = {
        "X": adata.X,
        "obs": adata.obs.copy(),
        "var": adata.var.copy(),
        "uns": dict(adata.uns),
        "obsm": dict(adata.obsm),
        "varm": dict(adata.varm),
        "obsp": dict(adata.obsp),
        "varp": dict(adata.varp),
        "layers": layers_of(adata),
        "raw": adata.raw,
    }
    return anndata.AnnData(**{**parts, **changed})


@contextmanager
def open_h5ad(path: str | os.PathLike[str]) -> "Iterator[AnnData]":
    """Open an h5ad file: matrices of spots x genes stay on disk (read them by `sparse.read_rows`), the rest is read.

    Raises
    ------
    InputError
        As `read_h5ad`.
    """
    import anndata.io  # noqa: F401 - before memory is limited: some versions import torch, which needs a lot

    with open_hdf5(path, for_import=False) as file:
        with (
            in_file(path, "cannot be read as AnnData", "write it again with anndata"),
            safety.memory_limited(safety.check_hdf5(file)),
            warnings.catch_warnings(),
        ):
            warnings.filterwarnings("ignore", ".*names are not unique.*")  # the steps refuse them in one line
            adata = _read(file, _on_disk) if _is_encoded(file) else read_h5ad(path)
        with in_file(path):
            validation.check(adata)
            if keys.MISSING in adata.layers:  # every step reads it, by rows
                adata.layers[keys.MISSING] = as_row_major(adata.layers[keys.MISSING])
        resources.check(str(path))
        yield adata


def _is_encoded(file: "h5py.File") -> bool:
    """Whether each part of a file says what it is; in files from before 2022 anndata knows how to tell."""
    return file.attrs.get("encoding-type") == "anndata"


def _read(file: "h5py.File", matrix: Callable[[Any], Any]) -> "AnnData":
    """Read all of a file but the matrices of spots x genes, and these by a function."""
    import anndata
    from anndata.io import read_elem

    parts = {key: read_elem(file[key]) for key in file if key not in ("X", "layers", "raw")}
    raw = None
    if "raw" in file and file["raw"].attrs.get("encoding-type") != "null":
        raw = {key: read_elem(value) for key, value in file["raw"].items() if key != "X"}
        raw["X"] = matrix(file["raw/X"])
    layers = {key: matrix(value) for key, value in file.get("layers", {}).items()}
    return anndata.AnnData(X=matrix(file["X"]) if "X" in file else None, layers=layers, raw=raw, **parts)


def _on_disk(element: Any) -> Any:
    """Give a matrix of spots x genes that stays on disk."""
    from anndata.io import read_elem, sparse_dataset

    kind = element.attrs.get("encoding-type")
    if kind in ("csr_matrix", "csc_matrix"):
        return sparse_dataset(element)
    return element if kind == "array" and element.ndim == 2 else read_elem(element)


def copy_without(adata: "AnnData", names: Iterable[str | None]) -> "AnnData":
    """Give a copy without some matrices (`anndata_keys.X`, names of layers); the rest is shared."""
    copy = shallow_copy(adata)
    for name in names:
        if name is keys.X:
            copy.X = None
        else:
            copy.layers.pop(name, None)
    return copy


def matrices(adata: "AnnData") -> dict[str | None, Any]:
    """Give the matrices of spots x genes by their names: `anndata_keys.X`, those of layers, `anndata_keys.RAW_X`."""
    found: dict[str | None, Any] = {} if adata.X is None else {keys.X: adata.X}
    found.update(layers_of(adata).items())
    return found if adata.raw is None or adata.raw.X is None else found | {keys.RAW_X: adata.raw.X}


def write_matrix(file: "h5py.File", name: str | None, matrix: Any, **options: Any) -> None:
    """Write a matrix of spots x genes, by its name in `matrices`, to a file that `elements.begin` has prepared."""
    group, key = place(name)
    elements.write_part(file[group], key, matrix, f"layers[{key!r}]" if group == "layers" else key, **options)


def place(name: str | None) -> tuple[str, str]:
    """Give the group of a file that a matrix of spots x genes is in, and its key there."""
    if name is keys.X:
        return "/", "X"
    return ("raw", "X") if name == keys.RAW_X else ("layers", name)
