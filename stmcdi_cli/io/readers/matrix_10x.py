"""Matrices of 10x Genomics' programs: in HDF5, and as a folder of three texts (MEX)."""

import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

from stmcdi_cli.errors import in_file
from stmcdi_cli.io import safety
from stmcdi_cli.io.readers.controls import without_controls
from stmcdi_cli.io.readers.delimited import open_text
from stmcdi_cli.io.readers.reader import Options
from stmcdi_cli.sparse import check_csr

if TYPE_CHECKING:
    from anndata import AnnData

GENES = "Gene Expression"
MEX_MATRIX = ("matrix.mtx.gz", "matrix.mtx")
LINES = 2**20
"""Values of a text matrix that are read at a time."""


def is_mex(folder: Path) -> bool:
    """Whether a folder holds a matrix as texts."""
    return any((folder / name).is_file() for name in MEX_MATRIX)


def read(path: Path, options: Options) -> "AnnData":
    """Read a matrix: gene expression alone; symbols as names, identifiers in ``var['gene_ids']``.

    Parameters
    ----------
    path
        A file in HDF5, or the ``matrix.mtx`` of a MEX folder.
    options
        Says what was left out.
    """
    with in_file(path, "not a matrix of Space Ranger", "give the folder it wrote"):
        return (_read_h5 if path.name.endswith(".h5") else _read_mex)(path, options)


def assemble(
    counts: sp.csr_matrix, spots: np.ndarray, ids: np.ndarray, names: np.ndarray, kinds: np.ndarray, options: Options
) -> "AnnData":
    """Put counts (spots x features) and names together; leave out what is no gene."""
    import pandas as pd
    from anndata import AnnData

    if counts.shape != (len(spots), len(names)):
        raise ValueError(f"the matrix is {counts.shape}, its names are for {(len(spots), len(names))}")
    check_csr(counts, "the matrix")
    genes = kinds == GENES
    if not genes.all():
        others = ", ".join(f"{number} {kind}" for kind, number in sorted(Counter(kinds[~genes].tolist()).items()))
        options.note(f"left out features that are no genes: {others}")
    var = pd.DataFrame({"gene_ids": ids[genes].astype(object)}, index=pd.Index(names[genes].astype(object)))
    obs = pd.DataFrame(index=pd.Index(spots.astype(object)))
    return without_controls(AnnData(counts[:, np.flatnonzero(genes)], obs=obs, var=var), options)


def _read_h5(path: Path, options: Options) -> "AnnData":
    import h5py

    with h5py.File(path, "r", locking=False) as file, safety.memory_limited(safety.check_hdf5(file)):
        matrix = file["matrix"]
        features = matrix["features"]
        ids, names, kinds = (features[key][()].astype(str) for key in ("id", "name", "feature_type"))
        n_features, n_spots = (int(n) for n in matrix["shape"][()])
        # In the file spots are columns (CSC): the same arrays are the CSR matrix whose rows are spots.
        parts = (matrix["data"][()].astype(np.float32), matrix["indices"][()], matrix["indptr"][()])
        counts = sp.csr_matrix(parts, shape=(n_spots, n_features))
        return assemble(counts, matrix["barcodes"][()].astype(str), ids, names, kinds, options)


def _read_mex(path: Path, options: Options) -> "AnnData":
    prefix = re.sub(r"matrix\.mtx(\.gz)?$", "", path.name)
    features = [line.split("\t") for line in _lines(path.parent, prefix, "features.tsv", "genes.tsv")]
    spots = np.array([line.split("\t")[0] for line in _lines(path.parent, prefix, "barcodes.tsv")], object)
    ids = np.array([row[0] for row in features], object)
    names = np.array([row[1] if len(row) > 1 else row[0] for row in features], object)
    kinds = np.array([row[2] if len(row) > 2 else GENES for row in features], object)
    return assemble(_read_mtx(path), spots, ids, names, kinds, options)


def _lines(folder: Path, prefix: str, *names: str) -> list[str]:
    """Lines of the first text that is there, compressed, as Space Ranger writes it, or plain."""
    paths = [folder / f"{prefix}{name}{ending}" for name in names for ending in (".gz", "")]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        raise ValueError(f"no {prefix}{names[0]} in it")
    with open_text(path) as file:
        text = file.read(safety.MAX_RATIO * path.stat().st_size)
    return [line for line in text.splitlines() if line]


def _read_mtx(path: Path) -> sp.csr_matrix:
    """Read a matrix in Matrix Market's format, features x spots; gives spots x features.

    Notes
    -----
    scipy's own reader ends the process at some files, without an exception.
    """
    import pandas as pd

    with open_text(path) as file:
        banner = file.readline(LINES).lower().split()
        if banner[:3] != ["%%matrixmarket", "matrix", "coordinate"] or banner[4:] != ["general"]:
            raise ValueError("it is not in Matrix Market's coordinate format")
        while (line := file.readline(LINES)).startswith("%"):
            pass
        n_features, n_spots, n_values = (int(number) for number in line.split())
        if not (0 <= n_values <= safety.MAX_RATIO * path.stat().st_size and 0 <= min(n_features, n_spots)):
            raise ValueError(f"it declares {n_values} values and cannot hold them")
        if max(n_features, n_spots) >= 2**31:
            raise ValueError(f"it declares {n_features} features and {n_spots} spots")
        kinds = {0: np.int64, 1: np.int64, 2: np.float64}
        row, column, value = [np.empty(0, np.int32)], [np.empty(0, np.int32)], [np.empty(0, np.float32)]
        with safety.memory_limited(24 * n_values):
            if n_values:
                for part in pd.read_csv(file, sep=r"\s+", header=None, names=[0, 1, 2], dtype=kinds, chunksize=LINES):
                    for place, size in ((0, n_features), (1, n_spots)):
                        if not part[place].between(1, size).all():
                            raise ValueError("it has values outside of its shape")
                    row.append((part[1] - 1).to_numpy(np.int32))
                    column.append((part[0] - 1).to_numpy(np.int32))
                    value.append(part[2].to_numpy(np.float32))
            if sum(map(len, value)) != n_values:
                raise ValueError(f"it declares {n_values} values and has {sum(map(len, value))}")
            places = (np.concatenate(row), np.concatenate(column))
            return sp.csr_matrix((np.concatenate(value), places), shape=(n_spots, n_features))
