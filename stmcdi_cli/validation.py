"""Checks of options and of data; every error says what was expected, what was found, and what to do.

The first part checks options, the second what a step needs, and the third (`check`) what any file may hold: it may come
from another program, or be damaged.
"""

import os
from collections.abc import Collection, Iterator, Mapping
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from stmcdi_cli import anndata_keys as keys
from stmcdi_cli import roles
from stmcdi_cli.errors import InputError, OptionError
from stmcdi_cli.sparse import check_csr, layers_of, on_disk

if TYPE_CHECKING:
    from anndata import AnnData


MAX_COORDINATE = 1e100
"""Coordinates must be smaller than this, so that products of distances stay finite."""

SECTION_NAMES = (
    *(keys.SECTION, "section", "section_id", "library_id", "sample", "sample_id", "slide", "slice", "fov"),
    *("batch", "orig.ident"),
)
"""Columns of ``obs`` that are suggested as ``--section-key``; the first that has several values is."""

PARAMETER_TYPES: dict[str, type | tuple[type, ...]] = {
    "skip": (bool, np.bool_),
    "log": (bool, np.bool_),
    "shard": str,
    "device": str,
    "target": str,
    "method": str,
    "section_key": str,
    "n_samples": Integral,
    "count_scale": str,
    "odd_spots": Integral,
}
"""Recorded parameters that later steps read, and their types."""


# Options


def names(option: str, value: object) -> None:
    """Refuse a text or a path where a list of names is asked for: its letters would be taken for names."""
    if isinstance(value, (str, os.PathLike)):
        raise OptionError(f"expected a list of names in `{option}`, found `{value}`; give a list of texts")


def _number(name: str, value: object, kind: type = Real) -> None:
    if not isinstance(value, kind) or isinstance(value, bool):
        what = "a whole number" if kind is Integral else "a number"
        raise OptionError(f"expected `{name}` to be {what}, found `{value}`")


def at_least(name: str, value: float, least: float) -> None:
    """Refuse an option below its least value; where that is an int, also numbers that are not whole."""
    _number(name, value, Integral if isinstance(least, int) else Real)
    if not value >= least:
        raise OptionError(f"expected `{name}` to be at least {least}, found `{value}`")


def positive(name: str, value: float) -> None:
    """Refuse an option that is not a positive, finite number."""
    _number(name, value)
    if not 0 < value < float("inf"):
        raise OptionError(f"expected `{name}` to be positive, found `{value}`")


def fraction(name: str, value: float) -> None:
    """Refuse an option that is not strictly between 0 and 1."""
    _number(name, value)
    if not 0 < value < 1:
        raise OptionError(f"expected `{name}` to lie between 0 and 1, found `{value}`")


def share(name: str, value: float) -> None:
    """Refuse an option that is not from 0 to 1."""
    _number(name, value)
    if not 0 <= value <= 1:
        raise OptionError(f"expected `{name}` to lie between 0 and 1, found `{value}`")


def one_of(name: str, value: Any, choices: Collection[Any]) -> None:
    """Refuse an option that is none of its choices."""
    if value not in choices:
        raise OptionError(f"expected `{name}` to be one of {', '.join(map(str, choices))}, found `{value}`")


# What a step needs


def table(adata: "AnnData") -> None:
    """Refuse fewer than 2 spots, no genes, or repeated names."""
    if adata.n_obs < 2:
        raise InputError(f"expected at least 2 spots, found {adata.n_obs}; check the filter that made this file")
    if adata.n_vars < 1:
        raise InputError("expected at least 1 gene, found 0; check the filter that made this file")
    for what, names, remedy in (
        ("spot", adata.obs_names, "obs_names_make_unique()"),
        ("gene", adata.var_names, "var_names_make_unique()"),
    ):
        if not names.is_unique:
            again = names[names.duplicated()].unique()
            raise InputError(
                f"expected unique {what} names, found {first_few(again)} more than once; use adata.{remedy}"
            )


def matrix(adata: "AnnData") -> None:
    """Refuse an object without ``X``."""
    if adata.X is None:
        raise InputError(
            "expected expression in X, found no X; run normalize first (`normalize --layer` takes a layer)"
        )


def coordinates(adata: "AnnData") -> np.ndarray:
    """Give the coordinates of the spots (spots x 2 or 3, float64); refuse none, another shape, NaN or infinite ones.

    Cells of a reference (`add_reference`) may have NaN.
    """
    if keys.SPATIAL not in adata.obsm:
        raise InputError(f"expected spot coordinates in obsm['{keys.SPATIAL}'], found none; add them to the file")
    try:
        xy = np.asarray(adata.obsm[keys.SPATIAL], dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"expected numbers in obsm['{keys.SPATIAL}'], found something else; convert them") from error
    if xy.ndim != 2 or xy.shape[1] not in (2, 3):
        raise InputError(
            f"expected obsm['{keys.SPATIAL}'] to have 2 or 3 columns, found shape {xy.shape}; keep x and y"
        )
    not_placed = np.isnan(xy).all(1) & (np.arange(len(xy)) >= roles.n_target(adata))
    bad = ~(np.abs(xy) < MAX_COORDINATE).all(1) & ~not_placed
    if bad.any():
        raise InputError(
            f"expected coordinates below {MAX_COORDINATE:g} in obsm['{keys.SPATIAL}'], found NaN, infinite or larger "
            f"ones at {bad.sum()} spots (first {adata.obs_names[bad][0]}); remove these spots or correct them"
        )
    return xy


def values(matrix: sp.csr_matrix, where: str) -> None:
    """Refuse infinite or negative values."""
    if not np.isfinite(matrix.data).all():
        raise InputError(f"expected finite values in {where}, found infinite ones; correct the file")
    if matrix.nnz and matrix.data.min() < 0:
        raise InputError(
            f"expected no negative value in {where}, found {matrix.data.min():g}; "
            "give raw counts, not scaled or centred values"
        )


def some_value(n_values: int, where: str, remedy: str) -> None:
    """Refuse a matrix that is zero everywhere."""
    if not n_values:
        raise InputError(f"expected some non-zero value in {where}, found none; {remedy}")


def is_counts(matrix: sp.csr_matrix) -> bool:
    """Whether all values are whole numbers."""
    return bool((matrix.data == np.rint(matrix.data)).all())


def sections(adata: "AnnData", section_key: str | None, option: str = "the section key") -> np.ndarray:
    """Give the section of every spot as an integer, from 0; all 0 without ``section_key``.

    Cells of a reference (`add_reference`) are in sections of their own. ``option`` is what the command line calls
    ``section_key``.
    """
    n = roles.n_target(adata)
    code = np.zeros(adata.n_obs, dtype=int)
    if section_key is not None:
        if not isinstance(section_key, str):
            raise OptionError(f"expected the name of a column of obs in `section_key`, found `{section_key}`")
        if section_key not in adata.obs:
            raise InputError(
                f"expected sections in obs['{section_key}'], found only {first_few(adata.obs.columns)}; "
                f"correct {option}"
            )
        labels = adata.obs[section_key].iloc[:n]
        if labels.isna().any():
            raise InputError(
                f"expected a section for every spot in obs['{section_key}'], found {labels.isna().sum()} empty"
            )
        code[:n] = labels.astype("category").cat.codes
    if n < adata.n_obs:
        own = adata.obs[keys.REFERENCE_SECTION] if keys.REFERENCE_SECTION in adata.obs else None
        code[n:] = code[:n].max() + 1 + (0 if own is None else own.iloc[n:].astype("category").cat.codes)
    return code


def suggest_sections(adata: "AnnData", xy: np.ndarray) -> str | None:
    """Say which column of ``obs`` may name sections, where spots coincide or a column is called so; else None.

    Parameters
    ----------
    adata
        Spots for which no column of sections was given.
    xy
        Their coordinates.
    """
    n = roles.n_target(adata)
    xy, obs = xy[:n], adata.obs.iloc[:n]
    again = int(pd.DataFrame(xy).duplicated().sum())
    column = next((name for name in SECTION_NAMES if name in obs and 1 < obs[name].nunique()), None)
    if column is not None:
        where = f"obs['{column}'] has {obs[column].nunique()} values"
        advice = f"if these have coordinates of their own, give --section-key {column} where the graph is built, "
        advice += "or edges join one to another"
        return f"{again} spots lie where another one is, and {where}; {advice}" if again else f"{where}; {advice}"
    if not again:
        return None
    return (
        f"{again} spots lie where another one is; if the file has several sections, "
        "name them in a column of obs and give it where the graph is built (--section-key)"
    )


# What any file may hold


def check(adata: "AnnData") -> None:
    """Refuse what no step can work with; the values of matrices on disk are checked when they are read.

    Raises
    ------
    InputError
        A name is missing or has control characters, a matrix holds other things than numbers, its sparse structure is
        invalid, or a column or record of an earlier step is not what that step writes.
    """
    for what, names in (("spot", adata.obs_names), ("gene", adata.var_names)):
        if names.hasnans:
            raise InputError(f"expected a name for every {what}, found {names.isna().sum()} empty; name or remove them")
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
    for part, matrices in (("layers", layers_of(adata)), ("obsp", adata.obsp), ("varp", adata.varp)):
        for name, matrix in matrices.items():
            yield f"{part}['{name}']", matrix


def _check_matrix(matrix: Any, where: str) -> None:
    if _kind(matrix) not in "biuf":
        raise InputError(f"expected numbers in {where}, found another kind of data; convert or remove them")
    if sp.issparse(matrix):
        check_csr(matrix, where)
    elif hasattr(matrix, "group"):
        if not all(hasattr(matrix.group.get(part), "dtype") for part in ("data", "indices", "indptr")):
            raise InputError(f"expected a sparse matrix in {where}, found a damaged one; write the file again")
    elif not on_disk(matrix) and not isinstance(matrix, np.ndarray):
        raise InputError(f"expected a matrix in {where}, found {type(matrix).__name__}; convert it")


def _kind(matrix: Any) -> str:
    """Give numpy's letter for the type of a matrix's values; O (objects) if it has no type."""
    try:
        return matrix.dtype.kind
    except (AttributeError, KeyError):  # not a matrix, or one on disk that lacks its data
        return "O"


def _check_columns(obs: pd.DataFrame) -> None:
    if keys.SIZE_FACTOR in obs:
        column = obs[keys.SIZE_FACTOR]
        numbers = pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_complex_dtype(column)
        bad = ~((column > 0) & (column < np.inf)) if numbers else np.ones(len(obs), bool)
        if bad.any():
            raise InputError(
                f"expected positive numbers in obs['{keys.SIZE_FACTOR}'], found others at {int(bad.sum())} spots; "
                f"remove the column (del adata.obs['{keys.SIZE_FACTOR}']); normalize makes it anew"
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
        and all(isinstance(parameters[name], kind) for name, kind in PARAMETER_TYPES.items() if name in parameters)
    )


def first_few(names: Collection[Any], most: int = 3) -> str:
    """Give the first few of many names, and how many there are."""
    shown = ", ".join(str(name) for name in list(names)[:most])
    return f"{shown}, ... ({len(names)} in all)" if len(names) > most else shown or "none"
