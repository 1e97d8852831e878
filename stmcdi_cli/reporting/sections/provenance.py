"""The sections about how the result was made: training, steps, versions."""

import platform
from collections.abc import Mapping
from importlib import metadata
from itertools import pairwise
from typing import Any

import numpy as np

from stmcdi_cli import __version__
from stmcdi_cli.reporting import charts
from stmcdi_cli.reporting.statistics import Findings

STEPS = (
    "simulate",
    "import",
    "normalize",
    "select-hvg",
    "build-graph",
    "hold-out",
    "train",
    "impute",
    "merge",
    "baseline",
)
"""Steps in the order of a run."""


def training(found: Findings) -> dict[str, Any] | None:
    """Losses by epoch for ``training.html.j2``; None where the model folder is not known."""
    history = found.history
    if history is None or not len(history.get("epoch", ())):
        return None
    epoch, validation = history["epoch"], history.get("validation_loss")
    part: dict[str, Any] = {"curve": _curve(history), "best": None}
    if validation is not None and np.isfinite(validation).any():
        best = int(np.nanargmin(validation))
        part |= {
            "best": validation[best],
            "best_epoch": int(epoch[best]),
            "last_epoch": int(epoch.max()),
            "from_encoder": epoch[0] == 0,
            "improvement": 1 - validation[best] / validation[0],
        }
    return part


def _curve(history: Mapping[str, np.ndarray]) -> charts.Drawing:
    epoch = history["epoch"]
    curves = {name: values for name, values in history.items() if "loss" in name and np.isfinite(values).any()}
    everything = np.concatenate([*curves.values(), np.empty(0)])
    axes = charts.axes_of("epoch", "loss", charts.padded(epoch, share=0.02), charts.padded(everything))
    colors = {"loss": charts.COLORS["second"], "validation_loss": charts.COLORS["main"]}
    for name, values in curves.items():
        known = np.isfinite(values)
        starts = [0, *(np.flatnonzero(np.diff(epoch[known]) <= 0) + 1), int(known.sum())]  # several networks in turn
        for k, (start, end) in enumerate(pairwise(starts)):
            label = name.replace("_", " ") if k == 0 else None
            color = colors.get(name, charts.COLORS["third"])
            axes.plot(epoch[known][start:end], values[known][start:end], label=label, color=color)
    return charts.drawing_of(axes, "Training and validation loss by epoch")


def provenance(found: Findings) -> dict[str, Any]:
    """Parameters of each step, seeds, devices, versions and run times: for ``provenance.html.j2``."""
    steps = [
        {
            "name": step,
            "version": str(entry.get("version", "")),
            "parameters": _settings(entry.get("parameters", {})),
            "input": str(entry.get("input_sha256", ""))[:12],
        }
        for step, entry in sorted(found.parameters.items(), key=lambda item: _place(item[0]))
    ]
    train, impute = _facts(found, "train"), _facts(found, "impute")
    facts = {
        "stmcdi (this report)": __version__,
        "model": " ".join(str(train[key]) for key in ("preset", "variant") if key in train),
        "trained by stmcdi": train.get("version"),
        "seed of training": train.get("seed"),
        "seed of imputation": impute.get("seed"),
        "device of training": train.get("device"),
        "device of imputation": impute.get("device"),
        "time for training": _seconds(train),
        "time for imputation": _seconds(impute),
        "Python": platform.python_version(),
        **{name: metadata.version(name) for name in ("torch", "anndata", "numpy", "scipy")},
    }
    return {"steps": steps, "facts": {name: value for name, value in facts.items() if value not in (None, "")}}


def summary(found: Findings) -> list[str]:
    """The facts about the run that come first."""
    train, impute, baseline = (_facts(found, step) for step in ("train", "impute", "baseline"))
    items = [
        f"stmcdi {found.parameters.get('impute', {}).get('version', __version__)}",
        *([f"baseline {baseline['method']}"] if "method" in baseline and not impute else []),
        *(f"{name.replace('_', ' ')} {impute[name]}" for name in ("preset", "target", "seed") if name in impute),
        *([f"{impute['n_samples']} draws per entry"] if "n_samples" in impute else []),
    ]
    for done, facts in (("trained", train), ("imputed", impute)):
        if _seconds(facts):
            items.append(f"{done} in {_seconds(facts)} on {facts.get('device', 'an unknown device')}")
    return items


def _facts(found: Findings, step: str) -> Mapping[str, Any]:
    """Parameters and settings of a step, from the file and from the model's folder."""
    noted = found.parameters.get(step, {}).get("parameters", {})
    return {**noted, **(found.model or {})} if step == "train" else noted


def _seconds(facts: Mapping[str, Any]) -> str | None:
    seconds = facts.get("seconds")
    return None if seconds is None else f"{seconds:.1f} s" if seconds < 10 else f"{seconds:,.0f} s"


def _place(step: str) -> int:
    return STEPS.index(step) if step in STEPS else len(STEPS)


def _settings(parameters: Mapping[str, Any]) -> dict[str, str]:
    """Parameters by the names of their options, lists as their length."""
    return {
        name.replace("_", "-"): f"{len(value)} names" if isinstance(value, list | tuple | np.ndarray) else str(value)
        for name, value in parameters.items()
    }
