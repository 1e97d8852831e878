"""Parts of an AnnData object in an open HDF5 file, in a form that every AnnData from 0.8 on can read.

AnnData since 0.13 holds texts in arrays of pandas' own string type, which AnnData before 0.11 cannot read: they are
written as plain arrays of texts, or as categories where some are missing.
"""

import logging
from collections.abc import Mapping
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from stmcdi_cli.errors import InputError, one_line

if TYPE_CHECKING:
    import h5py
    from anndata import AnnData

logger = logging.getLogger(__name__)

COMPRESSION = {"compression": "gzip", "compression_opts": 1}
"""How HDF5 data sets are stored."""


def begin(file: "h5py.File", adata: "AnnData") -> None:
    """Mark an empty file as AnnData, with groups for layers and, where there is one, for raw."""
    file.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
    _group(file, "layers", "dict")
    if adata.raw is not None:
        _group(file, "raw", "raw")


def write_parts(file: "h5py.File", adata: "AnnData") -> None:
    """Write all of an AnnData object but its matrices of spots x genes.

    Raises
    ------
    InputError
        As `write_part`.
    """
    adata.strings_to_categoricals()  # as anndata does
    if adata.raw is not None:
        adata.strings_to_categoricals(adata.raw.var)
    for where, value in _parts(adata).items():
        group = file["raw"] if where.startswith("raw.") else file
        write_part(group, where.removeprefix("raw."), value, where)


def check_parts(adata: "AnnData") -> None:
    """Refuse what `write_parts` cannot write, before hours of work on it.

    Raises
    ------
    InputError
        As `write_part`.
    """
    import h5py

    with h5py.File(BytesIO(), "w") as scratch:
        for where, value in _parts(adata).items():
            write_part(scratch, where, _without_numbers(value), where)


def _parts(adata: "AnnData") -> dict[str, Any]:
    """Give the parts that are not matrices of spots x genes, by the names that users write."""
    parts: dict[str, Any] = {"obs": adata.obs, "var": adata.var}
    parts |= {name: dict(getattr(adata, name)) for name in ("obsm", "varm", "obsp", "varp", "uns")}
    if adata.raw is not None:
        parts |= {"raw.var": adata.raw.var, "raw.varm": dict(adata.raw.varm)}
    return parts


def _without_numbers(value: Any) -> Any:
    """Replace or leave out what can surely be written and may be large; names stay."""
    if isinstance(value, Mapping):
        return {key: _without_numbers(item) for key, item in value.items() if item is not None}
    if isinstance(value, pd.DataFrame):
        kept = [_has_slash(name) or not _is_numbers(value[name].to_numpy()) for name in value]
        named = pd.api.types.infer_dtype(value.index) == "string"
        return value.loc[:, kept].reset_index(drop=True) if named else value.loc[:, kept]
    return 0 if _is_numbers(value) else value


def _is_numbers(value: Any) -> bool:
    return (sp.issparse(value) or isinstance(value, np.ndarray)) and value.dtype.kind in "biuf"


def write_part(group: "h5py.Group", key: str, value: Any, where: str, **options: Any) -> None:
    """Write a matrix, a table, or all that a mapping holds.

    Parameters
    ----------
    group, key
        Where to in the file.
    value
        What to write.
    where
        What the user calls it, as ``uns['a']``.
    options
        How HDF5 stores it; `COMPRESSION` where none are given.

    Raises
    ------
    InputError
        It came with the input and is of a kind that h5ad files do not hold, or its name has a ``/``.
    """
    try:
        if not isinstance(key, str) or "/" in key:
            raise ValueError("its name has a / or is not text")
        if isinstance(value, Mapping):
            inside = _group(group, key, "dict")
        elif isinstance(value, pd.DataFrame):
            _write_table(group, key, value, options or COMPRESSION)
        else:
            _write(group, key, _plain(value), options or COMPRESSION)
    except OSError:
        raise
    except Exception as error:  # whatever anndata trips over, what it was given cannot be written
        place = where + (_bad_column(value) if isinstance(value, pd.DataFrame) else "")
        raise InputError(
            f"{place} cannot be written to h5ad ({one_line(error, 300)}); remove it from the input (del adata.{place})"
        ) from error
    for name, item in value.items() if isinstance(value, Mapping) else ():
        inner = f"{where}[{name!r}]"
        if item is None:
            logger.info("%s is None and left out, since older AnnData cannot read it", inner)
        else:
            write_part(inside, name, item, inner, **options)


def _group(parent: "h5py.Group", key: str, kind: str) -> "h5py.Group":
    group = parent.create_group(key)
    group.attrs.update({"encoding-type": kind, "encoding-version": "0.1.0"})
    return group


def _write(group: "h5py.Group", key: str, value: Any, options: Mapping[str, Any]) -> None:
    from anndata.io import write_elem

    write_elem(group, key, value, dataset_kwargs=options)


def _write_table(group: "h5py.Group", key: str, table: pd.DataFrame, options: Mapping[str, Any]) -> None:
    """Write a table; a column ``a/b`` becomes ``b`` in a group ``a``: older AnnData does that, and all read it."""
    plain = _plain_table(table)
    names = [table.index.name, *table.columns]
    stored = [f"column {i}" if _has_slash(name) else name for i, name in enumerate(names)]
    plain.index.name, plain.columns = stored[0], stored[1:]
    _write(group, key, plain, options)
    moved = {old: new for old, new in zip(stored, names, strict=True) if old != new}
    written = group[key]
    for old, new in moved.items():
        if not all(part.strip(".") for part in new.split("/")):
            raise ValueError("its name has nothing before or after a /")
        written.move(old, new)
    if moved:
        order = [moved.get(name, name) for name in written.attrs["column-order"]]
        written.attrs.update({"_index": moved.get(stored[0], written.attrs["_index"]), "column-order": order})


def _has_slash(name: Any) -> bool:
    return isinstance(name, str) and "/" in name


def _bad_column(table: pd.DataFrame) -> str:
    """Give the first column that cannot be written, as ``['a']``; nothing where each can be written alone."""
    import h5py

    for i, name in enumerate(table.columns):
        with h5py.File(BytesIO(), "w") as scratch:
            try:
                _write_table(scratch, "table", table.iloc[:, [i]], COMPRESSION)
            except Exception:  # noqa: BLE001 - it is looked for
                return f"[{name!r}]"
    return ""


def _plain_table(table: pd.DataFrame) -> pd.DataFrame:
    """Give a copy of a table with texts as `_plain` gives them."""
    plain = table.copy(deep=False)
    names = _plain(table.index.array)
    if isinstance(names, np.ndarray):
        plain.index = pd.Index(names, dtype=object)
    for i in range(table.shape[1]):
        column = table.iloc[:, i].array
        values = _plain(column)
        if values is not column:
            kind = values.dtype if isinstance(values, pd.Categorical) else object
            plain.isetitem(i, pd.Series(values, index=plain.index, dtype=kind))  # type: ignore[arg-type]
    return plain


def _plain(value: Any) -> Any:
    """Give texts as an array of objects, or as categories where some are missing; anything else as it is."""
    if isinstance(value, pd.Categorical):
        names = value.categories
        return value.rename_categories(pd.Index(names.to_numpy(object), dtype=object)) if _is_text(names) else value
    kind = getattr(getattr(value, "dtype", None), "kind", "")
    if kind == "T":  # numpy's own type of texts
        value = value.astype(object)
    if kind not in "OT" or np.ndim(value) != 1 or not _is_text(value):
        return value
    return _plain(pd.Categorical(value)) if pd.isna(value).any() else np.asarray(value, dtype=object)


def _is_text(values: Any) -> bool:
    # As an array of objects: pandas 2.3 does not look into its own wrapper of one, in which names with None come.
    return pd.api.types.infer_dtype(np.asarray(values, dtype=object)) in ("string", "empty")
