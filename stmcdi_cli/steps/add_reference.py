"""``stmcdi add-reference``: genes that a panel never measured, from a reference that has them."""

import logging
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from stmcdi_cli import anndata_keys as keys
from stmcdi_cli import roles, validation
from stmcdi_cli.errors import InputError, in_file
from stmcdi_cli.io.h5ad import matrices, shallow_copy
from stmcdi_cli.io.stream import Block, Stream, disk_size
from stmcdi_cli.provenance import record
from stmcdi_cli.sparse import accumulate_by_column, row_chunks
from stmcdi_cli.steps._counts import Counts, Source, are_logarithms, check_options, find_counts
from stmcdi_cli.steps._gene_names import GeneNames, Matches, check_shared, log_matches
from stmcdi_cli.steps._gene_statistics import check_choice
from stmcdi_cli.steps._reference import check_cells, choose_genes, draw_cells, reference_sections
from stmcdi_cli.steps._step import step
from stmcdi_cli.steps._union import Placement, lengthened, lengthened_array

if TYPE_CHECKING:
    from anndata import AnnData

logger = logging.getLogger(__name__)

MAX_REFERENCE_CELLS = 10_000
FEW_SHARED = 40
"""Shared genes below which intervals are wide: there is little to compare panel and reference by."""


@step
def add_reference(
    panel: "AnnData",
    reference: "AnnData",
    *,
    genes: Sequence[str] | None = None,
    n_genes: int | str | None = None,
    max_reference_cells: int = MAX_REFERENCE_CELLS,
    reference_section_key: str | None = None,
    layer: str | None = None,
    reference_layer: str | None = None,
    skip: bool = False,
    round: bool = False,
    seed: int = 0,
) -> Stream:
    """Put a panel and a reference of the same tissue into one file, to impute genes that the panel never measured.

    Genes are the same if they have the same Ensembl identifier (in the names or in a column of ``var``; versions do not
    count), the same name, or the same name without regard to case where that is unambiguous.

    Parameters
    ----------
    panel
        Raw counts with ``obsm['spatial']``: the target.
    reference
        Raw counts of single cells, of another platform or of other sections, with or without ``obsm['spatial']``.
    genes
        Names of genes to add from the reference.
    n_genes
        How many to add instead: those that vary most, by the rule of `select_hvg`'s ``cv2-trend``. "all": every gene
        that is seen in the reference. None: all where they are up to 1,000, otherwise 1,000.
    max_reference_cells
        Most cells, or spots, of the reference to take; of more, so many are drawn at random.
    reference_section_key
        Column of the reference's ``obs`` that names its sections, where it has coordinates. None: the one that
        `import_` found, or else the first with a usual name and several values.
    layer, reference_layer
        Where the counts of either are, as in `normalize`.
    skip, round
        As in `normalize`.
    seed
        Seed of the choice of cells.

    Returns
    -------
    AnnData
        Spots of the panel, then cells of the reference; genes of the panel, then those added. ``X`` (CSR float32) has
        the counts, ``layers['missing']`` (CSR bool) is True where a side lacks a gene, ``obs['stmcdi_role']`` is
        ``target`` or ``reference``, ``var['measured']`` says which genes the panel measured. Columns of ``obs`` and
        ``obsm`` are the panel's; a reference without coordinates has NaN in ``obsm['spatial']``.

    Raises
    ------
    InputError
        Panel and reference share fewer than 20 genes, are of different species, or hold no counts; the reference has
        NaN; or a gene of ``genes`` is in neither.
    """
    _check_options(genes, n_genes, max_reference_cells, seed, skip=skip, round=round)
    notes: list[str] = []  # said when nothing more can be refused
    source = find_counts(panel, layer, "add-reference")
    _check_panel(source.adata)
    target = Counts(source, skip=skip, at_random=round, step="add-reference")
    with in_file("reference"):
        other = find_counts(reference, reference_layer, "add-reference", "--reference-layer")
        check_cells(other, skip=skip or round)
        other = other._replace(adata=_with_places(other.adata, target.adata, reference_section_key, notes))
    names = GeneNames.of(target.adata), GeneNames.of(other.adata)
    measured = target.has_value(slice(None))
    matches = names[1].find_in(names[0])
    shared = np.isin(matches.position, np.flatnonzero(measured))
    check_shared(int(shared.sum()), *names, "the panel", "the reference")
    with in_file("reference"):
        drawn = draw_cells(other, shared, max_reference_cells, seed, notes)
        other = Source(drawn, drawn.X, other.where, other.option)
        cells = Counts(other, skip=skip, at_random=round, step="add-reference: reference")
    _check_same_kind(target, cells)
    added = choose_genes(cells, shared, names, matches, genes, n_genes, notes)
    if not added.size and measured.all():
        raise InputError("expected genes of the reference that the panel lacks, found none; there is nothing to add")
    log_matches("add-reference", matches, names[1], names[0], "the reference", "the panel")
    _log(notes, names, matches, added, int(shared.sum()))

    header = _header(target.adata, drawn, added, list(names[1].name[added]))
    column = matches.position.copy()
    column[added] = target.adata.n_vars + np.arange(added.size)
    header.var[keys.N_REFERENCE_CELLS] = _n_cells(cells, column, header.n_vars)
    header.var[keys.MEASURED] = np.concatenate([measured, np.zeros(added.size, bool)])
    options = {"max_reference_cells": max_reference_cells, "n_genes": n_genes, "seed": seed, "skip": skip}
    options |= {"layer": layer, "reference_layer": reference_layer, "reference_section_key": reference_section_key}
    listed = None if genes is None else sorted(set(genes))
    record(header, "add-reference", {"genes": listed, **options, "round": round or None})
    return Stream(header, _blocks(target, cells, column, header.n_vars), disk_size(target.n_values + cells.n_values))


def _check_same_kind(panel: Counts, cells: Counts) -> None:
    """Refuse counts on one side and their logarithms on the other; say so where one side has other values than counts.

    Intensities of one platform beside counts of another are standardised by the model, gene by gene.
    """
    if panel.whole == cells.whole:
        return
    whole, other = ("the panel", "the reference") if panel.whole else ("the reference", "the panel")
    if are_logarithms((cells if panel.whole else panel).matrix):
        raise InputError(
            f"expected raw counts of both sides, found counts in {whole} and logarithms of normalised counts in "
            f"{other}; give raw counts of both (without --skip)"
        )
    logger.warning(
        "add-reference: %s holds whole counts, and %s other values: raw counts of both are better, where there are any",
        whole,
        other,
    )


def _n_cells(cells: Counts, column: np.ndarray, n_genes: int) -> np.ndarray:
    """In how many cells of the reference each gene of both together is seen [n_genes]; 0 where it lacks the gene.

    ``column`` is where each gene of the reference is among them, or -1.
    """
    seen = np.zeros(column.size)
    for rows in row_chunks(cells.adata.shape):
        found = cells.read(rows)[0].indices
        seen = accumulate_by_column(seen, found, np.ones(found.size))
    number = np.zeros(n_genes, int)
    number[column[column >= 0]] = seen[column >= 0]
    return number


def _check_options(
    genes: Sequence[str] | None, n_genes: int | str | None, most: int, seed: int, *, skip: bool, round: bool
) -> None:
    check_options(skip=skip, round=round)
    check_choice(n_genes, genes)
    validation.at_least("max_reference_cells", most, 2)
    validation.at_least("seed", seed, 0)


def _check_panel(adata: "AnnData") -> None:
    validation.table(adata)
    if keys.ROLE in adata.obs:
        raise InputError(
            f"expected a panel without a reference, found obs['{keys.ROLE}']; give the file that it was made from"
        )
    validation.coordinates(adata)


def _with_places(reference: "AnnData", panel: "AnnData", section_key: str | None, notes: list[str]) -> "AnnData":
    """Give a reference with its coordinates, if any, and the sections that they are in."""
    xy = validation.coordinates(reference) if keys.SPATIAL in reference.obsm else None
    if xy is not None and xy.shape[1] != np.shape(panel.obsm[keys.SPATIAL])[1]:
        notes.append(f"coordinates of the reference are not used: they have {xy.shape[1]} columns, unlike the panel's")
        xy = None
    placed = shallow_copy(reference, obsm={} if xy is None else {keys.SPATIAL: xy})
    section = reference_sections(placed, section_key, notes) if xy is not None or section_key is not None else None
    placed.obs = placed.obs[[]] if section is None else pd.DataFrame({keys.REFERENCE_SECTION: section})
    return placed


def _log(
    notes: list[str], names: tuple[GeneNames, GeneNames], matches: Matches, added: np.ndarray, n_shared: int
) -> None:
    """Say what was noted, which genes are on one side only, and which of them are added."""
    for note in notes:
        logger.info("add-reference: %s", note)
    lacking = np.setdiff1d(np.arange(names[0].name.size), matches.position)
    if lacking.size:
        few = validation.first_few(names[0].name[lacking])
        logger.info("add-reference: genes of the panel that the reference lacks: %s", few)
    few = validation.first_few(names[1].name[added])
    logger.info("add-reference: genes of the reference that are added: %s", few)
    if n_shared < FEW_SHARED:
        logger.warning(
            "add-reference: panel and reference share only %d genes: intervals will be wide; %d or more are better",
            n_shared,
            FEW_SHARED,
        )


def _header(panel: "AnnData", cells: "AnnData", added: np.ndarray, names: Sequence[str]) -> "AnnData":
    """All of the result but its matrices: tables of the panel, with empty rows for cells and genes that are new."""
    import anndata

    cell_names = _unlike(cells.obs_names, panel.obs_names)
    obs = lengthened(panel.obs, cell_names)
    role = np.repeat([roles.TARGET, roles.REFERENCE], [panel.n_obs, cells.n_obs])
    obs[keys.ROLE] = pd.Categorical(role, [roles.TARGET, roles.REFERENCE])
    if keys.REFERENCE_SECTION in cells.obs:
        section = cells.obs[keys.REFERENCE_SECTION].cat.remove_unused_categories()
        codes = np.concatenate([np.full(panel.n_obs, -1), section.cat.codes])
        obs[keys.REFERENCE_SECTION] = pd.Categorical.from_codes(codes, section.cat.categories)
    var = lengthened(panel.var, names, cells.var.iloc[added])
    obsm = {name: lengthened_array(value, cell_names) for name, value in panel.obsm.items()}
    xy = np.asarray(panel.obsm[keys.SPATIAL], np.float64)
    own = cells.obsm.get(keys.SPATIAL, np.full((cells.n_obs, xy.shape[1]), np.nan))
    obsm[keys.SPATIAL] = np.concatenate([xy, own])
    varm = {name: lengthened_array(value, names) for name, value in panel.varm.items()}
    left_out = [f"layers['{name}']" for name in matrices(panel) if name not in (keys.X, keys.RAW_X, keys.MISSING)]
    left_out += [".raw"] if panel.raw is not None else []
    for part, tables in (("obsm", obsm), ("varm", varm)):
        left_out += [f"{part}['{name}']" for name, value in tables.items() if value is None]
    left_out += [f"{part}['{name}']" for part in ("obsp", "varp") for name in getattr(panel, part)]
    if left_out:
        logger.info("add-reference: left out, since the reference has no such thing: %s", ", ".join(left_out))
    return anndata.AnnData(
        obs=obs,
        var=var,
        uns=dict(panel.uns),
        obsm={name: value for name, value in obsm.items() if value is not None},
        varm={name: value for name, value in varm.items() if value is not None},
    )


def _unlike(names: pd.Index, others: pd.Index) -> pd.Index:
    """Give names that are not among others: with -reference at the end of all where some are."""
    clashes = names[names.isin(others)]
    if not len(clashes):
        return names
    logger.info(
        "add-reference: cells of the reference are now called NAME-reference, since spots of the panel have the same "
        "names: %s",
        validation.first_few(clashes),
    )
    while names.isin(others).any():
        names = names + "-reference"
    return names


def _blocks(target: Counts, cells: Counts, column: np.ndarray, n_genes: int) -> Iterator[Block]:
    """Yield the rows of the panel, then those of the cells, whose genes go to the columns given (-1: left out)."""
    for counts, own in ((target, np.arange(target.adata.n_vars)), (cells, column)):
        places = Placement(own, n_genes)
        for rows in row_chunks((counts.adata.n_obs, max(n_genes, counts.adata.n_vars))):
            values, missing = counts.read(rows)
            yield {keys.X: places.place(values), keys.MISSING: places.missing(missing)}
