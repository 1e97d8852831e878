"""Read Stereo-seq's GEM, a text with one line per gene and place, into square bins."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from stmcdi_cli import resources, validation
from stmcdi_cli.errors import InputError, in_file
from stmcdi_cli.io import safety
from stmcdi_cli.io.readers import bins
from stmcdi_cli.io.readers.delimited import first_line, header, open_text, separator
from stmcdi_cli.io.readers.reader import Options, Reading, only

GENES = ("geneID", "gene", "genes", "geneName")
"""Names of the column of genes; the first that is there tells genes apart."""
COUNTS = ("MIDCount", "MIDCounts", "UMICount", "MIDcount", "values")
"""Names of the column of counts."""
ENDINGS = (".gem", ".gem.gz")


def find(path: Path) -> Path | None:
    """Give the file, or the only one with the usual ending in a folder; None where there is none."""
    if path.is_dir():
        return only((file for file in path.iterdir() if file.name.lower().endswith(ENDINGS)), path, "GEM file")
    if not path.is_file():
        return None
    return path if path.name.lower().endswith(ENDINGS) or _columns(path) is not None else None


def recognises(path: Path) -> bool:
    """Whether a path is a GEM file, or the folder with one."""
    return find(path) is not None


def read(path: Path, options: Options) -> Reading:
    """Sum the counts in square bins of ``bin`` x ``bin`` spots of the chip; coordinates are the bins' centres.

    Bins are named X_Y by their corner. Genes are told apart by ``geneID``; where there is ``geneName`` too, it gives
    the names, and ``var['gene_ids']`` has the identifiers.
    """
    validation.at_least("bin", options.bin, 1)
    file = find(path)
    columns = None if file is None else _columns(file)
    if file is None or columns is None:
        found = validation.first_few(header(file or path))
        raise InputError(f"{path}: expected columns geneID, x, y and MIDCount, found {found}; give a GEM file")
    with (
        in_file(file, "cannot be read as GEM", "give the file that Stereo-seq's programs wrote"),
        safety.memory_limited(resources.granted() // 4),
    ):
        number: dict[str, int] = {}
        symbols: dict[str, str] = {}
        corners, sums = bins.sum_in_bins(_spots(file, columns, number, symbols), options.bin)
        if not number:
            raise ValueError("no lines of counts")
    names = [symbols[name] or name for name in number] if symbols else None
    return Reading(bins.tissue_of_bins(corners, sums, list(number), names, options), file)


def _columns(path: Path) -> list[str] | None:
    """Give the names of the columns of genes, x, y, counts and, if it is there too, symbols; None if it is no GEM."""
    names = header(path)
    gene = next((name for name in GENES if name in names), None)
    count = next((name for name in COUNTS if name in names), None)
    if gene is None or count is None or not {"x", "y"} <= set(names):
        return None
    return [gene, "x", "y", count, *(["geneName"] if "geneName" in names and gene != "geneName" else [])]


def _spots(path: Path, columns: list[str], number: dict[str, int], symbols: dict[str, str]) -> Iterator[bins.Part]:
    """Give the counts, some lines at a time; `number` gets each gene's position, `symbols` its name, if any."""
    options: dict[str, Any] = {"sep": separator(first_line(path)), "names": header(path), "usecols": columns}
    options["dtype"] = {columns[0]: str, "x": np.int64, "y": np.int64, columns[3]: np.float64, "geneName": str}
    with open_text(path) as file:
        while file.readline().startswith("#"):
            pass
        for part in pd.read_csv(file, chunksize=bins.LINES, header=None, na_filter=False, **options):
            codes, found = pd.factorize(part[columns[0]])
            gene = np.array([number.setdefault(name, len(number)) for name in found], np.int64)[codes]
            if len(columns) > 4:
                first = ~part[columns[0]].duplicated()
                symbols.update(zip(part[columns[0]][first], part["geneName"][first], strict=True))
            yield part["x"].to_numpy(), part["y"].to_numpy(), gene, part[columns[3]].to_numpy()
