"""Validate the table of samples that a workflow starts from.

workflows/samplesheet.nf follows the same rules in the same words.
"""

import csv
import io
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path

from stmcdi_cli import anndata_keys as keys
from stmcdi_cli import validation
from stmcdi_cli.errors import InputError, in_file
from stmcdi_cli.io.h5ad import open_h5ad
from stmcdi_cli.io.output import atomic_file, check_output
from stmcdi_cli.io.text import read_text
from stmcdi_cli.steps._counts import check_options, check_values, check_whole, find_counts, some_values, whole_counts

REQUIRED = ("sample", "h5ad")
COLUMNS = (*REQUIRED, "section_key", "group")
"""Columns that are always written."""
REFERENCE = "reference"


def _patterns() -> dict[str, re.Pattern[str]]:
    """Pattern of each column in the samplesheet's schema, which a checkout has where Nextflow looks for it."""
    installed = resources.files("stmcdi_cli") / "schema_input.json"
    schema = installed if installed.is_file() else Path(__file__).parents[2] / "assets" / "schema_input.json"
    columns = json.loads(schema.read_text("utf-8"))["items"]["properties"]
    return {name: re.compile(column["pattern"]) for name, column in columns.items()}


SAFE = _patterns()  # these words end up in file names and command lines
RESERVED = ("id", "shard", "samples", "reference_genes")
"""What the workflow notes of a sample itself, under these names."""
SEPARATORS = (",", ";", "\t")
# Nextflow writes a file's name into the script of its task; its folders only into links, where it escapes them.
SAFE_FILE = SAFE.pop("h5ad")
SAFE_REFERENCE = SAFE.pop(REFERENCE)  # the same, or nothing
URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
MOST_FAULTS = 10
"""Faults that one message names."""


def check_samplesheet(
    sheet: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    base: str | os.PathLike[str] | None = None,
    content: bool = False,
    layer: str | None = None,
    skip: bool = False,
    round: bool = False,
) -> None:
    """Check a samplesheet and write it again with commas, its usual columns, absolute paths, then its other columns.

    Parameters
    ----------
    sheet
        Cells separated by commas, semicolons or tabs, with a header: ``sample`` and ``h5ad``, optionally
        ``section_key`` (the column of ``obs`` with tissue sections) and ``group`` (samples of a group are sections of
        one tissue), and ``reference`` (file for `add_reference`). Other columns are carried along.
    output
        The validated CSV. URIs such as ``s3://...`` are passed through unseen.
    base
        Folder that relative paths start from; the sheet's own folder if None. Paths not found there are looked for in
        the working folder.
    content
        Open every file: coordinates, section column, and the first values.
    layer, skip, round
        What `normalize` will be given: the layer that holds the counts, and whether values need not be counts.

    Raises
    ------
    InputError
        The sheet has no rows, a repeated or missing column, a ragged row, an unsafe or repeated sample name, a group
        that is not one, a path that a shell could misread, or names a file that does not exist. All such faults are in
        one message.
    """
    check_options(skip=skip, round=round)
    sheet = Path(sheet)
    check_output(output, sheet)
    folders = [Path(base) if base is not None else sheet.parent, Path.cwd()]
    rows = _read(sheet)
    header = _header(sheet, rows)
    if len(rows) < 2:
        raise InputError(f"{sheet}: expected at least 1 sample, found none; add a row for each sample")

    faults: list[str] = []
    line_of: dict[str, int] = {}
    samples = []
    for line, cells in rows[1:]:
        where = f"{sheet}, line {line}"
        row = dict.fromkeys(COLUMNS, "")
        with _collected(faults):
            row |= _cells(header, cells, where)
            samples.append(row)
            with _collected(faults):
                _check_new(row["sample"], line, line_of, where)
            _check_words(row, where, faults)
            with _collected(faults):
                row["h5ad"] = _locate(row["h5ad"], "h5ad", folders, where)
                if content and not URI.match(row["h5ad"]):
                    _check_content(row["h5ad"], row["section_key"] or None, layer, skip or round, where)
            if row.get(REFERENCE):
                row[REFERENCE] = _locate(row[REFERENCE], REFERENCE, folders, where)
    _check_groups(sheet, samples, faults)
    if faults:
        raise InputError(_together(sheet, faults))

    with atomic_file(output) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        columns = dict.fromkeys([*COLUMNS, *filter(None, header)])
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(samples)


@contextmanager
def _collected(faults: list[str]) -> Iterator[None]:
    """Note an error, to go on and find the others."""
    try:
        yield
    except InputError as error:
        faults.append(str(error))


def _together(sheet: Path, faults: list[str]) -> str:
    """One message of several, with the sheet's name in the first alone."""
    others = [fault.removeprefix(f"{sheet}, ").removeprefix(f"{sheet}: ") for fault in faults[1:MOST_FAULTS]]
    more = [f"and {len(faults) - MOST_FAULTS} more"] if len(faults) > MOST_FAULTS else []
    return "; ".join([faults[0], *others, *more])


def _read(sheet: Path) -> list[tuple[int, list[str]]]:
    """Rows of the sheet that are not blank, each with its line number and its cells stripped."""
    try:
        text = read_text(sheet)
        reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=_separator(text))
        rows = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader]
    except FileNotFoundError as error:
        raise InputError(f"{sheet}: no such file; check the path") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = "letters of another encoding" if isinstance(error, UnicodeDecodeError) else error
        raise InputError(f"{sheet}: cannot be read as CSV in UTF-8 ({reason}); save it as such") from error
    return [(line, cells) for line, cells in rows if any(cells)]


def _separator(text: str) -> str:
    """What separates the cells: of the three, the one that the header has most of."""
    header = next((line for line in text.splitlines() if line.strip(" ,;\t")), "")
    return max(SEPARATORS, key=header.count)


def _header(sheet: Path, rows: list[tuple[int, list[str]]]) -> list[str]:
    """Names of the columns, ours in lower case; those without a name are left out later."""
    if not rows:
        raise InputError(f"{sheet}: expected a header, found an empty file; start it with {','.join(COLUMNS)}")
    header = [cell.lower() if cell.lower() in (*COLUMNS, REFERENCE) else cell for cell in rows[0][1]]
    while not header[-1]:
        header.pop()
    faults: list[str] = []
    for column in dict.fromkeys(filter(None, header)):
        with _collected(faults):
            if header.count(column) > 1:
                raise InputError(f"{sheet}, line 1: expected column '{column}' once, found it again; remove one")
            if column in RESERVED:
                raise InputError(f"{sheet}, line 1: expected no column '{column}', found one; rename it")
    for column in REQUIRED:
        with _collected(faults):
            if column not in header:
                raise InputError(f"{sheet}, line 1: expected a column '{column}', found {', '.join(header)}; add it")
    if faults:
        raise InputError(_together(sheet, faults))
    return header


def _cells(header: list[str], cells: list[str], where: str) -> dict[str, str]:
    """The cells of a row by column; empty ones beyond the header and columns without a name are left out."""
    while len(cells) > len(header) and not cells[-1]:
        cells = cells[:-1]
    if len(cells) != len(header):
        raise InputError(f"{where}: expected {len(header)} cells, found {len(cells)}; check the separators")
    return {column: cell for column, cell in zip(header, cells, strict=True) if column}


def _check_words(row: dict[str, str], where: str, faults: list[str]) -> None:
    for column, allowed in SAFE.items():
        with _collected(faults):
            if not allowed.fullmatch(row[column]):
                raise InputError(
                    f"{where}: expected {column} to be made of letters a to z, digits, '.', '_' and '-' "
                    f"and to start with a letter or digit, found '{row[column]}'; rename it"
                )


def _check_new(name: str, line: int, line_of: dict[str, int], where: str) -> None:
    if line_of.setdefault(name, line) != line:
        raise InputError(f"{where}: sample '{name}' is also in line {line_of[name]}; give each sample its own name")


def _check_groups(sheet: Path, samples: list[dict[str, str]], faults: list[str]) -> None:
    """Refuse groups that cannot become one tissue under one name."""
    names = {row["sample"] for row in samples}
    groups: dict[str, list[dict[str, str]]] = {}
    for row in samples:
        groups.setdefault(row["group"], []).append(row)
    for group in filter(None, groups):
        with _collected(faults):
            if group in names:
                raise InputError(f"{sheet}: '{group}' is the name of a sample and of a group; rename one of them")
            for column in ("section_key", REFERENCE):
                if len({row.get(column, "") for row in groups[group]}) > 1:
                    raise InputError(
                        f"{sheet}: expected one {column} in all samples of group '{group}'; make them the same"
                    )


def _locate(h5ad: str, column: str, folders: list[Path], where: str) -> str:
    if not h5ad:
        raise InputError(f"{where}: expected a path in h5ad, found an empty cell; name the sample's file")
    if not (SAFE_REFERENCE if column == REFERENCE else SAFE_FILE).fullmatch(h5ad):
        raise InputError(
            f"{where}: expected the path in {column} to have no quotes, $, ; and the like, and the file's name no "
            f"spaces, found '{h5ad}'; rename it or link to it"
        )
    if URI.match(h5ad):
        return h5ad
    paths = [folder / Path(h5ad).expanduser() if h5ad.startswith("~/") else folder / h5ad for folder in folders]
    for path in paths:
        if path.is_file():
            return str(path.resolve())
    if any(path.is_dir() for path in paths):
        raise InputError(
            f"{where}: expected an h5ad file, found the folder '{h5ad}'; "
            f"turn it into one by `stmcdi import {h5ad} {Path(h5ad).name}.h5ad`"
        )
    raise InputError(f"{where}: no file '{h5ad}' in {folders[0]}; correct the path (relative ones start at the sheet)")


def _check_content(h5ad: str, section_key: str | None, layer: str | None, any_value: bool, where: str) -> None:
    """Refuse what the first steps would: a look at the header, the coordinates, the sections and some values."""
    try:
        with open_h5ad(h5ad) as adata, in_file(h5ad, "cannot be read as AnnData", "write it again with anndata"):
            source = find_counts(adata, layer, "check-samplesheet")
            validation.table(source.adata)
            validation.coordinates(adata)
            validation.sections(adata, section_key)
            if keys.MISSING in source.adata.layers:  # what is marked there may hold anything
                return
            values = some_values(source.matrix)
            check_values(values, source)
            if not any_value:
                check_whole(whole_counts(values), source)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
