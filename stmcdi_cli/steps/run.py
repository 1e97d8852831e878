"""``stmcdi run``: all the steps in one process, for a laptop."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from stmcdi_cli import validation
from stmcdi_cli.errors import OptionError
from stmcdi_cli.logging import quietly
from stmcdi_cli.steps._presets import read_preset
from stmcdi_cli.steps._step import of_tissues
from stmcdi_cli.steps.add_reference import MAX_REFERENCE_CELLS, add_reference
from stmcdi_cli.steps.build_graph import build_graph
from stmcdi_cli.steps.hold_out import hold_out
from stmcdi_cli.steps.impute import TARGETS, impute
from stmcdi_cli.steps.normalize import normalize
from stmcdi_cli.steps.select_hvg import select_hvg
from stmcdi_cli.steps.train import train

if TYPE_CHECKING:
    from anndata import AnnData

    from stmcdi_cli.model.base import ImputationModel


@of_tissues
@quietly
def run(
    adata: "AnnData",
    model_dir: str | os.PathLike[str] | None = None,
    *,
    model: "str | os.PathLike[str] | ImputationModel | None" = None,
    layer: str | None = None,
    skip: bool = False,
    round: bool = False,
    reference: "AnnData | None" = None,
    reference_genes: Sequence[str] | None = None,
    n_reference_genes: int | str | None = None,
    max_reference_cells: int = MAX_REFERENCE_CELLS,
    reference_section_key: str | None = None,
    reference_layer: str | None = None,
    section_key: str | None = None,
    n_genes: int | str | None = None,
    min_spots: float | None = None,
    genes: Sequence[str] | None = None,
    ignore_missing_genes: bool = False,
    n_neighbors: int = 5,
    preset: str | os.PathLike[str] = "default",
    target: str = "auto",
    n_samples: int = 50,
    fraction: float = 0.0,
    seed: int = 0,
    device: str = "auto",
    quiet: bool = False,
) -> "tuple[AnnData, AnnData | None]":
    """Normalise, choose genes, build the graph, train and impute; with a reference, also genes that were not measured.

    Parameters
    ----------
    adata
        Raw counts with ``obsm['spatial']``.
    model_dir
        Folder to write the model to.
    model
        A trained model, or its folder, to apply instead of training one: its genes are kept, and those that `adata`
        lacks are taken from the reference.
    layer, skip, round
        Where the counts are, and how they are taken (see `normalize`).
    reference
        Cells, or spots of another platform, with genes that `adata` lacks and that are to be imputed.
    reference_genes, n_reference_genes, max_reference_cells, reference_section_key, reference_layer
        What is taken of the reference (see `add_reference`, where the first two are ``genes`` and ``n_genes``).
    section_key
        Column of ``obs`` that tells tissue sections apart.
    n_genes, min_spots, genes, ignore_missing_genes
        How many variable genes to keep, or which (see `select_hvg`).
    n_neighbors
        Neighbours of each spot (see `build_graph`).
    preset
        See `train`.
    target, n_samples
        See `impute`.
    fraction
        Share of entries to hide first, so that the result can be measured; 0 hides nothing.
    seed
        Seed of every step.
    device
        ``auto``, ``cpu`` or ``cuda``.
    quiet
        Say nothing but warnings.

    Returns
    -------
    The imputed data, and the truth of what was hidden (None where nothing was).

    Raises
    ------
    InputError
        A step refuses its input.
    OptionError
        An option of `run` itself is wrong, or contradicts another.
    """
    validation.at_least("n_samples", n_samples, 1)  # before minutes of training, not after
    validation.one_of("target", target, TARGETS)
    read_preset(preset)
    changed = None if preset == "default" else preset
    trained = _trained(model, model_dir, genes, n_genes, min_spots, reference_genes, n_reference_genes, changed)
    if trained is not None:
        genes, reference_genes = trained.genes, None if reference is None else trained.genes
    together = _with_reference(
        adata,
        reference,
        genes=reference_genes,
        n_genes=n_reference_genes,
        max_reference_cells=max_reference_cells,
        reference_section_key=reference_section_key,
        layer=layer,
        reference_layer=reference_layer,
        skip=skip,
        round=round,
        seed=seed,
    )
    # `add_reference` puts the counts in X
    prepared = normalize(together, layer=layer if reference is None else None, skip=skip, round=round)
    ignore = ignore_missing_genes or trained is not None  # impute says which genes of a model are not there
    prepared = select_hvg(prepared, n_genes=n_genes, min_spots=min_spots, genes=genes, ignore_missing_genes=ignore)
    prepared = build_graph(prepared, n_neighbors=n_neighbors, section_key=section_key)
    prepared, truth = hold_out(prepared, fraction=fraction, seed=seed) if fraction > 0 else (prepared, None)
    if trained is None:
        assert model_dir is not None  # or `_trained` has refused
        trained = train(prepared, model_dir, preset=preset, device=device, seed=seed, quiet=quiet)
    imputed = impute(prepared, trained, target=target, n_samples=n_samples, seed=seed, device=device, quiet=quiet)
    return imputed, truth


def _trained(
    model: "str | os.PathLike[str] | ImputationModel | None", model_dir: object, *choices: object
) -> "ImputationModel | None":
    """Load a trained model; refuse beside it what only matters for training one, or for the choice of its genes."""
    if model is None:
        if model_dir is None:
            raise OptionError("expected `model_dir`, a folder for the model, or `model`, a trained one; found neither")
        return None
    names = ("model_dir", "genes", "n_genes", "min_spots", "reference_genes", "n_reference_genes", "preset")
    given = [name for name, value in zip(names, (model_dir, *choices), strict=True) if value is not None]
    if given:
        option = "--" + given[0].replace("_", "-")
        raise OptionError(f"expected --model or {option}, found both; leave one out: a trained model has its own")
    if not isinstance(model, (str, os.PathLike)):
        return model
    from stmcdi_cli.model.save_load import load

    return load(model)


def _with_reference(adata: "AnnData", reference: "AnnData | None", **options: Any) -> "AnnData":
    """Add a reference where there is one; refuse options about it where there is none."""
    if reference is not None:
        return add_reference(adata, reference, **options)
    of_reference = ("genes", "n_genes", "reference_section_key", "reference_layer")
    if any(options[name] is not None for name in of_reference) or options["max_reference_cells"] != MAX_REFERENCE_CELLS:
        raise OptionError("expected `reference` beside options about it, found none; give it (--reference)")
    return adata
