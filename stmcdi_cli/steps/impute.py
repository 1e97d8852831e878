"""``stmcdi impute``: draw the entries that have no value, starting from pure noise (Algorithm 2)."""

import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

from stmcdi_cli import anndata_keys as keys
from stmcdi_cli import checks, shards
from stmcdi_cli.errors import InputError
from stmcdi_cli.io import record, shallow_copy
from stmcdi_cli.sparse import missing_entries

if TYPE_CHECKING:
    from anndata import AnnData

    from stmcdi_cli.model.base import ImputationModel

TARGETS = ("missing", "zeros", "all")


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
    shard: str | None = None,
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
        Spots held in memory at a time; does not change the result.
    device
        ``auto``, ``cpu`` or ``cuda``.
    genes
        Names of the genes to fill; all by default.
    shard
        ``I/N`` gives the I-th of N runs of spots alone; `merge` puts them together.
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
    from stmcdi_cli.model import checkpoint
    from stmcdi_cli.model.base import ImputationModel
    from stmcdi_cli.model.device import choose_device, cpu_fallback, memory_guard, n_workers, one_thread
    from stmcdi_cli.model.samplers import SAMPLERS
    from stmcdi_cli.model.tissue import Tissue
    from stmcdi_cli.progress import progress

    began = time.monotonic()
    checks.one_of("target", target, TARGETS)
    checks.one_of("sampler", sampler, SAMPLERS)
    checks.at_least("seed", seed, 0)
    for name, value in (("n_samples", n_samples), ("batch_size", batch_size), ("n_steps", n_steps)):
        if value is not None:
            checks.at_least(name, value, 1)
    model = model_dir if isinstance(model_dir, ImputationModel) else checkpoint.load(model_dir)
    tissue, missing = Tissue.from_anndata(adata), missing_entries(adata)
    checkpoint.check_genes(model, tissue)
    checkpoint.check_scale(model, tissue)
    wanted = _wanted_genes(genes, tissue.genes)
    part = shards.spots_of(shard, tissue.n_spots)
    if target == "missing" and not missing.nnz and not quiet:
        print("impute: no entry is missing, so none is filled; --target zeros or all fills others", file=sys.stderr)
    chosen = choose_device(device)
    fallback = cpu_fallback(device, chosen)
    if fallback and not quiet:
        print(f"impute: on the CPU because {fallback}; --device cuda would refuse", file=sys.stderr)

    def fill_batch(start: int) -> dict[str, np.ndarray | sp.csr_matrix]:
        spots = np.arange(start, min(start + batch_size, part.stop))
        draws = model.draw(
            spots,
            n_samples=n_samples,
            seed=seed,
            sampler=sampler,
            n_steps=n_steps,
            denoise=target != "missing",
        )
        x = tissue.x[spots].toarray()
        fill = _targets(target, x, missing[spots].toarray()) & wanted
        values = draws.samples[:, fill]
        x[fill] = values.mean(0) if draws.mean is None else draws.mean[fill]
        layers = {keys.IMPUTED: _pack(x, target)}
        for name, summary in _spread(values, draws.tail).items():
            layer = np.zeros_like(x)
            layer[fill] = summary
            layers[name] = _pack(layer, target)
        return layers

    with memory_guard(), one_thread(), ThreadPoolExecutor(n_workers()) as pool:
        model.prepare(tissue, device=chosen)
        starts = range(part.start, part.stop, batch_size)
        batches = list(progress(pool.map(fill_batch, starts), len(starts), "impute", "batch", quiet=quiet))

    result = shallow_copy(adata) if shard is None else shards.cut(adata, part)
    for name in batches[0]:
        parts = [layers[name] for layers in batches]
        result.layers[name] = sp.vstack(parts, format="csr") if target == "missing" else np.concatenate(parts)
    parameters = {
        "target": target,
        "n_samples": n_samples,
        "sampler": sampler,
        "n_steps": n_steps,
        "seed": seed,
        "genes": None if genes is None else sorted(set(genes)),
        "shard": shard,
        "device": str(chosen),
        "cpu_fallback": fallback,
        "seconds": round(time.monotonic() - began, 1),
        "preset": model.config.get("preset"),
    }
    trained = {name: model.config.get(name) for name in ("preset", "seed", "device", "cpu_fallback", "seconds")}
    record(result, "train", trained)  # train writes a model, not this file
    record(result, "impute", parameters)
    return result


SPREAD = (keys.IMPUTED_SD, keys.IMPUTED_MEDIAN, keys.IMPUTED_Q05, keys.IMPUTED_Q95)


def _spread(values: np.ndarray, tail: float) -> dict[str, np.ndarray]:
    """Spread of draws [S, entries] over S, each [entries]; `tail` is calibrated by the model."""
    low, median, high = np.quantile(values, (tail, 0.5, 1 - tail), axis=0)
    return dict(zip(SPREAD, (values.std(0), median, low, high), strict=True))


def _targets(target: str, x: np.ndarray, missing: np.ndarray) -> np.ndarray:
    if target == "all":
        return np.ones_like(missing)
    return missing | (x == 0) if target == "zeros" else missing


def _pack(layer: np.ndarray, target: str) -> "np.ndarray | sp.csr_matrix":
    return sp.csr_matrix(layer) if target == "missing" else layer


def _wanted_genes(chosen: Sequence[str] | None, genes: tuple[str, ...]) -> np.ndarray:
    """Which genes to fill, bool [G]."""
    if chosen is None:
        return np.ones(len(genes), dtype=bool)
    unknown = [gene for gene in chosen if gene not in set(genes)]
    if unknown:
        raise InputError(f"expected genes the file has, found {checks.some(unknown)}; correct the list (--genes)")
    return np.isin(genes, list(chosen))
