"""One tissue in several files: runs of its spots that are imputed apart and put together again, nothing lost.

A shard holds its own rows of everything. What has a row and a column per spot (``obsp``) becomes rows in ``obsm``.
"""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from stmcdi_cli.errors import OptionError

if TYPE_CHECKING:
    from anndata import AnnData

_PAIRWISE = "shard_obsp_"


def parse(shard: str) -> tuple[int, int]:
    """Read ``I/N``: shard I, from 1, of N.

    Raises
    ------
    OptionError
        It is not of that form, or I is not among 1 to N.
    """
    found = re.fullmatch(r"(\d+)/(\d+)", shard)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise OptionError(f"expected `shard` as I/N with I from 1 to N, such as 2/5, found `{shard}`")
    return int(found[1]), int(found[2])


def spots_of(shard: str | None, n_spots: int) -> range:
    """Spots of a shard, one run of them; all where there are no shards.

    Raises
    ------
    OptionError
        There are more shards than spots.
    """
    if shard is None:
        return range(n_spots)
    i, n = parse(shard)
    if n > n_spots:
        raise OptionError(f"expected at most as many shards as the {n_spots} spots, found `{shard}`")
    return range((i - 1) * n_spots // n, i * n_spots // n)


def cut(adata: "AnnData", spots: range) -> "AnnData":
    """Take a run of spots out of a tissue, in a form that `join` can put together again."""
    import anndata

    rows = slice(spots.start, spots.stop)
    pairwise = {_PAIRWISE + key: sp.csr_matrix(value)[rows] for key, value in adata.obsp.items()}
    raw = None
    if adata.raw is not None:
        raw = {"X": adata.raw.X[rows], "var": adata.raw.var, "varm": dict(adata.raw.varm)}
    return anndata.AnnData(
        X=None if adata.X is None else adata.X[rows],
        obs=adata.obs.iloc[rows],  # unlike AnnData's own indexing this keeps categories that no spot here has
        var=adata.var,
        uns=dict(adata.uns),
        obsm={key: _rows(value, rows) for key, value in adata.obsm.items()} | pairwise,
        varm=dict(adata.varm),
        varp=dict(adata.varp),
        layers={key: value[rows] for key, value in adata.layers.items()},
        raw=raw,
    )


def join(parts: "Sequence[AnnData]") -> "AnnData":
    """Put the shards that `cut` made together, in the order given."""
    import anndata

    first = parts[0]
    obsm = {key: _stack([part.obsm[key] for part in parts]) for key in first.obsm}
    raw = None
    if first.raw is not None:
        x = _stack([part.raw.X for part in parts])
        raw = {"X": x, "var": first.raw.var, "varm": dict(first.raw.varm)}
    return anndata.AnnData(
        X=_stack([part.X for part in parts]),
        obs=_stack([part.obs for part in parts]),
        var=first.var,
        uns=dict(first.uns),
        obsm={key: value for key, value in obsm.items() if not key.startswith(_PAIRWISE)},
        varm=dict(first.varm),
        obsp={key.removeprefix(_PAIRWISE): value for key, value in obsm.items() if key.startswith(_PAIRWISE)},
        varp=dict(first.varp),
        layers={key: _stack([part.layers[key] for part in parts]) for key in first.layers},
        raw=raw,
    )


def _rows(value: Any, rows: slice) -> Any:
    return value.iloc[rows] if isinstance(value, pd.DataFrame) else value[rows]


def _stack(values: Sequence[Any]) -> Any:
    first = values[0]
    if first is None:
        return None
    if isinstance(first, pd.DataFrame):
        return pd.concat(values)
    if sp.issparse(first):
        return sp.vstack(values, format=first.format)
    return np.concatenate(values)
