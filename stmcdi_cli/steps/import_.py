"""``stmcdi import``: convert the files of platforms and packages to the h5ad file that the other steps start from.

The step is called ``import`` wherever a name may be a Python keyword, and ``import_`` where it may not.
"""

import logging
import os
import re
import warnings
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stmcdi_cli import anndata_keys as keys
from stmcdi_cli import validation
from stmcdi_cli.errors import InputError, in_file
from stmcdi_cli.io.readers import coordinates as places
from stmcdi_cli.io.readers.reader import Options, Reader, Reading
from stmcdi_cli.io.readers.registry import BY_NAME, READERS
from stmcdi_cli.provenance import imported_section_key, note_input, record
from stmcdi_cli.sparse import mask_out, missing_mask, nan_mask, to_csr
from stmcdi_cli.steps._counts import check_options, check_whole, find_counts, log_rounded, n_fractions, whole_counts

if TYPE_CHECKING:
    from anndata import AnnData

logger = logging.getLogger(__name__)

FORMATS = ("auto", *BY_NAME)
_OF_OUTPUT = re.compile(
    r"(cells|(cell|nucleus)_boundaries|transcripts|tissue_positions|barcodes|features|metrics_summary|scalefactors"
    r"|gene_panel|experiment)(_|\b)|.*\.parquet$"
)
"""Names of files in an instrument's output that hold no counts of spots."""


def import_(
    path: str | os.PathLike[str],
    *,
    format: str = "auto",
    coordinates: str | os.PathLike[str] | None = None,
    bin_um: int = 16,
    bin: int = 50,
    table: str | None = None,
    layer: str | None = None,
    skip: bool = False,
    round: bool = False,
    quiet: bool = False,
) -> "AnnData":
    """Read counts and coordinates.

    Parameters
    ----------
    path
        File or folder of any of `FORMATS`: docs/steps/import.md has a table of them.
    format
        One of `FORMATS`; ``auto`` detects it.
    coordinates
        Where the coordinates are, instead of where they are found: a table with a row per spot (name, x, y), a key of
        ``obsm``, or two columns of ``obs`` (``x,y``).
    bin_um
        Side of the bins, in micrometres (Visium HD).
    bin
        Side of the bins, in spots of the chip (Stereo-seq).
    table
        Name of the table (SpatialData).
    layer, skip, round
        Where the counts are in AnnData, and how they are taken (see `normalize`).
    quiet
        Do not report what was left out, renamed or chosen.

    Returns
    -------
    AnnData
        Counts in ``X``, CSR float32; ``obsm['spatial']``, float64; unique names: a repeated one gets ``-1``, ...

    Raises
    ------
    InputError
        The file is absent, has another format, no counts, or has no coordinates or several.
    """
    check_options(skip=skip, round=round)
    validation.one_of("format", format, FORMATS)
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: no such file; check the path")
    reader = _reader(path) if format == "auto" else BY_NAME[format]
    given = None if coordinates is None else os.fspath(coordinates)
    options = Options(coordinates=given, bin_um=bin_um, bin=bin, table=table)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # names that are not unique, which is mended here, and deprecations
        adata, source, section_key = _read(reader, path, options)
        with in_file(path):
            adata = _counts_in_x(adata, layer, skip=skip, at_random=round)
        section_key = section_key or imported_section_key(adata)
        places.place(adata, path, options)
        _make_unique(adata, options)
    with in_file(path):
        validation.check(adata)
        validation.table(adata)
        adata.obsm[keys.SPATIAL] = validation.coordinates(adata)
    parameters: dict[str, Any] = {
        "path": str(path),
        "format": reader.name,
        "coordinates": given,
        "table": table,
        "layer": layer,
        "section_key": section_key,
    }
    parameters |= {name: True for name, chosen in {"skip": skip, "round": round}.items() if chosen}
    bins = {"visium-hd": {"bin_um": bin_um}, "stereo-seq": {"bin": bin}}.get(reader.name, {})
    record(adata, "import", parameters | bins)
    hint = validation.suggest_sections(adata, adata.obsm[keys.SPATIAL]) if section_key is None else None
    if hint:
        options.note(hint)
    if source.is_file():
        note_input("import", source, adata)
    for note in options.notes if not quiet else ():
        logger.info("import: %s", note)
    return adata


def _counts_in_x(adata: "AnnData", layer: str | None, *, skip: bool, at_random: bool) -> "AnnData":
    """Give the tissue with its counts in ``X``; refuse values that are no counts, unless they are to be used."""
    source = find_counts(adata, layer, "import")
    counts = to_csr(source.matrix)
    if not skip:
        found = mask_out(counts, nan_mask(counts) + missing_mask(source.adata))
        check_whole(whole_counts(found, at_random=at_random), source)
        log_rounded("import", source.where, n_fractions(found), at_random=at_random)
        counts = whole_counts(counts, at_random=at_random)
    source.adata.X = counts.copy()  # a layer keeps its own
    return source.adata


def _reader(path: Path) -> Reader:
    """Find the reader of a path."""
    found = next((reader for reader in READERS if reader.recognises(path)), None)
    if found is None:
        raise InputError(
            f"{path}: expected one of {', '.join(BY_NAME)}, found a folder of none of them; "
            "give the folder that the instrument wrote, or the file of counts in it"
        )
    return found


def _read(reader: Reader, path: Path, options: Options) -> Reading:
    """Read a path. One of an output's files may say little by itself: name the folder that can be read."""
    try:
        return reader.read(path, options)
    except InputError as error:
        folder, found = path.resolve().parent, None
        with suppress(InputError):  # several outputs in one folder
            found = next((each for each in READERS if _OF_OUTPUT.match(path.name) and each.recognises(folder)), None)
        if found in (None, reader):
            raise
        raise type(error)(f"{error}; or give the folder {folder}, an output of {found.name}") from error


def _make_unique(adata: "AnnData", options: Options) -> None:
    """Rename repeated genes and spots: the second one gets ``-1``, and so on."""
    for what, names, rename in (
        ("genes", adata.var_names, adata.var_names_make_unique),
        ("spots", adata.obs_names, adata.obs_names_make_unique),
    ):
        if not names.is_unique:
            rename()
            options.note(f"renamed repeated {what}: {validation.first_few(names[names.duplicated()].unique())}")
