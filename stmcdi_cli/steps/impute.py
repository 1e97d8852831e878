"""``stmcdi impute``: draw the entries that have no value, starting from pure noise (Algorithm 2)."""

import logging
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from stmcdi_cli import anndata_keys as keys
from stmcdi_cli import roles, validation
from stmcdi_cli.errors import InputError
from stmcdi_cli.io import shards
from stmcdi_cli.io.h5ad import matrices
from stmcdi_cli.io.partial import Parts, kept_in
from stmcdi_cli.io.stream import Block, Stream, disk_size, disk_usage
from stmcdi_cli.provenance import data_digest, parameters_of, record
from stmcdi_cli.reporting.reliability import ReferenceFit
from stmcdi_cli.sparse import as_row_major, mask_out, missing_mask, read_rows, row_chunks, to_csr
from stmcdi_cli.steps._results import LAYERS, without_results
from stmcdi_cli.steps._step import step

if TYPE_CHECKING:
    import torch
    from anndata import AnnData

    from stmcdi_cli.model.base import DrawOptions, ImputationModel
    from stmcdi_cli.model.tissue import Tissue

logger = logging.getLogger(__name__)

TARGETS = ("auto", "missing", "zeros", "all")
_FEWEST_SPOTS = 256  # in a part of the work
_ENCODED = "encoded"


@step
def impute(
    adata: "AnnData",
    model_dir: "str | os.PathLike[str] | ImputationModel",
    *,
    target: str = "auto",
    n_samples: int = 50,
    sampler: str = "dpm",
    n_steps: int | None = None,
    seed: int = 0,
    batch_size: int = 256,
    device: str = "auto",
    genes: Sequence[str] | None = None,
    layers: Sequence[str] | None = None,
    shard: str | None = None,
    parts: str | os.PathLike[str] | Parts | None = None,
    quiet: bool = False,
) -> Stream:
    """Fill entries with the mean of draws from a trained model, and say how far they spread.

    Parameters
    ----------
    adata
        The data the model was trained on, or other data on the same genes.
    model_dir
        Folder written by `train`, or the model itself.
    target
        ``missing`` fills ``layers['missing']``; ``zeros`` fills zeros too; ``all`` denoises every entry; ``auto`` is
        ``missing`` where any entry is marked missing, otherwise ``all``.
    n_samples
        Draws per entry.
    sampler
        ``dpm``, ``ddim``, ``ddpm`` or ``langevin``.
    n_steps
        Network passes per draw; by default the number of the sampler and the preset.
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
        Folder for finished batches, from which the same call continues after it was killed; removed in the end. None
        by default; the command line has ``.OUTPUT.parts`` beside its output.
    quiet
        Say nothing but warnings.

    Returns
    -------
    A copy without the cells of a reference (`add_reference`), with ``layers['imputed']`` and, over the filled entries,
    ``imputed_sd``, ``imputed_median``, ``imputed_q05`` and ``imputed_q95`` (spots x genes, on the scale of ``X``; the
    spread includes counting noise). Sparse for ``missing``, dense otherwise. NaN for genes of which the training data
    had no value in any spot: nothing is known about them. The default model also gives ``obsm['X_stmcdi']``, what it
    sees in a spot, and ``obsm['X_stmcdi_spatial']``, the smooth part of that: float32, spots x latents, to cluster on.
    With a reference, ``var['left_out_r']`` is the correlation that each shared gene achieved when training left it out
    whole (NaN for others), and ``var['left_out_expected_r']`` what the spread of the draws let expect.

    Raises
    ------
    InputError
        The data do not fit the model, or an option is out of range.
    """
    from stmcdi_cli.model.base import DrawOptions

    began = time.monotonic()
    _check_options(target, sampler, layers, seed=seed, n_samples=n_samples, batch_size=batch_size, n_steps=n_steps)
    names = [name for name in LAYERS if layers is None or name in layers]
    model, tissue = _model_and_tissue(model_dir, adata, quiet=quiet)
    rest, spots = without_results(adata), shards.spots_of(shard, roles.n_target(adata))
    header = _header(rest, None if shard is None else spots)
    wanted = _chosen_genes(genes, tissue.genes)
    chosen, fallback = _device(device, quiet=quiet)
    target = _resolve(target, adata, tissue, quiet=quiet)  # after all that may refuse
    draws: dict[str, Any] = {"n_samples": n_samples, "sampler": sampler, "n_steps": n_steps, "seed": seed}
    filling = _Filling(
        model,
        tissue,
        as_row_major(adata.X),
        as_row_major(adata.layers.get(keys.MISSING)),
        target=target,
        genes=wanted,
        unmeasured=_unmeasured(model, wanted),
        layers=names,
        draws=DrawOptions(**draws, denoise=target != "missing"),
        batch_size=batch_size,
        others=None if header is rest else rest,
    )
    settings = {
        "target": target,
        **draws,
        "genes": None if genes is None else sorted(set(genes)),
        "layers": None if layers is None else names,
        "shard": shard,
        "device": str(chosen),
    }
    _record(header, model, settings | {"cpu_fallback": fallback})

    def blocks() -> Iterator[Block]:
        with kept_in(parts) as filling.parts:
            if filling.parts:
                filling.parts.begin(settings | {"model": model.digest(), "data": data_digest(adata)})
            yield from _in_order(filling, header, spots, chosen, quiet=quiet)
        parameters_of(header, "impute")["seconds"] = round(time.monotonic() - began, 1)

    return Stream(header, blocks(), filling.size(spots))


def _header(rest: "AnnData", spots: range | None) -> "AnnData":
    """All of the result but its layers: of the target alone, and of some of its spots where these are given."""
    header = shards.target_header(rest, roles.n_target(rest)) if roles.has_reference(rest) else rest
    return header if spots is None else shards.cut_header(header, spots)


def _check_options(target: str, sampler: str, layers: Sequence[str] | None, seed: int, **numbers: int | None) -> None:
    from stmcdi_cli.model.diffusion.samplers import SAMPLERS

    validation.one_of("target", target, TARGETS)
    validation.one_of("sampler", sampler, SAMPLERS)
    validation.at_least("seed", seed, 0)
    for name, value in numbers.items():
        if value is not None:
            validation.at_least(name, value, 1)
    validation.names("layers", layers)
    for name in layers or ():
        validation.one_of("layers", name, LAYERS)


def _resolve(target: str, adata: "AnnData", tissue: "Tissue", *, quiet: bool) -> str:
    """Give the target that ``auto`` stands for; say which, and which spots the model cannot read."""
    from stmcdi_cli.model.tissue import log_scale

    log_scale("impute", tissue, adata.obs_names)
    if target != "auto":
        return target
    n_missing = sum(missing_mask(adata, rows).nnz for rows in row_chunks(adata.shape))
    if not quiet and n_missing:
        logger.info("impute: --target missing, since %d entries are marked missing", n_missing)
    elif not quiet:
        logger.info("impute: --target all, since no entry is marked missing: every value is denoised")
    return "missing" if n_missing else "all"


def _model_and_tissue(
    model_dir: "str | os.PathLike[str] | ImputationModel", adata: "AnnData", *, quiet: bool
) -> "tuple[ImputationModel, Tissue]":
    """Load a model, and take what it sees of the data; refuse data that it was not made for."""
    from stmcdi_cli.model import save_load
    from stmcdi_cli.model.base import ImputationModel
    from stmcdi_cli.model.tissue import Tissue
    from stmcdi_cli.model.totals import on_totals_of

    model = model_dir if isinstance(model_dir, ImputationModel) else save_load.load(model_dir)
    tissue = Tissue.from_anndata(adata, on_disk=model.from_disk)
    save_load.check_genes(model, tissue)
    save_load.check_scale(model, tissue)
    return on_totals_of(model, tissue, quiet=quiet), tissue


def _device(name: str, *, quiet: bool) -> "tuple[torch.device, str | None]":
    """Choose where to compute; and why it is the CPU, where a GPU was hoped for."""
    from stmcdi_cli.model.device import choose_device, cpu_fallback

    device = choose_device(name)
    fallback = cpu_fallback(name, device)
    if fallback and not quiet:
        logger.info("impute: on the CPU because %s; --device cuda would refuse", fallback)
    return device, fallback


def _record(header: "AnnData", model: "ImputationModel", settings: Mapping[str, Any]) -> None:
    noted = ("preset", "variant", "seed", "device", "cpu_fallback", "seconds")
    trained = {name: model.config.get(name) for name in noted}
    if "scale" in model.config:
        trained |= {"count_scale": model.config["scale"] or "none", "odd_spots": model.config.get("odd_spots")}
    columns = model.columns()
    header.var = header.var.assign(**columns)
    fit = ReferenceFit.of(columns)
    trained |= fit.record() if fit else {}
    record(header, "train", trained)  # train writes a model, not this file
    of_model = {name: model.config.get(name) for name in ("unmeasured", "ratio_of_totals", "preset")}
    spots = settings["shard"] and shards.digest_of_spots(header)
    record(header, "impute", {**settings, "shard_spots": spots, **of_model, "seconds": 0})


@dataclass
class _Filling:
    """Fills entries of a tissue, for one run of spots at a time.

    Attributes
    ----------
    model, tissue
        The model, and what it sees of the data; `model.prepare` comes before `rows`.
    X
        The values, spots x genes, in memory or on disk. Those of odd spots are not in `tissue`.
    missing
        ``layers['missing']``, spots x genes, in memory or on disk; None where there is no such layer.
    target
        See `impute`.
    genes
        Which genes to fill, bool [G].
    unmeasured
        Which genes the model has seen no value of, bool [G]; their entries become NaN.
    layers
        Names of the layers to make.
    draws
        How to draw, see `ImputationModel.draw_each`.
    batch_size
        Spots drawn at a time.
    others
        Tissue whose other matrices are cut to the same spots, for a shard or without a reference.
    parts
        Where finished runs are kept, if anywhere.
    """

    model: "ImputationModel"
    tissue: "Tissue"
    X: Any
    missing: Any
    target: str
    genes: np.ndarray
    unmeasured: np.ndarray
    layers: Sequence[str]
    draws: "DrawOptions"
    batch_size: int
    others: "AnnData | None" = None
    parts: Parts | None = None

    def targets(self, x: np.ndarray, missing: np.ndarray) -> np.ndarray:
        """Which entries of some spots to fill, bool [spots, G]; from their values, and which have none."""
        if self.target == "all":
            return np.ones_like(missing) & self.genes
        return (missing | (x == 0) if self.target == "zeros" else missing) & self.genes

    def fill(self, spots: range, where: np.ndarray) -> dict[str, np.ndarray]:
        """Values of each layer at some entries (bool [spots, G]) of some spots, float32 [entries]."""
        from stmcdi_cli.model.draw_summary import DrawSummary

        spread = [name for name in self.layers if name != keys.IMPUTED]
        summary = DrawSummary(where, self.draws.n_samples, spread)
        mean = self.model.draw_each(np.asarray(spots), self.draws, summary.add if spread else None)
        values = {keys.IMPUTED: mean[where]} | summary.layers(self.model.interval_tail)
        unknown = self.unmeasured[np.nonzero(where)[1]]
        for each in values.values():
            each[unknown] = np.nan
        return values

    def rows(self, spots: range) -> tuple[Block, int]:
        """Rows of every layer, drawn or taken from a finished part; and how many entries were filled."""
        run, part = slice(spots.start, spots.stop), f"{spots.start}-{spots.stop}"
        missing = sp.csr_matrix((len(spots), len(self.genes)), dtype=bool)
        if self.missing is not None:
            missing = to_csr(read_rows(self.missing, run), bool)
        x = mask_out(to_csr(read_rows(self.X, run)), missing).toarray()
        where = self.targets(x, missing.toarray())
        values = self.parts.load(part) if self.parts else None
        if values is None:
            starts = range(0, len(spots), self.batch_size)
            batches = [slice(start, start + self.batch_size) for start in starts]
            filled = [self.fill(spots[batch], where[batch]) for batch in batches]
            values = {name: np.concatenate([each[name] for each in filled]) for name in filled[0]}
            if self.parts:
                self.parts.save(part, values)
        block = {} if self.others is None else dict(shards.rows_at(self.others, run))
        for name in self.layers:
            dense = x.copy() if name == keys.IMPUTED else np.zeros_like(x)
            dense[where] = values[name]
            block[name] = sp.csr_matrix(dense) if self.target == "missing" else dense
        return block, int(where.sum())

    def size(self, spots: range) -> float:
        """Bytes that the rows of some spots will take on disk, roughly."""
        share = len(spots) / self.tissue.n_spots
        size = 0.0 if self.others is None else share * sum(map(disk_usage, matrices(self.others).values()))
        if self.target != "missing":
            return size + len(self.layers) * disk_size(0, 0, len(spots) * self.tissue.n_genes)
        if self.missing is not None:
            size += len(self.layers) * disk_size(self.tissue.missing.nnz * share)
        return size + (disk_size(self.tissue.x.nnz * share) if keys.IMPUTED in self.layers else 0)


def _say_if_few(filling: _Filling) -> None:
    """Log that the smallest and the largest of so few draws exclude more than the 90 % interval should."""
    n_samples, enough = filling.draws.n_samples, math.ceil(round(1 / filling.model.interval_tail, 4)) - 1
    if n_samples < enough and {keys.IMPUTED_Q05, keys.IMPUTED_Q95} & set(filling.layers):
        logger.info(
            "impute: %d draws are few for the 90 %% intervals of this model, which will be too narrow; "
            "from --n-samples %d on they are as wide as calibrated",
            n_samples,
            enough,
        )


def _in_order(
    filling: _Filling, header: "AnnData", spots: range, device: "torch.device", *, quiet: bool
) -> Iterator[Block]:
    """Yield the rows of all spots, and show progress; the header gets the embedding."""
    from stmcdi_cli.model.device import parallel_map, single_threaded, torch_errors_in_one_line
    from stmcdi_cli.progress import progress

    model, parts = filling.model, filling.parts
    if parts and parts.count() and not quiet:
        logger.info("impute: going on; %d batches are done", parts.count())
    if not quiet:
        _say_if_few(filling)
    n_filled = 0
    with torch_errors_in_one_line(), single_threaded():
        known = parts.load(_ENCODED) if parts else None
        model.prepare(filling.tissue, device=device, encoded=None if known is None else _tensors(known))
        if parts and known is None:
            parts.save(_ENCODED, {name: value.numpy() for name, value in model.encoded().items()})
        header.obsm.update({key: value[spots.start : spots.stop] for key, value in model.embedding().items()})
        step = filling.batch_size * max(1, _FEWEST_SPOTS // filling.batch_size)
        runs = [spots[i : i + step] for i in range(0, len(spots), step)]
        for block, n in progress(parallel_map(filling.rows, runs), len(runs), "impute", "batch", quiet=quiet):
            n_filled += n
            yield block
    if filling.target == "missing" and not n_filled and not quiet:
        logger.info("impute: no entry is missing, so none is filled; --target zeros or all fills others")


def _tensors(arrays: "dict[str, np.ndarray]") -> "dict[str, torch.Tensor]":
    import torch

    return {name: torch.from_numpy(value.copy()) for name, value in arrays.items()}


def _unmeasured(model: "ImputationModel", wanted: np.ndarray) -> np.ndarray:
    """Which genes had no value in any spot when the model was trained, bool [G]; say which of those wanted have none.

    What the model would draw for them says nothing: neither their level nor a link to other genes is known.
    """
    unmeasured = np.isin(model.genes, list(model.config.get("unmeasured", ())))
    unknown = [gene for gene, lost in zip(model.genes, unmeasured & wanted, strict=True) if lost]
    if unknown:
        logger.warning(
            "impute: %d gene(s) had no value in any spot the model was trained on (%s): left without one (NaN)",
            len(unknown),
            validation.first_few(unknown),
        )
    return unmeasured


def _chosen_genes(chosen: Sequence[str] | None, genes: tuple[str, ...]) -> np.ndarray:
    """Which genes to fill, bool [G]."""
    validation.names("genes", chosen)
    if chosen is None:
        return np.ones(len(genes), dtype=bool)
    unknown = [gene for gene in chosen if gene not in set(genes)]
    if unknown:
        raise InputError(
            f"expected genes the file has, found {validation.first_few(unknown)}; correct the list (--genes)"
        )
    return np.isin(genes, list(chosen))
