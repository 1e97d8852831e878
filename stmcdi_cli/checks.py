"""Small validators, all with one message form: expected this, found that; what to do."""

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from stmcdi_cli import anndata_keys as keys
from stmcdi_cli.errors import InputError, OptionError

if TYPE_CHECKING:
    from anndata import AnnData

FARTHEST = 1e100
"""Coordinates as large as this are as good as infinite: their distances are."""


def at_least(name: str, value: float, least: float) -> None:
    """Refuse an option below its least value."""
    if not value >= least:
        raise OptionError(f"expected `{name}` to be at least {least}, found `{value}`")


def positive(name: str, value: float) -> None:
    """Refuse an option that is not a positive, finite number."""
    if not 0 < value < float("inf"):
        raise OptionError(f"expected `{name}` to be positive, found `{value}`")


def fraction(name: str, value: float) -> None:
    """Refuse an option that is not strictly between 0 and 1."""
    if not 0 < value < 1:
        raise OptionError(f"expected `{name}` to lie between 0 and 1, found `{value}`")


def one_of(name: str, value: Any, choices: Collection[Any]) -> None:
    """Refuse an option that is none of its choices."""
    if value not in choices:
        raise OptionError(f"expected `{name}` to be one of {', '.join(map(str, choices))}, found `{value}`")


def table(adata: "AnnData") -> None:
    """Refuse a file with too few spots, no genes, or names that do not tell spots or genes apart."""
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
            raise InputError(f"expected unique {what} names, found {some(again)} more than once; use adata.{remedy}")


def coordinates(adata: "AnnData") -> np.ndarray:
    """Give spot coordinates (spots x 2 or 3, float64); refuse absent, misshapen, NaN or infinite ones."""
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
    bad = ~(np.abs(xy) < FARTHEST).all(1)
    if bad.any():
        raise InputError(
            f"expected finite coordinates in obsm['{keys.SPATIAL}'], found NaN or infinite ones at {bad.sum()} spots "
            f"(first {adata.obs_names[bad][0]}); remove these spots or correct them"
        )
    return xy


def expression(matrix: sp.csr_matrix, where: str) -> None:
    """Refuse infinite or negative values, and a matrix that is zero everywhere."""
    values(matrix, where)
    some_value(matrix.nnz, where)


def values(matrix: sp.csr_matrix, where: str) -> None:
    """Refuse infinite or negative values."""
    if not np.isfinite(matrix.data).all():
        raise InputError(f"expected finite values in {where}, found infinite ones; correct the file")
    if matrix.nnz and matrix.data.min() < 0:
        raise InputError(
            f"expected no negative value in {where}, found {matrix.data.min():g}; "
            "give raw counts, not scaled or centred values"
        )


def some_value(n_values: int, where: str) -> None:
    """Refuse a matrix that is zero everywhere."""
    if not n_values:
        raise InputError(f"expected some non-zero value in {where}, found none; name the layer with counts (--layer)")


def is_counts(matrix: sp.csr_matrix) -> bool:
    """Whether all values are whole numbers."""
    return bool((matrix.data == np.rint(matrix.data)).all())


def counts(matrix: sp.csr_matrix, where: str) -> None:
    """Refuse values that are not whole numbers."""
    if not is_counts(matrix):
        example = matrix.data[matrix.data != np.rint(matrix.data)][0]
        raise InputError(
            f"expected whole counts in {where}, found {example:g}; "
            "name the layer with raw counts (--layer) or use values as they are (--skip)"
        )


def sections(adata: "AnnData", section_key: str | None) -> np.ndarray:
    """Give the section of every spot as an integer code; all 0 without ``section_key``."""
    if section_key is None:
        return np.zeros(adata.n_obs, dtype=int)
    if section_key not in adata.obs:
        raise InputError(
            f"expected sections in obs['{section_key}'], found only {some(adata.obs.columns)}; correct --section-key"
        )
    labels = adata.obs[section_key]
    if labels.isna().any():
        raise InputError(
            f"expected a section for every spot in obs['{section_key}'], found {labels.isna().sum()} empty"
        )
    return labels.astype("category").cat.codes.to_numpy()


def some(names: Collection[Any], most: int = 3) -> str:
    """Name the first few of many."""
    shown = ", ".join(str(name) for name in list(names)[:most])
    return f"{shown}, ... ({len(names)} in all)" if len(names) > most else shown or "none"
