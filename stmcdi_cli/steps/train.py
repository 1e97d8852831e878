"""``stmcdi train``: learn from the visible entries (Algorithm 1)."""

import logging
import os
import time
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stmcdi_cli import validation

if TYPE_CHECKING:
    import numpy as np
    import torch
    from anndata import AnnData

    from stmcdi_cli.model.base import ImputationModel
    from stmcdi_cli.model.tissue import Tissue
    from stmcdi_cli.model.training.checkpoint import Restart
    from stmcdi_cli.model.training.trainer import Row

logger = logging.getLogger(__name__)

PRESETS = ("default", "paper")


def train(
    adata: "AnnData",
    model_dir: str | os.PathLike[str],
    *,
    preset: str = "default",
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
        never looked at. Its matrices may be on disk.
    model_dir
        Folder to write: ``model.safetensors``, ``config.yaml``, ``history.tsv``.
    preset
        ``default``, or ``paper`` for the published network and settings (appendix C).
    device
        ``auto``, ``cpu`` or ``cuda``.
    seed
        Seed of every random choice.
    epochs, batch_size
        Instead of the preset's.
    devices
        Processes that train together, each on a GPU of its own (or, without GPUs, on the CPU). The result is that of
        one, up to rounding.
    checkpoint
        File that says how far the training is, removed when it is done; ``.NAME.checkpoint`` beside a `model_dir` of
        that name by default.
    checkpoint_every
        Seconds between writings of it.
    resume
        Go on from such a file, where there is one of the same data, settings and software: to the same weights as
        without the stop.
    quiet
        Print no progress.

    Returns
    -------
    The trained model.

    Raises
    ------
    InputError
        The data cannot be trained on, or there is no such preset or device.
    Stopped
        SIGTERM, SIGUSR1 or SIGUSR2 came; the checkpoint is written.
    """
    import yaml

    from stmcdi_cli.model import save_load as folder
    from stmcdi_cli.model.device import choose_device, cpu_fallback
    from stmcdi_cli.model.tissue import Tissue
    from stmcdi_cli.model.training import distributed
    from stmcdi_cli.model.training.checkpoint import Restart, key_of

    began = time.monotonic()
    validation.one_of("preset", preset, PRESETS)
    validation.at_least("seed", seed, 0)
    validation.at_least("checkpoint_every", checkpoint_every, 0)
    changed = {name: value for name, value in (("epochs", epochs), ("batch_size", batch_size)) if value is not None}
    for name, value in (*changed.items(), ("devices", devices)):
        validation.at_least(name, value, 1)
    file = resources.files("stmcdi_cli") / "presets" / f"{preset}.yaml"
    config = yaml.safe_load(file.read_text("utf-8"))
    config["training"] |= changed
    config |= {"preset": preset, "seed": seed}
    chosen = choose_device(device)
    distributed.check_devices(devices, chosen)
    spots = _learnt_from(adata, config, seed)
    tissue = Tissue.from_anndata(adata, spots)
    config["scale"] = tissue.scale
    fallback = cpu_fallback(device, chosen)
    if not quiet:
        of = "" if spots is None else f" of {adata.n_obs}, in patches,"
        logger.info("train: %d spots%s x %d genes on %s", tissue.n_spots, of, tissue.n_genes, chosen)
        if fallback:
            logger.info("train: on the CPU because %s; --device cuda would refuse", fallback)
    model_dir = Path(os.path.abspath(model_dir))
    restart = Restart(
        model_dir.with_name(f".{model_dir.name}.checkpoint") if checkpoint is None else Path(checkpoint),
        key_of(tissue, config | {"device": chosen.type, "devices": devices}),
        checkpoint_every,
    )
    arguments = (config, tissue, chosen, seed, restart, resume, quiet)
    if devices > 1:
        state, history = distributed.launch(devices, chosen, _fit_apart, arguments)
        model = folder.build(config, tissue.genes)
        model.load_state(state)
        writes = True
    else:
        with distributed.torchrun(chosen):
            model, history = _fit(*arguments)
            writes = distributed.rank() == 0
            quiet = quiet or not writes
    validated = [(row["validation_loss"], int(row["epoch"])) for row in history if "validation_loss" in row]
    if not quiet and validated:
        best, epoch = min(validated)
        last = int(history[-1]["epoch"])
        logger.info("train: ended after epoch %d; best validation loss %.6g, epoch %d", last, best, epoch)
    model.config |= {"device": str(chosen), "seconds": round(time.monotonic() - began, 1)}
    if fallback:
        model.config["cpu_fallback"] = fallback
    if writes:
        folder.save(model, model_dir, history)
        restart.remove()
    return model


def _learnt_from(adata: "AnnData", config: Mapping[str, Any], seed: int) -> "np.ndarray | None":
    """Spots to learn from, where the preset says that there are more than are needed; None for all."""
    from stmcdi_cli.model.tissue import graph_of
    from stmcdi_cli.model.training.patches import patches

    most = config["training"].get("spots")
    return patches(graph_of(adata), most, seed) if most and adata.n_obs > most else None


def _fit(
    config: Mapping[str, Any],
    tissue: "Tissue",
    device: "torch.device",
    seed: int,
    restart: "Restart",
    resume: bool,
    quiet: bool,
) -> "tuple[ImputationModel, list[dict[str, float]]]":
    """Fit a model in this process, alone or as one of several; gives it and its history."""
    from stmcdi_cli.model import save_load
    from stmcdi_cli.model.device import memory_guard, one_thread
    from stmcdi_cli.model.training import distributed
    from stmcdi_cli.progress import Meter

    quiet = quiet or distributed.rank() > 0
    if resume:
        found = restart.load()
        distributed.any_of(False)  # all have read it before one writes it again
        if found and not quiet:
            logger.info("train: %s", found)
    model = save_load.build(config, tissue.genes)
    before = restart.part("history")
    history: list[dict[str, float]] = list(before.state or [])

    meter = Meter("train", "epoch", quiet=quiet)

    def report(row: "Row") -> None:
        if history and row["epoch"] <= history[-1]["epoch"]:
            return  # it was reported before the training was stopped
        history.append(dict(row))
        meter.show(int(row["epoch"]), row.of, **{name: value for name, value in row.items() if name != "epoch"})

    with meter, memory_guard(), one_thread(), restart.stoppable():
        before.stands(history)
        model.fit(tissue, seed=seed, device=distributed.device_of_rank(device), report=report, restart=restart)
    return model, history


def _fit_apart(*arguments: Any) -> "tuple[Mapping[str, torch.Tensor], list[dict[str, float]]]":
    """Fit a model in a process that hands over what it learnt."""
    model, history = _fit(*arguments)
    return model.state(), history
