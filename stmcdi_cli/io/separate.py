"""Results that share no memory with what they were made of.

Inside a step, matrices are passed on without a copy. What a caller gets back is the caller's own: scanpy changes
objects in place, and a logarithm taken of a result must not be one of the raw data, too.
"""

from collections.abc import Iterable, Iterator
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from stmcdi_cli.io.h5ad import shallow_copy
from stmcdi_cli.sparse import layers_of

if TYPE_CHECKING:
    from anndata import AnnData

_PARTS = ("obsm", "varm", "obsp", "varp")


def separate(adata: "AnnData", others: "Iterable[AnnData]") -> "AnnData":
    """Give an AnnData in which every array that shares memory with another object's is a copy.

    Parameters
    ----------
    adata
        What a step has made; its tables are its own already.
    others
        What it was made of, and other results.
    """
    taken = [array for other in others for value in _values(other) for array in _arrays(value)]

    def own(value: Any) -> Any:
        shared = any(np.may_share_memory(mine, other) for mine in _arrays(value) for other in taken)
        return value.copy() if shared or isinstance(value, pd.DataFrame) else value

    parts = {part: {name: own(value) for name, value in getattr(adata, part).items()} for part in _PARTS}
    layers = {name: own(value) for name, value in layers_of(adata).items()}
    raw = adata.raw
    if raw is not None:
        varm = {name: own(value) for name, value in raw.varm.items()}
        parts["raw"] = {"X": own(raw.X), "var": raw.var.copy(), "varm": varm}
    return shallow_copy(adata, X=own(adata.X), layers=layers, uns=deepcopy(dict(adata.uns)), **parts)


def _values(adata: "AnnData") -> Iterator[Any]:
    """All that may be an array of numbers."""
    yield adata.X
    yield from layers_of(adata).values()
    for part in _PARTS:
        yield from getattr(adata, part).values()
    if adata.raw is not None:
        yield adata.raw.X
        yield from adata.raw.varm.values()


def _arrays(value: Any) -> list[np.ndarray]:
    """The arrays of a matrix in memory; none of what is on disk, or of a table."""
    if isinstance(value, np.ndarray):
        return [value]
    names = ("data", "indices", "indptr", "row", "col") if sp.issparse(value) else ()
    parts = [getattr(value, name, None) for name in names]
    return [part for part in parts if isinstance(part, np.ndarray)]
