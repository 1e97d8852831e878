"""``stmcdi impute``: draw the entries that have no value, starting from pure noise (Algorithm 2)."""

import logging
import os
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

from stmcdi_cli import anndata_keys as keys
from stmcdi_cli import validation
from stmcdi_cli.errors import InputError
from stmcdi_cli.io import shards
from stmcdi_cli.io.h5ad import carried, matrices
from stmcdi_cli.io.partial import Parts, _kept_in
from stmcdi_cli.io.stream import Block, Stream, disk_size, gathered, stored
from stmcdi_cli.provenance import _digest, record
from stmcdi_cli.sparse import by_rows, rows_of, to_csr

if TYPE_CHECKING:
    import torch
    from anndata import AnnData

    from stmcdi_cli.model.base import ImputationModel

logger = logging.getLogger(__name__)

TARGETS = ("missing", "zeros", "all")
LAYERS = (keys.IMPUTED, keys.IMPUTED_SD, keys.IMPUTED_MEDIAN, keys.IMPUTED_Q05, keys.IMPUTED_Q95)
_FEWEST_SPOTS = 256  # in a part of the work
_ENCODED = "encoded"


def impute(
    adata: "AnnData",
    model_dir: "str | os.PathLike[str] | ImputationModel",
    *,
    target: str = "missing",
    n_samples: int = 50,
    sampler: str = "dpm",
    n_steps: int | None = None,
    seed: int = 0,
    batch_size: int = 256,
    device: str = "auto",
    genes: Sequence[str] | None = None,
    layers: Sequence[str] | None = None,
    shard: str | None = None,
    parts: str | os.PathLike[str] | None = None,
    quiet: bool = False,
) -> "AnnData":
    """Fill entries with the mean of draws from a trained model, and say how far they spread.

    Parameters
    ----------
    adata
        The data the model was trained on, or other data on the same genes.
    model_dir
        Folder written by `train`, or the model itself.
    target
        ``missing`` fills ``layers['missing']``; ``zeros`` fills zeros too; ``all`` denoises every entry.
    n_samples
        Draws per entry.
    sampler
        ``dpm``, ``ddim``, ``ddpm`` or ``langevin``.
    n_steps
        Network passes per draw; the sampler's own number by default.
    seed
        Seed of the draws; each spot's draws depend on the seed and the spot alone.
    batch_size
        Spots drawn at a time; does not change the result.
    device
        ``auto``, ``cpu`` or ``cuda``.
    genes
        Names of the genes to fill; all by default.
    layers
        Which layers to give: ``imputed``, ``imputed_sd``, ``imputed_median``, ``imputed_q05``, ``imputed_q95``; all by
        default. Mean and sd take less time and memory than quantiles.
    shard
        ``I/N`` gives the I-th of N runs of spots alone; `merge` puts them together.
    parts
        Folder for finished batches, of which the same call makes use if it is killed; removed in the end. None by
        default; the command line has ``.OUTPUT.parts`` beside its output.
    quiet
        Print no progress.

    Returns
    -------
    A copy with ``layers['imputed']`` and, over the filled entries, ``imputed_sd``, ``imputed_median``, ``imputed_q05``
    and ``imputed_q95`` (spots x genes, on the scale of ``X``; the spread includes counting noise). Sparse for
    ``missing``, dense otherwise.

    Raises
    ------
    InputError
        The data do not fit the model, or an option is out of range.
    """
    options = {name: value for name, value in locals().items() if name not in ("adata", "model_dir", "parts")}
    with _kept_in(parts) as kept:
        return gathered(stream(adata, model_dir, parts=kept, **options))


def stream(
    adata: "AnnData",
    model_dir: "str | os.PathLike[str] | ImputationModel",
    *,
    target: str,
    n_samples: int,
    sampler: str,
    n_steps: int | None,
    seed: int,
    batch_size: int,
    device: str,
    genes: Sequence[str] | None,
    layers: Sequence[str] | None,
    shard: str | None,
    quiet: bool,
    parts: Parts | None = None,
) -> Stream:
    """Do the work of :func:`impute` in blocks of spots; ``adata`` may be on disk; `parts` may hold finished blocks."""
    from stmcdi_cli.model import save_load
    from stmcdi_cli.model.base import DrawOptions, ImputationModel
    from stmcdi_cli.model.device import choose_device, cpu_fallback, oom_as_error, parallel_map, single_threaded
    from stmcdi_cli.model.diffusion.samplers import SAMPLERS
    from stmcdi_cli.model.draw_summary import DrawSummary
    from stmcdi_cli.model.tissue import Tissue
    from stmcdi_cli.progress import progress

    began = time.monotonic()
    validation.one_of("target", target, TARGETS)
    validation.one_of("sampler", sampler, SAMPLERS)
    validation.at_least("seed", seed, 0)
    for name, value in (("n_samples", n_samples), ("batch_size", batch_size), ("n_steps", n_steps)):
        if value is not None:
            validation.at_least(name, value, 1)
    wanted_layers = list(LAYERS) if layers is None else [name for name in LAYERS if name in layers]
    for name in layers or LAYERS:
        validation.one_of("layers", name, LAYERS)
    model = model_dir if isinstance(model_dir, ImputationModel) else save_load.load(model_dir)
    tissue = Tissue.from_anndata(adata, on_disk=model.from_disk)
    save_load.check_genes(model, tissue)
    save_load.check_scale(model, tissue)
    wanted, missing = _wanted_genes(genes, tissue.genes), by_rows(adata.layers.get(keys.MISSING))
    part = shards.spots_of(shard, tissue.n_spots)
    chosen = choose_device(device)
    fallback = cpu_fallback(device, chosen)
    if fallback and not quiet:
        logger.info("impute: on the CPU because %s; --device cuda would refuse", fallback)
    settings = {
        "target": target,
        "n_samples": n_samples,
        "sampler": sampler,
        "n_steps": n_steps,
        "seed": seed,
        "genes": None if genes is None else sorted(set(genes)),
        "layers": None if layers is None else wanted_layers,
        "shard": shard,
        "device": str(chosen),
    }
    if parts:
        parts.begin(settings | {"model": model.digest(), "data": _digest(adata)})
        if parts.count() and not quiet:
            logger.info("impute: going on; %d batches are done", parts.count())

    draw_options = DrawOptions(n_samples, seed, sampler, n_steps, denoise=target != "missing")

    def fill(spots: np.ndarray, where: np.ndarray) -> dict[str, np.ndarray]:
        """Values of each layer at some entries of some spots."""
        spread = [name for name in wanted_layers if name != keys.IMPUTED]
        summary = DrawSummary(where, n_samples, spread)
        mean = model.draw_each(spots, draw_options, summary.add if spread else None)
        return {keys.IMPUTED: mean[where]} | summary.layers(model.interval_tail)

    def block(spots: range) -> tuple[Block, int]:
        """Rows of every layer, drawn or taken from a finished part; and how many entries were filled."""
        x, no_value = tissue.x[np.asarray(spots)].toarray(), np.zeros((len(spots), tissue.n_genes), bool)
        if missing is not None:
            no_value = to_csr(rows_of(missing, slice(spots.start, spots.stop)), bool).toarray()
        where = _targets(target, x, no_value) & wanted
        name = f"{spots.start}-{spots.stop}"
        values = parts.load(name) if parts else None
        if values is None:
            runs = [spots[i : i + batch_size] for i in range(0, len(spots), batch_size)]
            filled = [fill(np.asarray(run), where[run.start - spots.start : run.stop - spots.start]) for run in runs]
            values = {layer: np.concatenate([each[layer] for each in filled]) for layer in filled[0]}
            if parts:
                parts.save(name, values)
        rows = {} if shard is None else dict(shards.rows_at(rest, slice(spots.start, spots.stop)))
        for layer in wanted_layers:
            dense = x.copy() if layer == keys.IMPUTED else np.zeros_like(x)
            dense[where] = values[layer]
            rows[f"layers/{layer}"] = sp.csr_matrix(dense) if target == "missing" else dense
        return rows, int(where.sum())

    rest = carried(adata, without=LAYERS)
    header = rest if shard is None else shards.cut_header(rest, part)
    trained = {name: model.config.get(name) for name in ("preset", "seed", "device", "cpu_fallback", "seconds")}
    record(header, "train", trained)  # train writes a model, not this file
    record(header, "impute", settings | {"cpu_fallback": fallback, "preset": model.config.get("preset"), "seconds": 0})

    def blocks() -> Iterator[Block]:
        n_filled = 0
        with oom_as_error(), single_threaded():
            known = parts.load(_ENCODED) if parts else None
            model.prepare(tissue, device=chosen, encoded=None if known is None else _tensors(known))
            if parts and known is None:
                parts.save(_ENCODED, {name: value.numpy() for name, value in model.encoded().items()})
            step = batch_size * max(1, _FEWEST_SPOTS // batch_size)
            runs = [part[i : i + step] for i in range(0, len(part), step)]
            for rows, n in progress(parallel_map(block, runs), len(runs), "impute", "batch", quiet=quiet):
                n_filled += n
                yield rows
        if target == "missing" and not n_filled and not quiet:
            logger.info("impute: no entry is missing, so none is filled; --target zeros or all fills others")
        header.uns[keys.PROVENANCE]["impute"]["parameters"]["seconds"] = round(time.monotonic() - began, 1)

    share = len(part) / tissue.n_spots
    n_missing = 0 if missing is None else tissue.missing.nnz * share
    kept = disk_size(n_missing) if target == "missing" else disk_size(0, 0, len(part) * tissue.n_genes)
    size = kept * len(wanted_layers)
    if target == "missing" and keys.IMPUTED in wanted_layers:
        size += disk_size(tissue.x.nnz * share)
    if shard is not None:
        size += share * sum(map(stored, matrices(rest).values()))
    return Stream(header, blocks(), size)


def _tensors(arrays: "dict[str, np.ndarray]") -> "dict[str, torch.Tensor]":
    import torch

    return {name: torch.from_numpy(value.copy()) for name, value in arrays.items()}


def _targets(target: str, x: np.ndarray, missing: np.ndarray) -> np.ndarray:
    if target == "all":
        return np.ones_like(missing)
    return missing | (x == 0) if target == "zeros" else missing


def _wanted_genes(chosen: Sequence[str] | None, genes: tuple[str, ...]) -> np.ndarray:
    """Which genes to fill, bool [G]."""
    if chosen is None:
        return np.ones(len(genes), dtype=bool)
    unknown = [gene for gene in chosen if gene not in set(genes)]
    if unknown:
        raise InputError(f"expected genes the file has, found {validation.some(unknown)}; correct the list (--genes)")
    return np.isin(genes, list(chosen))
