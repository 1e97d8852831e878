"""What every step may rely on in a file it has read: names that can be printed, matrices of numbers, records of ours.

Other programs, bad disks and bad people write other things. They are refused once, here, so that no step has to.
"""

from collections.abc import Iterator, Mapping
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from stmcdi_cli import anndata_keys as keys
from stmcdi_cli.errors import InputError
from stmcdi_cli.sparse import check_sound, on_disk

if TYPE_CHECKING:
    from anndata import AnnData

PARAMETERS: dict[str, type | tuple[type, ...]] = {
    "skip": (bool, np.bool_),
    "log": (bool, np.bool_),
    "shard": str,
    "device": str,
    "target": str,
    "method": str,
    "section_key": str,
    "n_samples": Integral,
}
"""Recorded parameters that later steps read, and what they are."""


def check(adata: "AnnData") -> None:
    """Refuse what no step can work with; matrices that are still on disk are checked as they are read.

    Raises
    ------
    InputError
        A name has control characters, a matrix is none of numbers, its sparse structure is broken, or a column or
        record of an earlier step is not what that step writes.
    """
    for what, names in (("spot", adata.obs_names), ("gene", adata.var_names)):
        odd = [name for name in map(str, names) if not name.isprintable()]
        if odd:
            raise InputError(f"expected {what} names that can be printed, found {ascii(odd[0][:60])}; rename it")
    for where, matrix in _matrices(adata):
        _check_matrix(matrix, where)
    graph = adata.obsp.get(keys.CONNECTIVITIES)
    if graph is not None and not np.isfinite(graph.data if sp.issparse(graph) else graph).all():
        raise InputError(f"expected finite numbers in obsp['{keys.CONNECTIVITIES}'], found others; run build-graph")
    _check_columns(adata.obs)
    _check_records(adata.uns)


def _matrices(adata: "AnnData") -> Iterator[tuple[str, Any]]:
    if adata.X is not None:
        yield "X", adata.X
    if adata.raw is not None:
        yield "raw.X", adata.raw.X
    for part in ("layers", "obsp", "varp"):
        for name, matrix in getattr(adata, part).items():
            yield f"{part}['{name}']", matrix


def _check_matrix(matrix: Any, where: str) -> None:
    if _kind(matrix) not in "biuf":
        raise InputError(f"expected numbers in {where}, found another kind of data; convert or remove them")
    if sp.issparse(matrix):
        check_sound(matrix, where)
    elif not on_disk(matrix) and not isinstance(matrix, np.ndarray):
        raise InputError(f"expected a matrix in {where}, found {type(matrix).__name__}; convert it")


def _kind(matrix: Any) -> str:
    """Kind of a matrix's values, as numpy has it; of objects where there are none to be found."""
    try:
        return matrix.dtype.kind
    except (AttributeError, KeyError):  # no matrix; or one on disk without its parts
        return "O"


def _check_columns(obs: pd.DataFrame) -> None:
    if keys.SIZE_FACTOR in obs:
        column = obs[keys.SIZE_FACTOR]
        numbers = pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_complex_dtype(column)
        bad = ~((column > 0) & (column < np.inf)) if numbers else np.ones(len(obs), bool)
        if bad.any():
            raise InputError(
                f"expected positive numbers in obs['{keys.SIZE_FACTOR}'], found others at {int(bad.sum())} spots; "
                "remove the column or run normalize on raw counts"
            )
    if keys.EMPTY_SPOT in obs and not (
        pd.api.types.is_bool_dtype(obs[keys.EMPTY_SPOT]) and obs[keys.EMPTY_SPOT].notna().all()
    ):
        raise InputError(f"expected True or False in obs['{keys.EMPTY_SPOT}'], found others; remove the column")


def _check_records(uns: Mapping[str, Any]) -> None:
    records = uns.get(keys.PROVENANCE, {})
    entries = records.values() if isinstance(records, Mapping) else [None]
    if not all(isinstance(entry, Mapping) and _is_record(entry) for entry in entries):
        raise InputError(
            f"expected records of stmcdi's steps in uns['{keys.PROVENANCE}'], found something else; "
            f"del adata.uns['{keys.PROVENANCE}']"
        )
    graph = uns.get(keys.NEIGHBORS, {})
    if not isinstance(graph, Mapping) or not isinstance(graph.get("params", {}), Mapping):
        raise InputError(f"expected parameters of a graph in uns['{keys.NEIGHBORS}'], found none; run build-graph")


def _is_record(entry: Mapping[str, Any]) -> bool:
    parameters = entry.get("parameters")
    return (
        isinstance(entry.get("version"), str)
        and isinstance(entry.get("input_sha256", ""), str)
        and isinstance(parameters, Mapping)
        and all(isinstance(parameters[name], kind) for name, kind in PARAMETERS.items() if name in parameters)
    )
