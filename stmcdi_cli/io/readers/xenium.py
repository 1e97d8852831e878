"""Read the output of Xenium: counts in HDF5, as texts or in zarr, and the table of cells."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

from stmcdi_cli.errors import InputError, in_file
from stmcdi_cli.io.readers import matrix_10x
from stmcdi_cli.io.readers.archive import unpacked
from stmcdi_cli.io.readers.cells import add_cells
from stmcdi_cli.io.readers.delimited import read_frame
from stmcdi_cli.io.readers.reader import Options, Reading, only
from stmcdi_cli.io.readers.zarr import open_group

if TYPE_CHECKING:
    from anndata import AnnData

MATRIX = "cell_feature_matrix"
MATRICES = (f"{MATRIX}.h5", MATRIX, f"{MATRIX}.zarr.zip", f"{MATRIX}.zarr")
CELLS = ("cells.csv.gz", "cells.csv", "cells.parquet")


def find(path: Path) -> tuple[Path, str] | None:
    """Give the matrix, and what its name has in front of the usual one; None where there is none.

    Raises
    ------
    InputError
        There are matrices of several samples.
    """
    if path.name.endswith(MATRICES) and path.exists():
        return path, path.name[: path.name.rindex(MATRIX)]
    for folder in (path, path / "outs") if path.is_dir() else ():
        for name in MATRICES:
            found = only(folder.glob(f"*{name}"), path, "sample")
            if found is not None:
                return found, found.name.removesuffix(name)
    return None


def recognises(path: Path) -> bool:
    """Whether a path is Xenium's output."""
    return find(path) is not None


def read(path: Path, options: Options) -> Reading:
    """Read genes, without control probes, and what the instrument says about each cell; places in micrometres."""
    found = find(path)
    if found is None:
        raise InputError(f"{path}: expected {MATRIX}.h5 or .zarr.zip, found none; give Xenium's output folder")
    matrix, prefix = found
    mex = next((matrix / name for name in matrix_10x.MEX_MATRIX if (matrix / name).is_file()), None)
    if mex is None and not matrix.name.endswith(".h5"):
        adata = _read_zarr(matrix, options)
    else:
        adata = matrix_10x.read(mex or matrix, options)
    cells = next((p for name in CELLS if (p := matrix.parent / f"{prefix}{name}").is_file()), None)
    if cells is not None:
        add_cells(adata, read_frame(cells), cells, options)
    elif options.coordinates is None:
        raise InputError(f"{matrix}: expected {prefix}{CELLS[0]} beside it, found none; give Xenium's whole output")
    return Reading(adata, matrix)


def _read_zarr(path: Path, options: Options) -> "AnnData":
    """Read the matrix in zarr: compressed sparse rows, features x cells."""
    with (
        in_file(path, "not a matrix of Xenium", "give the file it wrote"),
        unpacked(path) as folder,
        open_group(folder, path) as root,
    ):
        group = root["cell_features"]
        about = dict(group.attrs)
        ids, names, kinds = (np.array(about[f"feature_{key}"], object) for key in ("ids", "keys", "types"))
        cells = [cell_name(*map(int, pair)) for pair in group["cell_id"][:]]
        parts = (group["data"][:].astype(np.float32), group["indices"][:].astype(np.int64), group["indptr"][:])
        counts = sp.csr_matrix((*parts[:2], parts[2].astype(np.int64)), shape=(len(names), len(cells)))
        counts.check_format(full_check=True)
        kinds = np.array([matrix_10x.GENES if kind == "gene" else str(kind) for kind in kinds], object)
        return matrix_10x.assemble(counts.T.tocsr(), np.array(cells, object), ids, names, kinds, options)


def cell_name(number: int, suffix: int) -> str:
    """Write a cell's number as the instrument's tables do: hexadecimal, with the letters a to p as digits."""
    return "".join(chr(ord("a") + int(digit, 16)) for digit in f"{number:08x}") + f"-{suffix}"
