"""``stmcdi train``: learn from the visible entries (Algorithm 1)."""

import logging
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stmcdi_cli import roles, validation
from stmcdi_cli.reporting.reliability import POOR_R, ReferenceFit
from stmcdi_cli.steps._presets import read_preset
from stmcdi_cli.steps._step import of_tissues

if TYPE_CHECKING:
    import numpy as np
    import torch
    from anndata import AnnData

    from stmcdi_cli.model.base import ImputationModel
    from stmcdi_cli.model.tissue import Tissue
    from stmcdi_cli.model.training.checkpoint import Checkpoint
    from stmcdi_cli.model.training.trainer import Row

logger = logging.getLogger(__name__)


@of_tissues
def train(
    adata: "AnnData",
    model_dir: str | os.PathLike[str],
    *,
    preset: str | os.PathLike[str] = "default",
    device: str = "auto",
    seed: int = 0,
    epochs: int | None = None,
    batch_size: int | None = None,
    devices: int = 1,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: float = 60.0,
    resume: bool = True,
    quiet: bool = False,
) -> "ImputationModel":
    """Train a model and write it to a folder.

    Parameters
    ----------
    adata
        Normalised expression with a spatial graph (`normalize`, `build_graph`); entries in ``layers['missing']`` are
        never used. Its matrices may be on disk.
    model_dir
        Folder to write: ``model.safetensors``, ``config.yaml``, ``history.tsv``.
    preset
        ``default``; ``paper`` for the published network and settings (appendix C), ``attention`` for that network,
        trained in minutes on a GPU; or a YAML file with settings of your own (docs/steps/presets.md).
    device
        ``auto``, ``cpu`` or ``cuda``.
    seed
        Seed of every random choice.
    epochs, batch_size
        Values to use instead of the preset's.
    devices
        Processes that train together, each on its own GPU (or on the CPU, without GPUs). The result is the same as with
        one, up to rounding.
    checkpoint
        File with the state of the training, removed when it is complete; by default ``.NAME.checkpoint`` beside a
        `model_dir` called NAME.
    checkpoint_every
        Seconds between writings of that file.
    resume
        Go on from such a file, if there is one of the same data, settings and software. The weights are then the same
        as without the stop.
    quiet
        Say nothing but warnings.

    Returns
    -------
    The trained model.

    Raises
    ------
    InputError
        The data cannot be trained on, there is no such preset or device, or a preset's file is wrong.
    Stopped
        SIGTERM, SIGUSR1 or SIGUSR2 came; the checkpoint is written.
    """
    from stmcdi_cli.model import save_load
    from stmcdi_cli.model.device import choose_device, cpu_fallback
    from stmcdi_cli.model.tissue import Tissue, log_scale
    from stmcdi_cli.model.training import distributed
    from stmcdi_cli.model.training.checkpoint import Checkpoint, key_of

    began = time.monotonic()
    config = _configuration(preset, seed, epochs=epochs, batch_size=batch_size)
    validation.at_least("checkpoint_every", checkpoint_every, 0.0)
    validation.at_least("devices", devices, 1)
    chosen = choose_device(device)
    distributed.check_devices(devices, chosen)
    fallback = cpu_fallback(device, chosen)
    spots = _training_spots(adata, config, seed)
    tissue = Tissue.from_anndata(adata, spots)
    config |= _found_in(tissue)
    if not quiet:
        _log_start(tissue, adata.n_obs, chosen, fallback)
    log_scale("train", tissue, adata.obs_names if spots is None else adata.obs_names[spots])
    model_dir = Path(os.path.abspath(model_dir))
    checkpoint_file = Checkpoint(
        model_dir.with_name(f".{model_dir.name}.checkpoint") if checkpoint is None else Path(checkpoint),
        key_of(tissue, config | {"device": chosen.type, "devices": devices}),
        checkpoint_every,
    )
    arguments = (config, tissue, chosen, seed, checkpoint_file, resume, quiet)
    if devices > 1:
        model, history = _fit_in_processes(devices, *arguments)
        is_first = True
    else:
        with distributed.join_process_group(chosen):
            model, history = _fit(*arguments)
            is_first = distributed.rank() == 0
    model.config |= {"device": str(chosen), "seconds": round(time.monotonic() - began, 1)}
    if fallback:
        model.config["cpu_fallback"] = fallback
    if is_first:  # of the processes that train together
        _log_left_out(model, quiet=quiet)
        if not quiet:
            _log_end(history)
            for remark in model.remarks():
                logger.info("train: %s", remark)
        save_load.save(model, model_dir, history)
        checkpoint_file.remove()
    return model


def _found_in(tissue: "Tissue") -> dict[str, Any]:
    """What the configuration of a model says about the data that it was made for."""
    found: dict[str, Any] = {"scale": tissue.count_scale, "odd_spots": int(tissue.odd_spots.sum())}
    if tissue.n_target is not None:
        measured = zip(tissue.genes, tissue.target.n_visible, strict=True)
        found |= {"reference": tissue.n_spots - tissue.n_target, "panel": [gene for gene, n in measured if n]}
    if tissue.totals is not None:
        found |= {"median_total": tissue.totals.median, "n_genes_of_totals": tissue.totals.n_genes}
    unmeasured = [gene for gene, n in zip(tissue.genes, tissue.n_visible, strict=True) if not n]
    return found | ({"unmeasured": unmeasured} if unmeasured else {})


def _log_start(tissue: "Tissue", n_spots: int, device: "torch.device", fallback: str | None) -> None:
    part = "" if tissue.n_spots == n_spots else f" of {n_spots}, in patches,"
    n_target = tissue.n_spots if tissue.n_target is None else tissue.n_target
    cells = f" and {tissue.n_spots - n_target} cells of the reference" if n_target < tissue.n_spots else ""
    logger.info("train: %d spots%s%s x %d genes on %s", n_target, cells, part, tissue.n_genes, device)
    unmeasured = int((tissue.n_visible == 0).sum())
    if unmeasured:
        logger.info("train: %d gene(s) have no value in any spot: nothing can be learnt about them", unmeasured)
    if fallback:
        logger.info("train: on the CPU because %s; --device cuda would refuse", fallback)


def _configuration(preset: str | os.PathLike[str], seed: int, **changes: int | None) -> dict[str, Any]:
    """Read a preset, check it and the seed; changes are to the settings of the training, None for none."""
    config = read_preset(preset)
    validation.at_least("seed", seed, 0)
    changed = {name: value for name, value in changes.items() if value is not None}
    for name, value in changed.items():
        validation.at_least(name, value, 1)
    config["training"] |= changed
    return config | {"seed": seed}


def _training_spots(adata: "AnnData", config: Mapping[str, Any], seed: int) -> "np.ndarray | None":
    """Spots to train on, where there are more than the preset asks for; None for all.

    The cells of a reference are all among them, if they are not more than half.
    """
    import numpy as np

    from stmcdi_cli.model.tissue import graph_of
    from stmcdi_cli.model.training.patches import patches

    most = config["training"].get("spots")
    if not most or adata.n_obs <= most:
        return None
    graph, n_target = graph_of(adata), roles.n_target(adata)
    if n_target == adata.n_obs:
        return patches(graph, most, seed)
    cells = np.arange(n_target, adata.n_obs)
    if cells.size > most // 2:  # of a reference; at least half of the spots are the target's
        cells = np.sort(np.random.default_rng(seed).choice(cells, max(most // 2, most - n_target), replace=False))
    return np.concatenate([patches(graph[:n_target, :n_target], most - cells.size, seed), cells])


def _fit(
    config: Mapping[str, Any],
    tissue: "Tissue",
    device: "torch.device",
    seed: int,
    checkpoint: "Checkpoint",
    resume: bool,
    quiet: bool,
) -> "tuple[ImputationModel, list[dict[str, float]]]":
    """Fit a model in this process, alone or together with others; gives the model and its history."""
    from stmcdi_cli.model import save_load
    from stmcdi_cli.model.device import single_threaded, torch_errors_in_one_line
    from stmcdi_cli.model.training import distributed
    from stmcdi_cli.progress import Meter

    quiet = quiet or distributed.rank() > 0
    device = distributed.device_of_rank(device)  # before anything is exchanged: no two processes share a GPU
    if resume:
        found = checkpoint.load()
        distributed.any_of(False)  # wait until all have read it: one of them will write it again
        if found and not quiet:
            logger.info("train: %s", found)
    model = save_load.build(config, tissue.genes)
    stage = checkpoint.stage("history")
    history: list[dict[str, float]] = list(stage.state or [])

    meter = Meter("train", "epoch", quiet=quiet)

    def report(row: "Row") -> None:
        if history and row["epoch"] <= history[-1]["epoch"]:
            return  # it was reported before the training was stopped
        history.append(dict(row))
        values = {name: value for name, value in row.items() if name != "epoch"}
        meter.show(int(row["epoch"]), row.n_epochs, **values)

    with meter, torch_errors_in_one_line(), single_threaded(), checkpoint.stoppable():
        stage.save(history)
        model.fit(tissue, seed=seed, device=device, report=report, checkpoint=checkpoint)
    return model, history


def _fit_in_processes(
    devices: int, config: Mapping[str, Any], tissue: "Tissue", device: "torch.device", *others: Any
) -> "tuple[ImputationModel, list[dict[str, float]]]":
    """Fit a model in several processes, started here; gives the model and its history."""
    from stmcdi_cli.model import save_load
    from stmcdi_cli.model.training import distributed

    state, history = distributed.launch(devices, device, _fit_in_process, (config, tissue, device, *others))
    model = save_load.build(config, tissue.genes)
    model.load_state(state)
    return model, history


def _fit_in_process(*arguments: Any) -> "tuple[Mapping[str, torch.Tensor], list[dict[str, float]]]":
    """Fit a model in one of several processes; gives what can be sent to the process that started them."""
    model, history = _fit(*arguments)
    return model.state(), history


def _log_end(history: Sequence[Mapping[str, float]]) -> None:
    """Say when the training ended, and which epoch validated best."""
    validated = [(row["validation_loss"], int(row["epoch"])) for row in history if "validation_loss" in row]
    if validated:
        best, epoch = min(validated)
        last = int(history[-1]["epoch"])
        logger.info("train: ended after epoch %d; best validation loss %.6g, epoch %d", last, best, epoch)
    last_row = history[-1] if history else {}
    kept = [(name.removeprefix("kept_"), part) for name, part in last_row.items() if name.startswith("kept_")]
    if kept:
        parts = ", ".join(f"{part:.2f} ({link} link)" for link, part in kept)
        logger.info("train: of what the networks add to the closed form, the part that is kept: %s", parts)


def _log_left_out(model: "ImputationModel", *, quiet: bool) -> None:
    """Say what a reference is good for: how well genes are predicted that were left out whole."""
    fit = ReferenceFit.of(model.columns())
    if fit is None:
        return
    found = "train: %d genes that both have, left out whole, are predicted with a mean correlation of %.2f"
    if not quiet:
        logger.info(found, fit.n, fit.mean)
    if fit.mean < POOR_R:
        logger.warning(
            "train: the reference does not fit: values of genes never measured will be little more than their level; "
            "use a reference of the same tissue and condition"
        )
