"""Tables of text: any separator, names as they are written, numbers read a few rows at a time into a sparse matrix."""

import csv
import gzip
import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import scipy.sparse as sp

from stmcdi_cli import resources
from stmcdi_cli.errors import InputError, in_file, one_line
from stmcdi_cli.io import safety
from stmcdi_cli.sparse import CHUNK_ENTRIES

if TYPE_CHECKING:
    from pandas import DataFrame, Series


ENDINGS = (".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz", ".txt.gz")
SEPARATORS = "\t,; "
"""What may separate columns; the first line decides."""
LONGEST_LINE = 2**26
"""Characters of the first line, at most."""


class Delimited(NamedTuple):
    """A table of numbers.

    Attributes
    ----------
    rows, columns
        Names, as text; those of ``columns`` are of ``counts`` alone.
    counts
        CSR float32; an empty cell is NaN.
    apart
        Columns that hold no counts, for every row.
    apart_rows
        Rows of ``counts`` whose names say that they may hold no counts, with all digits.
    """

    rows: list[str]
    columns: list[str]
    counts: sp.csr_matrix
    apart: "DataFrame"
    apart_rows: "DataFrame"


@contextmanager
def open_text(path: Path) -> Iterator[io.TextIOBase]:
    """Open a text, whether it is compressed by gzip or not."""
    with open(path, "rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
    with gzip.open(path, "rb") if packed else open(path, "rb") as file:
        yield io.TextIOWrapper(file, "utf-8-sig", newline="")  # type: ignore[arg-type]


def first_line(path: Path) -> str:
    """Give the first line of a text that is no comment (#); empty where the file holds no text."""
    try:
        with open_text(path) as file:
            while (line := file.readline(LONGEST_LINE)).startswith("#"):
                pass
    except (OSError, EOFError, UnicodeDecodeError, ValueError):
        return ""
    return "" if "\0" in line else line.rstrip("\r\n")


def header(path: Path) -> list[str]:
    """Give the names of a table's columns; none where the file is no text."""
    try:
        return _start(path)[0] if first_line(path) else []
    except (OSError, EOFError, ValueError, csv.Error):
        return []


def _start(path: Path) -> tuple[list[str], list[str]]:
    """Give the names of the columns, and the cells of the line after them."""
    mark = separator(first_line(path))
    with open_text(path) as file:
        cells = csv.reader(file, delimiter=mark)
        columns = next((row for row in cells if row and not row[0].startswith("#")), [])
        second = next(csv.reader([file.readline(LONGEST_LINE)], delimiter=mark), [])
    if columns and columns[0] and len(second) == len(columns) + 1:  # as R writes a table with names of rows
        columns = ["", *columns]
    return columns, second


def separator(line: str) -> str:
    """Give the separator that cuts a line into most cells; a space only where no other does."""

    def cells(mark: str) -> int:
        return max((len(row) for row in csv.reader([line], delimiter=mark)), default=0)

    best = max(SEPARATORS[:3], key=cells)
    return best if cells(best) > 1 else " "


def read_counts(
    path: Path, is_apart: Callable[[str], bool], is_row_apart: Callable[[str], bool] | None = None, named: bool = True
) -> Delimited:
    """Read a table of counts.

    Parameters
    ----------
    path
        The table; the first line has the names of the columns.
    is_apart
        Whether a column of that name holds no counts. Columns of text hold none either.
    is_row_apart
        Whether a row of that name may hold no counts.
    named
        Whether the first column has the names of the rows.

    Raises
    ------
    InputError
        It is no table, or a cell of a column of counts is no number.
    """
    import pandas as pd

    rows: list[str] = []
    blocks, apart, apart_rows = [], [], []
    counted: list[int] | None = None
    first = 1 if named else 0
    with _reading(path), _chunks(path, named) as (columns, chunks):
        for chunk in chunks:
            names = _unmarked(chunk[0]) if named else list(map(str, range(len(rows), len(rows) + len(chunk))))
            rows += names
            if counted is None:
                numbered = range(first, len(columns))
                counted = [i for i in numbered if not is_apart(columns[i]) and not _is_text(chunk[i])]
            values = _numbers(path, chunk, counted, columns)
            with np.errstate(over="ignore"):
                blocks.append(sp.csr_matrix(values, dtype=np.float32))
            others = chunk.drop(columns=counted).iloc[:, first:]
            apart.append(others.set_axis(pd.Index(names, dtype=object)))
            known = np.array([is_row_apart is not None and is_row_apart(name) for name in names], bool)
            apart_rows.append(pd.DataFrame(values[known], index=np.array(names, object)[known]))
    if not rows or counted is None:
        raise InputError(f"{path}: expected a table, found no rows; give the whole file")
    table = pd.concat(apart)
    table.columns = pd.Index(np.array(columns, object)[table.columns.to_numpy(int)])
    counts = sp.vstack(blocks, format="csr")
    return Delimited(rows, [columns[i] for i in counted], counts, _plain(table), pd.concat(apart_rows))


def read_frame(path: Path, named: bool = True) -> "DataFrame":
    """Read a small table as a data frame: names are text, columns keep their types.

    Raises
    ------
    InputError
        It is absent, or no table.
    """
    import pandas as pd

    if not path.is_file():
        raise InputError(f"{path}: no such file; check the path")
    if path.suffix == ".parquet":
        frame = read_parquet(path)
        return _plain(frame.set_index(frame.columns[0]).rename(index=as_text) if named else frame)
    with _reading(path), _chunks(path, named, whole=True) as (columns, chunks):
        frame = next(iter(chunks))
    frame.columns = pd.Index(columns, dtype=object)
    if not named:
        return _plain(frame.loc[:, ~frame.columns.duplicated()])
    index = pd.Index(_unmarked(frame.iloc[:, 0]), dtype=object)
    frame = frame.iloc[:, 1:].set_axis(index)
    return _plain(frame.loc[:, ~frame.columns.duplicated()])


def read_parquet(path: Path) -> "DataFrame":
    """Read a table in parquet."""
    import pandas as pd

    with in_file(path, "cannot be read as parquet", "give the instrument's own file"):
        try:
            return pd.read_parquet(path)
        except ImportError as error:
            raise InputError(f"{path}: reading parquet needs pyarrow; pip install 'stmcdi[parquet]'") from error


def _marked(name: str) -> str:
    """Give a name that no version of pandas takes for a missing value, as NA and nan are taken."""
    return f"'{name}"


def _unmarked(names: "Series") -> list[str]:
    return [name[1:] for name in names.tolist()]


def _plain(frame: "DataFrame") -> "DataFrame":
    """Give columns of numbers and of text only: h5ad holds no other."""
    frame = frame.copy()
    for name, kind in frame.dtypes.items():
        if getattr(kind, "kind", "O") not in "biuf":
            frame[name] = frame[name].astype(object).map(as_text, na_action="ignore")
    return frame


def as_text(name: object) -> str:
    """Give a name as text; parquet and HDF5 may hold it as bytes."""
    return name.decode() if isinstance(name, bytes) else str(name)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    with (
        in_file(path, "cannot be read as a table", "write it as CSV or TSV"),
        safety.memory_limited(resources.granted() // 4),  # a compressed table may be of any size
    ):
        yield


@contextmanager
def _chunks(path: Path, named: bool, whole: bool = False) -> "Iterator[tuple[list[str], Iterator[DataFrame]]]":
    """Give the names of the columns, and data frames of a few rows each, whose columns are numbered."""
    import pandas as pd

    mark = separator(first_line(path))
    columns, second = _start(path)
    if len(columns) < 2:
        raise InputError(f"{path}: expected columns separated by commas, semicolons or tabs, found one; write it so")
    decimal = "," if mark == ";" and any("," in cell for cell in second) else "."
    rows = max(1, CHUNK_ENTRIES // len(columns))
    with open_text(path) as file, warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)  # a row with more cells than names
        next(row for row in csv.reader(file, delimiter=mark) if row and not row[0].startswith("#"))
        options: dict[str, Any] = {"sep": mark, "decimal": decimal, "header": None, "low_memory": False}
        options |= {"names": range(len(columns)), "index_col": False}
        options |= {"converters": {0: _marked}} if named else {}
        if whole:
            yield columns, iter([pd.read_csv(file, **options)])
        else:
            yield columns, pd.read_csv(file, chunksize=rows, **options)


def _is_text(column: "Series") -> bool:
    """Whether no cell of a column is a number, and some are text."""
    import pandas as pd

    if column.dtype.kind in "iuf":
        return False
    return not pd.to_numeric(column, errors="coerce").notna().any() or column.dtype.kind == "b"


def _numbers(path: Path, chunk: "DataFrame", counted: list[int], columns: list[str]) -> np.ndarray:
    try:
        return chunk[counted].to_numpy(np.float64)
    except (ValueError, TypeError) as error:
        text = next((i for i in counted if chunk[i].dtype.kind not in "iuf"), counted[0])
        raise InputError(
            f"{path}: expected numbers only, found {one_line(error)} in column {one_line(columns[text], 60)}; "
            "correct it"
        ) from error
