"""Reading h5ad with one-line refusals, writing it whole or not at all, and noting what was done."""

import hashlib
import os
import warnings
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stmcdi_cli import __version__, contract, memory, structure
from stmcdi_cli import anndata_keys as keys
from stmcdi_cli.errors import InputError, OptionError
from stmcdi_cli.texts import read_text, read_yaml
from stmcdi_cli.whole import whole_files, writing

if TYPE_CHECKING:
    from collections.abc import Iterator

    import h5py
    from anndata import AnnData

COMPRESSION = {"compression": "gzip", "compression_opts": 1}
"""How HDF5 data sets are stored."""


def read_h5ad(path: str | os.PathLike[str]) -> "AnnData":
    """Read an h5ad file into memory.

    Raises
    ------
    InputError
        The file does not exist or cannot be read, is not HDF5, or is HDF5 but no AnnData.
    """
    import anndata

    with hdf5_of(path) as file, reading(path):
        size = structure.check_hdf5(file)
    memory.check_fits(str(path), size)
    with reading(path), structure.bounded(size), warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*names are not unique.*")  # the steps refuse them in one line
        adata = anndata.read_h5ad(path)
    with naming(path):
        contract.check(adata)
    return adata


def hdf5_of(path: str | os.PathLike[str]) -> "h5py.File":
    """Open an h5ad file as HDF5; what is in it is still to be checked (`structure.check_hdf5`).

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
        raise InputError(f"{path}: not an HDF5 file; an .h5ad written by anndata or scanpy is needed")
    with reading(path):
        file = h5py.File(path)
        content = set(file)
    if not {"obs", "var"} <= content:
        file.close()
        raise InputError(f"{path}: HDF5, but not AnnData (no obs and var in it); an .h5ad file is needed")
    return file


@contextmanager
def reading(path: str | os.PathLike[str]) -> "Iterator[None]":
    """Turn whatever goes wrong while an h5ad file is read into one line."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # whatever h5py and anndata trip over, the file is what is wrong
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: cannot be read as AnnData ({reason}); write it again with anndata") from error


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


def write_h5ad(adata: "AnnData", path: str | os.PathLike[str]) -> None:
    """Write an h5ad file that is either complete or absent."""
    write_h5ads({Path(path): adata})


def write_h5ads(files: "Mapping[Path, AnnData]") -> None:
    """Write several h5ad files: all are complete, or none is there."""
    with whole_files(list(files)) as temporaries:
        for path, temporary in zip(files, temporaries, strict=True):
            with writing(path):
                _write_h5ad(files[path], temporary)


def _write_h5ad(adata: "AnnData", path: Path) -> None:
    adata.strings_to_categoricals()  # as anndata does
    with PatientFile(path) as raw, raw.hdf5() as file:
        write_part(file, "/", adata)


def write_part(file: "h5py.File", key: str, value: Any, **options: Any) -> None:
    """Write a part of an AnnData object to an open file.

    Raises
    ------
    InputError
        It came with the input and is of a kind that h5ad files do not hold.
    """
    from anndata.io import write_elem

    try:
        write_elem(file, key, value, dataset_kwargs=options or COMPRESSION)
    except OSError:
        raise
    except Exception as error:  # whatever anndata trips over, what it was given cannot be written
        reason = " ".join(str(error).split())[:300]
        raise InputError(
            f"a part of the data cannot be written to h5ad ({reason}); take it out of the input"
        ) from error


class PatientFile(FileIO):
    """A file that keeps its first write error for later.

    HDF5 cannot close a file it failed to write: it prints pages of errors and crashes at exit. This one lets it finish.
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


def write_texts(files: "Mapping[Path, str]") -> None:
    """Write several text files: all are complete, or none is there."""
    with whole_files(list(files)) as temporaries:
        for path, temporary in zip(files, temporaries, strict=True):
            with writing(path):
                temporary.write_text(files[path], encoding="utf-8")


def read_names(path: str | os.PathLike[str]) -> list[str]:
    """Read one name per line, blank lines and lines that start with # left out; of a model's folder, its genes.

    Raises
    ------
    InputError
        The file cannot be read as text, or the folder is no model's.
    """
    config = Path(path) / "config.yaml"
    if config.is_file():
        try:
            return [str(gene) for gene in read_yaml(config)["genes"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{config}: is not a model's configuration; name a folder that `stmcdi train` wrote"
            ) from error
    try:
        lines = read_text(path).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise InputError(f"{path}: cannot be read ({reason}); give a text file with one name per line") from error
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def checksum(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def record(adata: "AnnData", step: str, parameters: Mapping[str, Any]) -> None:
    """Note in ``uns['stmcdi'][step]`` the version and the parameters a step ran with (None means: not given)."""
    entry = {"version": __version__, "parameters": {k: _plain(v) for k, v in parameters.items() if v is not None}}
    adata.uns[keys.PROVENANCE] = {**adata.uns.get(keys.PROVENANCE, {}), step: entry}


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
        "layers": dict(adata.layers),
        "raw": adata.raw,
    }
    return anndata.AnnData(**{**parts, **changed})


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, os.PathLike) else value


@contextmanager
def naming(path: str | os.PathLike[str]) -> "Iterator[None]":
    """Put the file's name before the message of an error that is about its content."""
    try:
        yield
    except OptionError:
        raise
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def transform(
    function: "Callable[..., AnnData]",
    input: str | os.PathLike[str],
    output: str | os.PathLike[str],
    **options: Any,
) -> "AnnData":
    """Read ``input``, apply a step, add the input's checksum to the step's record, write ``output``."""
    check_output(output, input)
    adata = read_h5ad(input)
    with naming(input):
        result = function(adata, **options)
    note_input(function.__name__.replace("_", "-"), input, result)
    write_h5ad(result, output)
    return result


def note_input(step: str, path: str | os.PathLike[str], *results: "AnnData") -> None:
    """Add the checksum of the file a step read to the records of what it made."""
    found = checksum(path)
    for adata in results:
        adata.uns[keys.PROVENANCE][step]["input_sha256"] = found
