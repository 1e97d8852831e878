"""One tissue in several files: runs of its spots that are imputed apart and put together again, nothing lost.

A shard holds its own rows of everything. What has a row and a column per spot (``obsp``) becomes rows in ``obsm``.
"""

import hashlib
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from stmcdi_cli import anndata_keys as keys
from stmcdi_cli.errors import InputError, OptionError
from stmcdi_cli.io.h5ad import matrices
from stmcdi_cli.io.stream import Block, Stream, disk_usage, to_memory
from stmcdi_cli.sparse import as_row_major, read_rows, row_chunks

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
        raise OptionError(f"expected at most as many shards as the {n_spots} spots, found `{shard}`; use fewer")
    return range((i - 1) * n_spots // n, i * n_spots // n)


def digest_of_spots(adata: "AnnData") -> str:
    """Tell the spots of a shard, in their order, from others."""
    return hashlib.blake2b("\n".join(map(str, adata.obs_names)).encode(), digest_size=16).hexdigest()


def cut(adata: "AnnData", spots: range) -> "AnnData":
    """Take a run of spots out of a tissue, in a form that `join` can put together again."""
    return to_memory(Stream(cut_header(adata, spots), [rows_at(adata, slice(spots.start, spots.stop))]))


def cut_header(adata: "AnnData", spots: range) -> "AnnData":
    """Take a run of spots out of all but the matrices of spots x genes (`rows_at` gives those)."""
    import anndata

    rows = slice(spots.start, spots.stop)
    pairwise = {_PAIRWISE + key: sp.csr_matrix(value)[rows] for key, value in adata.obsp.items()}
    return anndata.AnnData(
        obs=adata.obs.iloc[rows],  # unlike AnnData's own indexing this keeps categories that no spot here has
        var=adata.var,
        uns=dict(adata.uns),
        obsm={key: _rows(value, rows) for key, value in adata.obsm.items()} | pairwise,
        varm=dict(adata.varm),
        varp=dict(adata.varp),
        raw=_raw_without_values(adata, len(spots)),
    )


def target_header(adata: "AnnData", n_target: int) -> "AnnData":
    """Take the target, which comes first, out of a file with a reference: all but the matrices of spots x genes."""
    header = cut_header(adata, range(n_target))
    for key in adata.obsp:
        header.obsp[key] = sp.csr_matrix(header.obsm.pop(_PAIRWISE + key))[:, :n_target]
    header.obs = header.obs.drop(columns=[keys.ROLE, keys.REFERENCE_SECTION], errors="ignore")
    return header


def rows_at(adata: "AnnData", rows: slice) -> Block:
    """Give a run of spots of all matrices of spots x genes, which may be on disk."""
    return {key: read_rows(as_row_major(matrix), rows) for key, matrix in matrices(adata).items()}


def join(parts: "Sequence[AnnData]") -> Stream:
    """Put the shards that `cut` made together, in the order given; they may be on disk.

    Raises
    ------
    InputError
        A table of the spots is damaged, or is not in every shard.
    """
    import anndata

    first = parts[0]
    obsm = {}
    for key in first.obsm:
        try:
            obsm[key] = _stack([part.obsm[key] for part in parts])
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"obsm['{key}'] is not in every shard in the same form; impute them again") from error
    header = anndata.AnnData(
        obs=_stack([part.obs for part in parts]),
        var=first.var,
        uns=dict(first.uns),
        obsm={key: value for key, value in obsm.items() if not key.startswith(_PAIRWISE)},
        varm=dict(first.varm),
        obsp={key.removeprefix(_PAIRWISE): value for key, value in obsm.items() if key.startswith(_PAIRWISE)},
        varp=dict(first.varp),
        raw=_raw_without_values(first, sum(part.n_obs for part in parts)),
    )
    blocks = (rows_at(part, rows) for part in parts for rows in row_chunks(part.shape))
    return Stream(header, blocks, sum(disk_usage(matrix) for part in parts for matrix in matrices(part).values()))


def _raw_without_values(adata: "AnnData", n_spots: int) -> dict[str, Any] | None:
    """Raw of some spots; zeros stand in for its values, since there is no raw without any."""
    if adata.raw is None:
        return None
    empty = sp.csr_matrix((n_spots, adata.raw.shape[1]), dtype=np.float32)
    return {"X": empty, "var": adata.raw.var, "varm": dict(adata.raw.varm)}


def _rows(value: Any, rows: slice) -> Any:
    return value.iloc[rows] if isinstance(value, pd.DataFrame) else value[rows]


def _stack(values: Sequence[Any]) -> Any:
    first = values[0]
    if isinstance(first, pd.DataFrame):
        return pd.concat(values)
    if sp.issparse(first):
        return sp.vstack(values, format=first.format)
    return np.concatenate(values)
