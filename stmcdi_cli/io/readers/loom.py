"""Read Loom files (versions 2 and 3), which are HDF5: genes in rows, cells in columns."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import scipy.sparse as sp

from stmcdi_cli import resources
from stmcdi_cli.errors import InputError, in_file
from stmcdi_cli.io import safety
from stmcdi_cli.io.readers.hdf5 import root_names
from stmcdi_cli.io.readers.reader import Options, Reading
from stmcdi_cli.sparse import CHUNK_ENTRIES

if TYPE_CHECKING:
    import h5py

PARTS = {"matrix", "row_attrs", "col_attrs"}
GENE_NAMES = ("Gene", "gene", "gene_name", "var_names", "Accession", "gene_ids")
"""Attributes of rows that may name the genes; the first that is there does."""
CELL_NAMES = ("CellID", "obs_names", "cell_id", "barcode", "cell_names")
"""Attributes of columns that may name the cells."""


def recognises(path: Path) -> bool:
    """Whether a path is a Loom file."""
    return path.is_file() and root_names(path) >= PARTS


def read(path: Path, options: Options) -> Reading:
    """Read counts and layers, sparse; attributes with one value per cell or gene go to ``obs`` or ``var``.

    Attributes with several values go to ``obsm`` or ``varm``.
    """
    import h5py
    from anndata import AnnData

    if not recognises(path):
        raise InputError(f"{path}: expected matrix, row_attrs and col_attrs in it, found others; give a Loom file")
    with (
        in_file(path, "cannot be read as Loom", "write it again with loompy"),
        h5py.File(path, "r", locking=False) as file,
    ):
        size = safety.check_hdf5(file)
        with safety.memory_limited(size):
            matrix = file["matrix"]
            n_genes, n_cells = matrix.shape
            obs, obsm = _attributes(file["col_attrs"], n_cells, CELL_NAMES)
            var, varm = _attributes(file["row_attrs"], n_genes, GENE_NAMES)
            layers = {name: _transposed(part) for name, part in file.get("layers", {}).items()}
            adata = AnnData(_transposed(matrix), obs=obs, var=var, obsm=obsm, varm=varm, layers=layers)
    return Reading(adata, path)


def _attributes(group: "h5py.Group", n: int, names: tuple[str, ...]) -> "tuple[pd.DataFrame, dict[str, np.ndarray]]":
    """Give the attributes of cells or genes as a table, and those that have several values each."""
    one, several = {}, {}
    for name, part in group.items():
        values = part.asstr()[()] if part.dtype.kind in "OS" else part[()]
        if values.shape[:1] != (n,):
            raise ValueError(f"{name} has {len(values)} values for {n}")
        if values.ndim == 1:
            one[name.replace("/", "_")] = values
        elif values.ndim == 2 and values.dtype.kind in "iuf":
            several[name] = values
    key = next((name for name in names if name in one), None)
    index = one.pop(key).astype(str) if key else np.arange(n).astype(str)
    return pd.DataFrame(one, index=pd.Index(index.astype(object))), several


def _transposed(matrix: "h5py.Dataset") -> sp.csr_matrix:
    """Give a matrix of genes x cells as cells x genes, CSR float32; reads a few cells at a time."""
    n_genes, n_cells = matrix.shape
    width = matrix.chunks[1] if matrix.chunks else 1
    step = max(1, min(CHUNK_ENTRIES, resources.entries()) // max(1, n_genes * width)) * width
    blocks = [sp.csr_matrix((0, n_genes), dtype=np.float32)]
    for start in range(0, n_cells, step):
        blocks.append(sp.csr_matrix(matrix[:, start : start + step].T, dtype=np.float32))
    return sp.vstack(blocks, format="csr")
