"""What was done to a file: a record per step in ``uns['stmcdi']``, and checksums."""

import hashlib
import os
from collections.abc import Mapping
from numbers import Real
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import scipy.sparse as sp

from stmcdi_cli import __version__
from stmcdi_cli import anndata_keys as keys
from stmcdi_cli.sparse import as_row_major, read_rows, row_chunks, to_csr

if TYPE_CHECKING:
    from anndata import AnnData


def data_digest(adata: "AnnData") -> str:
    """Tell data apart, by all that a model sees of them; in memory or on disk, whatever is read at a time."""
    digests = [hashlib.blake2b(digest_size=16) for _ in range(7)]
    for name, three in ((None, digests[:3]), (keys.MISSING, digests[3:6])):
        matrix = as_row_major(adata.X if name is None else adata.layers.get(name))
        for rows in row_chunks(adata.shape) if matrix is not None else ():
            part = to_csr(read_rows(matrix, rows), np.float32 if name is None else bool)
            for digest, values in zip(three, (part.data, part.indices, np.diff(part.indptr)), strict=True):
                digest.update(values.astype(values.dtype if values.dtype.kind in "fb" else np.int64).tobytes())
    graph = adata.obsp[keys.CONNECTIVITIES]
    for key in (keys.SIZE_FACTOR, keys.EMPTY_SPOT):
        if key in adata.obs:
            digests[6].update(adata.obs[key].to_numpy(np.float64).tobytes())
    for values in (graph.data, graph.indices, graph.indptr) if sp.issparse(graph) else (np.asarray(graph),):
        digests[6].update(values.tobytes())
    digests[6].update("\n".join(map(str, adata.var_names)).encode())
    return "".join(digest.hexdigest() for digest in digests)


def checksum(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def record_of(adata: "AnnData", step: str) -> dict[str, Any]:
    """Record of a step in ``uns['stmcdi']``; empty where it was not run."""
    return adata.uns.get(keys.PROVENANCE, {}).get(step, {})


def parameters_of(adata: "AnnData", step: str) -> dict[str, Any]:
    """Parameters that a step was run with; empty where it was not run."""
    return record_of(adata, step).get("parameters", {})


FAR_TOTALS = 2.0
"""Ratio between the totals of a tissue and of the one a model was trained on above which intervals are in doubt."""


class Totals(NamedTuple):
    """What `normalize` scaled the spots to.

    Attributes
    ----------
    median
        Median total of a spot.
    n_genes
        Number of genes that it is of: all that there were then.
    """

    median: float
    n_genes: int

    @classmethod
    def of(cls, median: object, n_genes: object) -> "Totals | None":
        """Check what a file says; None where that is of no use."""
        found = [float(x) for x in (median, n_genes) if isinstance(x, Real)]
        return cls(found[0], int(found[1])) if len(found) == 2 and all(0 < x < np.inf for x in found) else None

    @classmethod
    def recorded_in(cls, adata: "AnnData") -> "Totals | None":
        """Read the record of `normalize`."""
        done = parameters_of(adata, "normalize")
        return cls.of(done.get("median_total"), done.get("n_genes"))


def imported_section_key(adata: "AnnData") -> str | None:
    """Column of ``obs`` whose sections ``stmcdi import`` found; None where it found none."""
    key = parameters_of(adata, "import").get("section_key")
    return key if key in adata.obs else None


def record(adata: "AnnData", step: str, parameters: Mapping[str, Any]) -> None:
    """Note in ``uns['stmcdi'][step]`` the version and the parameters a step ran with (None means: not given)."""
    entry = {"version": __version__, "parameters": {k: _plain(v) for k, v in parameters.items() if v is not None}}
    adata.uns[keys.PROVENANCE] = {**adata.uns.get(keys.PROVENANCE, {}), step: entry}


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, os.PathLike) else value


def note_input(step: str, path: str | os.PathLike[str], *results: "AnnData") -> None:
    """Add the checksum of the file a step read to the records of what it made."""
    found = checksum(path)
    for adata in results:
        record_of(adata, step)["input_sha256"] = found
