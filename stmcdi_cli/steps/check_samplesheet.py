"""Validate the table of samples that a workflow starts from."""

import csv
import io
import json
import os
import re
from importlib import resources
from pathlib import Path

from stmcdi_cli.errors import InputError
from stmcdi_cli.io.output import atomic_file, check_output
from stmcdi_cli.io.text import read_text

REQUIRED = ("sample", "h5ad")
COLUMNS = (*REQUIRED, "section_key", "group")


def _patterns() -> dict[str, re.Pattern[str]]:
    """Pattern of each column in the samplesheet's schema, which a checkout has where Nextflow looks for it."""
    installed = resources.files("stmcdi_cli") / "schema_input.json"
    schema = installed if installed.is_file() else Path(__file__).parents[2] / "assets" / "schema_input.json"
    columns = json.loads(schema.read_text("utf-8"))["items"]["properties"]
    return {name: re.compile(column["pattern"]) for name, column in columns.items()}


SAFE = _patterns()  # these words end up in file names and command lines
# Nextflow writes a file's name into the script of its task; its folders only into links, where it escapes them.
SAFE_FILE = SAFE.pop("h5ad")
URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def check_samplesheet(
    sheet: str | os.PathLike[str], output: str | os.PathLike[str], *, base: str | os.PathLike[str] | None = None
) -> None:
    """Check a samplesheet and write it again with all four columns and absolute paths.

    Parameters
    ----------
    sheet
        CSV with a header: ``sample`` and ``h5ad``, optionally ``section_key`` (the column of ``obs`` with tissue
        sections) and ``group`` (samples of a group are sections of one tissue).
    output
        The validated CSV. URIs such as ``s3://...`` are passed through unseen.
    base
        Folder that relative paths start from; the sheet's own folder if None. Paths not found there are looked for in
        the working folder.

    Raises
    ------
    InputError
        The sheet has no rows, an unknown, repeated or missing column, a ragged row, an unsafe or repeated sample
        name, a group that is not one, a path that a shell could misread, or names a file that does not exist.
    """
    sheet = Path(sheet)
    check_output(output, sheet)
    folders = [Path(base) if base is not None else sheet.parent, Path.cwd()]
    rows = _read(sheet)
    header = _header(sheet, rows)
    if len(rows) < 2:
        raise InputError(f"{sheet}: expected at least 1 sample, found none; add a row for each sample")

    line_of: dict[str, int] = {}
    samples = []
    for line, cells in rows[1:]:
        where = f"{sheet}, line {line}"
        if len(cells) != len(header):
            raise InputError(f"{where}: expected {len(header)} cells, found {len(cells)}; check the commas")
        row = dict.fromkeys(COLUMNS, "") | dict(zip(header, cells, strict=True))
        name = row["sample"]
        for column, allowed in SAFE.items():
            if not allowed.fullmatch(row[column]):
                raise InputError(
                    f"{where}: expected {column} to be made of letters, digits, '.', '_' and '-' "
                    f"and to start with a letter or digit, found '{row[column]}'; rename it"
                )
        if name in line_of:
            raise InputError(f"{where}: sample '{name}' is also in line {line_of[name]}; give each sample its own name")
        line_of[name] = line
        row["h5ad"] = _locate(row["h5ad"], folders, where)
        samples.append(row)
    _check_groups(sheet, samples)

    with atomic_file(output) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(samples)


def _read(sheet: Path) -> list[tuple[int, list[str]]]:
    """Rows of the sheet that are not blank, each with its line number and its cells stripped."""
    try:
        reader = csv.reader(io.StringIO(read_text(sheet), newline=""), strict=True)
        rows = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader]
    except FileNotFoundError as error:
        raise InputError(f"{sheet}: no such file; check the path") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{sheet}: cannot be read as CSV in UTF-8 ({error}); save it as such") from error
    return [(line, cells) for line, cells in rows if any(cells)]


def _header(sheet: Path, rows: list[tuple[int, list[str]]]) -> list[str]:
    if not rows:
        raise InputError(f"{sheet}: expected a header, found an empty file; start it with {','.join(COLUMNS)}")
    header = rows[0][1]
    for column in header:
        if column not in COLUMNS:
            raise InputError(
                f"{sheet}, line 1: expected columns {', '.join(COLUMNS)}, found '{column}'; remove or rename it"
            )
        if header.count(column) > 1:
            raise InputError(f"{sheet}, line 1: expected column '{column}' once, found it again; remove one")
    for column in REQUIRED:
        if column not in header:
            raise InputError(f"{sheet}, line 1: expected a column '{column}', found {', '.join(header)}; add it")
    return header


def _check_groups(sheet: Path, samples: list[dict[str, str]]) -> None:
    """Refuse groups that cannot become one tissue under one name."""
    names = {row["sample"] for row in samples}
    section_key: dict[str, str] = {}
    for row in samples:
        group = row["group"]
        if group in names:
            raise InputError(f"{sheet}: '{group}' is the name of a sample and of a group; rename one of them")
        if group and section_key.setdefault(group, row["section_key"]) != row["section_key"]:
            raise InputError(f"{sheet}: expected one section_key in all samples of group '{group}'; make them the same")


def _locate(h5ad: str, folders: list[Path], where: str) -> str:
    if not h5ad:
        raise InputError(f"{where}: expected a path in h5ad, found an empty cell; name the sample's file")
    if not SAFE_FILE.fullmatch(h5ad):
        raise InputError(
            f"{where}: expected the path in h5ad to have no quotes, $, ; and the like, and the file's name no spaces, "
            f"found '{h5ad}'; rename it or link to it"
        )
    if URI.match(h5ad):
        return h5ad
    for folder in folders:
        path = folder / h5ad
        if path.is_file():
            return str(path.resolve())
    raise InputError(f"{where}: no file '{h5ad}' in {folders[0]}; correct the path (relative ones start at the sheet)")
