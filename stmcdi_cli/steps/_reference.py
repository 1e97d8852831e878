"""The reference of `add_reference`: its cells, and which of its genes are added."""

from collections.abc import Sequence
from numbers import Integral
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import scipy.sparse as sp

from stmcdi_cli import anndata_keys as keys
from stmcdi_cli import validation
from stmcdi_cli.errors import InputError
from stmcdi_cli.io.readers.controls import CONTROL
from stmcdi_cli.logging import left_out_text
from stmcdi_cli.provenance import imported_section_key
from stmcdi_cli.sparse import as_row_major, mask_out, row_sums, select_rows, to_csr
from stmcdi_cli.steps._counts import Counts, Source, check_values, check_whole, some_values, whole_counts
from stmcdi_cli.steps._gene_names import GeneNames, Matches
from stmcdi_cli.steps._gene_statistics import ALL, USUAL_MIN_SPOTS, USUAL_N_GENES, cv2_residual, gene_statistics

if TYPE_CHECKING:
    from anndata import AnnData


def check_cells(source: Source, *, skip: bool) -> None:
    """Refuse a reference that has no names or no counts, by its first values; others are read later.

    Raises
    ------
    InputError
        It cannot be used. The message says where the counts are, if they are elsewhere in the file.
    """
    validation.table(source.adata)
    if keys.MISSING not in source.adata.layers:  # what is marked there may hold anything
        values = some_values(source.matrix)
        check_values(values, source)
        if not skip:
            check_whole(whole_counts(values), source)


def draw_cells(source: Source, shared: np.ndarray, most: int, seed: int, notes: list[str]) -> "AnnData":
    """Take all cells of a reference, or some at random; those without a count of a shared gene are left out.

    Parameters
    ----------
    source
        The reference.
    shared
        Which of its genes the panel has too, bool [G].
    most
        Cells to take at most.
    seed
        Seed of the choice.
    notes
        What is to be said is added here.

    Returns
    -------
    The cells in memory: counts in ``X``, ``layers['missing']``, coordinates and sections where there are any.

    Raises
    ------
    InputError
        There is NaN in them, or no cell has counts of shared genes.
    """
    import anndata

    adata, n = source.adata, source.adata.n_obs
    chosen = np.arange(n)
    if n > most:
        chosen = np.sort(np.random.default_rng(seed).choice(n, most, replace=False))
        notes.append(f"{most} of the {n} cells of the reference are used, drawn at random (--max-reference-cells)")
    x = to_csr(select_rows(as_row_major(source.matrix), chosen))
    missing = sp.csr_matrix(x.shape, dtype=bool)
    if keys.MISSING in adata.layers:
        missing = to_csr(select_rows(as_row_major(adata.layers[keys.MISSING]), chosen), bool)
        x = mask_out(x, missing)
    n_nan = int(np.isnan(x.data).sum())
    if n_nan:
        raise InputError(f"expected a count in every entry, found NaN in {n_nan}; remove those genes or cells")
    used = row_sums(x[:, shared]) > 0
    if not used.any():
        raise InputError("expected counts of genes that the panel has, found none; check that these are raw counts")
    if not used.all():
        notes.append(f"{(~used).sum()} cells without a count of a shared gene are left out")
    columns = [name for name in (keys.REFERENCE_SECTION,) if name in adata.obs]
    return anndata.AnnData(
        X=x[used],
        obs=adata.obs[columns].iloc[chosen[used]],
        var=adata.var,
        obsm={name: value[chosen[used]] for name, value in adata.obsm.items() if name == keys.SPATIAL},
        layers={keys.MISSING: missing[used]} if missing.nnz else None,
    )


def reference_sections(adata: "AnnData", section_key: str | None, notes: list[str]) -> pd.Series | None:
    """Section of every cell, where the reference has coordinates in several sections; else None.

    Raises
    ------
    InputError
        There is no such column, or it is empty for some cells.
    """
    if section_key is None:
        section_key = imported_section_key(adata)
    if section_key is None:
        named = (name for name in validation.SECTION_NAMES if name in adata.obs and adata.obs[name].notna().all())
        section_key = next((name for name in named if adata.obs[name].nunique() > 1), None)
        if section_key is not None:
            notes.append(f"sections of the reference are those of obs['{section_key}'] (--reference-section-key)")
    if section_key is None:
        return None
    validation.sections(adata, section_key, option="--reference-section-key")
    return adata.obs[section_key].astype(str).astype("category")


def choose_genes(
    cells: Counts,
    shared: np.ndarray,
    names: tuple[GeneNames, GeneNames],
    matches: Matches,
    genes: Sequence[str] | None,
    n_genes: int | str | None,
    notes: list[str],
) -> np.ndarray:
    """Choose genes of the reference to add to a panel.

    Parameters
    ----------
    cells
        The reference.
    shared
        Which of its genes the panel has too, bool [G].
    names, matches
        What the genes of panel and reference are called, and where the latter are in the panel.
    genes, n_genes
        See `add_reference`.
    notes
        What is to be said is added here.

    Returns
    -------
    Positions of the genes in the reference, rising.

    Raises
    ------
    InputError
        A gene is in neither file, or there are fewer than asked for.
    """
    of_panel, of_reference = names
    clashes = (matches.position < 0) & np.isin(of_reference.name, of_panel.name)
    if clashes.any():
        few = validation.first_few(of_reference.name[clashes])
        notes.append(f"genes of the reference left out, since the panel calls other genes so: {few}")
    absent = (matches.position < 0) & ~clashes
    if genes is not None:
        return _named(genes, of_panel, of_reference, absent, notes)
    control = absent & np.array([CONTROL.fullmatch(str(name)) is not None for name in of_reference.name], bool)
    if control.any():
        few = validation.first_few(of_reference.name[control])
        notes.append(f"control probes of the reference, which are no genes, are not added: {few}")
        absent &= ~control
    adata = cells.adata[:, absent].copy()
    total = row_sums(cells.read(slice(0, adata.n_obs))[0][:, shared])
    depth = total / np.median(total)
    stats = gene_statistics(adata, lambda rows: cells.read(rows)[0][:, absent], depth, empty_spots=True)
    never = int((stats.seen == 0).sum())
    if n_genes == ALL or (n_genes is None and np.count_nonzero(absent) <= USUAL_N_GENES):
        _note_left_out(notes, stats.seen.size - never, {"never seen in the reference": never})
        return np.flatnonzero(absent)[stats.seen > 0]
    residual = cv2_residual(stats, USUAL_MIN_SPOTS)
    n_ranked = int(np.isfinite(residual).sum())
    if isinstance(n_genes, Integral) and int(n_genes) > n_ranked:
        raise InputError(
            f"expected {n_genes} genes that the panel lacks, seen in at least {USUAL_MIN_SPOTS:.0%} of the cells, "
            f"found {n_ranked}; lower --n-genes, or name genes (--genes)"
        )
    best = np.argsort(-residual, kind="stable")[: min(int(n_genes or USUAL_N_GENES), n_ranked)]  # NaN comes last
    rare = residual.size - n_ranked - never
    reasons = {"never seen in the reference": never, f"seen in less than {USUAL_MIN_SPOTS:.0%} of the cells": rare}
    _note_left_out(notes, best.size, reasons | {"that vary less": n_ranked - best.size})
    return np.flatnonzero(absent)[np.sort(best)]


def _note_left_out(notes: list[str], n_kept: int, reasons: dict[str, int]) -> None:
    """Note how many of the genes that the panel lacks are not added, and why."""
    if any(reasons.values()):
        total = n_kept + sum(reasons.values())
        notes.append(left_out_text("genes that the panel lacks are added", total, reasons))


def _named(
    genes: Sequence[str], of_panel: GeneNames, of_reference: GeneNames, absent: np.ndarray, notes: list[str]
) -> np.ndarray:
    """Positions in the reference of the genes of a list that the panel lacks; refuse those that are in neither."""
    wanted = GeneNames.of_list(genes)
    found, known = wanted.find_in(of_reference).position, wanted.find_in(of_panel).position >= 0
    unknown = wanted.name[(found < 0) & ~known]
    if unknown.size:
        raise InputError(
            f"expected genes that reference or panel have, did not find {validation.first_few(unknown)}; correct the "
            "list (--genes)"
        )
    added = np.zeros(absent.size, bool)
    added[found[found >= 0]] = True
    added &= absent
    n_known = wanted.name.size - int(added.sum())
    if n_known:
        notes.append(f"{n_known} of the {wanted.name.size} genes listed are in the panel already")
    _note_left_out(notes, int(added.sum()), {"not in the list": int(absent.sum() - added.sum())})
    return np.flatnonzero(added)
