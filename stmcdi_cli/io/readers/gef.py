"""Read Stereo-seq's GEF, which is HDF5: counts per gene and spot of the chip, in square bins, or cells."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from stmcdi_cli import anndata_keys as keys
from stmcdi_cli import validation
from stmcdi_cli.errors import InputError, in_file
from stmcdi_cli.io import safety
from stmcdi_cli.io.readers import bins
from stmcdi_cli.io.readers.delimited import as_text
from stmcdi_cli.io.readers.hdf5 import root_names
from stmcdi_cli.io.readers.reader import Options, Reading

if TYPE_CHECKING:
    import h5py
    from anndata import AnnData

BINS, CELLS = "geneExp", "cellBin"
SPOTS = f"{BINS}/bin1"
"""The counts of single spots, of which bins of any size are summed."""
ABOUT_CELLS = ("area", "dnbCount")
"""What is kept of a cell in ``obs``: its area in spots of the chip, and how many of these have a count."""


def recognises(path: Path) -> bool:
    """Whether a path is a GEF file."""
    return path.is_file() and bool({BINS, CELLS} & root_names(path))


def read(path: Path, options: Options) -> Reading:
    """Read cells, where the file has them; otherwise sum the counts in square bins of ``bin`` x ``bin`` spots."""
    import h5py

    validation.at_least("bin", options.bin, 1)
    with (
        in_file(path, "cannot be read as GEF", "give the file that Stereo-seq's programs wrote"),
        h5py.File(path, "r", locking=False) as file,
    ):
        with safety.memory_limited(safety.check_hdf5(file)):
            if CELLS in file:
                return Reading(_cells(file[CELLS]), path)
            if SPOTS not in file:
                raise InputError(f"expected the counts of single spots in {SPOTS}, found none; give the whole file")
            genes, symbols = _names(file[SPOTS]["gene"])
            corners, sums = bins.sum_in_bins(_spots(file[SPOTS]), options.bin)
            return Reading(bins.tissue_of_bins(corners, sums, genes, symbols, options), path)


def _spots(group: "h5py.Group") -> Iterator[bins.Part]:
    """Give the counts of single spots, some at a time; those of a gene lie together."""
    table, last = group["expression"], np.cumsum(group["gene"]["count"][()].astype(np.int64))
    if not len(last) or last[-1] != len(table):
        raise ValueError("genes and counts do not fit each other")
    for start in range(0, len(table), bins.LINES):
        part = table[start : start + bins.LINES]
        gene = np.searchsorted(last, np.arange(start, start + len(part)), side="right")
        yield part["x"].astype(np.int64), part["y"].astype(np.int64), gene, part["count"].astype(np.float64)


def _cells(group: "h5py.Group") -> "AnnData":
    """Give cells by their numbers, at their centres."""
    from anndata import AnnData

    cells, found = group["cell"][()], group["cellExp"][()]
    genes, symbols = _names(group["gene"])
    indptr = np.append(0, np.cumsum(cells["geneCount"].astype(np.int64)))
    if indptr[-1] != len(found) or (len(found) and found["geneID"].max() >= len(genes)):
        raise ValueError("cells and counts do not fit each other")
    parts = found["count"].astype(np.float32), found["geneID"].astype(np.int64), indptr
    adata = AnnData(
        sp.csr_matrix(parts, (len(cells), len(genes))),
        obs=pd.DataFrame(
            {name: cells[name] for name in ABOUT_CELLS if name in (cells.dtype.names or ())},
            index=pd.Index([str(number) for number in cells["id"].tolist()], dtype=object),
        ),
        var=pd.DataFrame(index=pd.Index(genes if symbols is None else symbols, dtype=object)),
    )
    if symbols is not None:
        adata.var["gene_ids"] = genes
    adata.obsm[keys.SPATIAL] = np.column_stack([cells["x"], cells["y"]]).astype(np.float64)
    return adata


def _names(table: "h5py.Dataset") -> tuple[list[str], list[str] | None]:
    """What the genes are told apart by, and their names where these are others: older files have one of both."""
    columns: Any = table.dtype.names or ()
    first = next(name for name in ("geneID", "gene", "geneName") if name in columns)
    genes = list(map(as_text, table[first].tolist()))
    if first == "geneName" or "geneName" not in columns:
        return genes, None
    names = map(as_text, table["geneName"].tolist())
    return genes, [name or gene for gene, name in zip(genes, names, strict=True)]
