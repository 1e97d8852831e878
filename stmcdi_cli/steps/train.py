"""``stmcdi train``: learn from the visible entries (Algorithm 1)."""

import os
import sys
from collections.abc import Mapping
from importlib import resources
from typing import TYPE_CHECKING

from stmcdi_cli import checks

if TYPE_CHECKING:
    from anndata import AnnData

    from stmcdi_cli.model.base import ImputationModel

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
    quiet: bool = False,
) -> "ImputationModel":
    """Train a model and write it to a folder.

    Parameters
    ----------
    adata
        Normalised expression with a spatial graph (`normalize`, `build_graph`); entries in ``layers['missing']`` are
        never looked at.
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
    quiet
        Print no progress.

    Returns
    -------
    The trained model.

    Raises
    ------
    InputError
        The data cannot be trained on, or there is no such preset or device.
    """
    import yaml

    from stmcdi_cli.model import checkpoint
    from stmcdi_cli.model.device import choose_device, cpu_fallback, memory_guard, one_thread
    from stmcdi_cli.model.tissue import Tissue

    checks.one_of("preset", preset, PRESETS)
    checks.at_least("seed", seed, 0)
    changed = {name: value for name, value in (("epochs", epochs), ("batch_size", batch_size)) if value is not None}
    for name, value in changed.items():
        checks.at_least(name, value, 1)
    file = resources.files("stmcdi_cli") / "presets" / f"{preset}.yaml"
    config = yaml.safe_load(file.read_text("utf-8"))
    config["training"] |= changed
    config |= {"preset": preset, "seed": seed}
    chosen = choose_device(device)
    tissue = Tissue.from_anndata(adata)
    config["scale"] = tissue.scale
    model = checkpoint.build(config, tissue.genes)
    history: list[dict[str, float]] = []

    def report(row: Mapping[str, float]) -> None:
        history.append(dict(row))
        if not quiet and (len(history) <= 3 or len(history) % 10 == 0):
            print("train: " + ", ".join(f"{k} {v:.6g}" for k, v in row.items()), file=sys.stderr, flush=True)

    fallback = cpu_fallback(device, chosen)
    if not quiet:
        print(f"train: {tissue.n_spots} spots x {tissue.n_genes} genes on {chosen}", file=sys.stderr, flush=True)
        if fallback:
            print(f"train: on the CPU because {fallback}; --device cuda would refuse", file=sys.stderr, flush=True)
    with memory_guard(), one_thread():
        model.fit(tissue, seed=seed, device=chosen, report=report)
    validated = [(row["validation_loss"], int(row["epoch"])) for row in history if "validation_loss" in row]
    if not quiet and validated:
        best, epoch = min(validated)
        last = int(history[-1]["epoch"])
        print(f"train: ended after epoch {last}; best validation loss {best:.6g}, epoch {epoch}", file=sys.stderr)
    model.config["device"] = str(chosen)
    if fallback:
        model.config["cpu_fallback"] = fallback
    checkpoint.save(model, model_dir, history)
    return model
