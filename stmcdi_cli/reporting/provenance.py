"""The parts of the page about how the result was made: training, steps, versions."""

import platform
from collections.abc import Mapping
from importlib import metadata
from itertools import pairwise
from typing import Any

import numpy as np

from stmcdi_cli import __version__
from stmcdi_cli.reporting import charts
from stmcdi_cli.reporting.charts import Chart
from stmcdi_cli.reporting.findings import Findings
from stmcdi_cli.reporting.pieces import figure, table_of


def training_part(found: Findings) -> str:
    """Losses by epoch, where the model folder is known."""
    history = found.history
    if history is None or not len(history.get("epoch", ())):
        return "<p>No model folder was given; <code>--model-dir</code> adds the training curve.</p>"
    epoch = history["epoch"]
    curves = [(name, values) for name, values in history.items() if "loss" in name and np.isfinite(values).any()]
    chart = Chart(
        "epoch",
        "loss",
        charts.padded(epoch, share=0.02),
        charts.padded(np.concatenate([values for _, values in curves])),
        "Training and validation loss by epoch",
    )
    styles = {"loss": "second", "validation_loss": "main"}
    for name, values in curves:
        known = np.isfinite(values)
        starts = [0, *(np.flatnonzero(np.diff(epoch[known]) <= 0) + 1), int(known.sum())]  # several networks in turn
        for k, (start, end) in enumerate(pairwise(starts)):
            label = name.replace("_", " ") if k == 0 else None
            chart.line(epoch[known][start:end], values[known][start:end], styles.get(name, "third"), label)
    said = ""
    validation = history.get("validation_loss")
    if validation is not None and np.isfinite(validation).any():
        best = int(np.nanargmin(validation))
        said = f"<p>Lowest validation loss {validation[best]:.4g}, after epoch {epoch[best]:.0f} of {epoch.max():.0f}"
        said += (
            ": no later one beat the linear encoder, so the network was kept silent and the model is that encoder.</p>"
            if epoch[best] == 0
            else ".</p>"
        )
    return (
        said
        + f'<div class="charts">{figure(chart.svg(), "Training curve", "Validation: entries kept from learning")}</div>'
    )


def run_part(found: Findings) -> str:
    """What each step was asked to do, seeds, devices, versions and run time."""
    steps = [
        [
            step,
            str(entry.get("version", "")),
            _settings(entry.get("parameters", {})),
            str(entry.get("input_sha256", ""))[:12],
        ]
        for step, entry in sorted(found.parameters.items(), key=lambda item: _place(item[0]))
    ]
    model = found.model or {}
    impute = found.parameters.get("impute", {}).get("parameters", {})
    seconds = (found.history or {}).get("seconds", np.array([]))
    facts = {
        "stmcdi (this report)": __version__,
        "model": " ".join(str(model[key]) for key in ("preset", "variant") if key in model),
        "trained by stmcdi": model.get("version"),
        "seed of training": model.get("seed"),
        "seed of imputation": impute.get("seed"),
        "device of training": model.get("device"),
        "device of imputation": impute.get("device"),
        "time for training": f"{np.nanmax(seconds):,.0f} s" if np.isfinite(seconds).any() else None,
        "Python": platform.python_version(),
        **{name: metadata.version(name) for name in ("torch", "anndata", "numpy", "scipy")},
    }
    rows = [[name, str(value)] for name, value in facts.items() if value not in (None, "")]
    table = table_of(["step", "version", "parameters", "input (SHA-256)"], steps, words=(2,))
    return (
        f'<div class="scroll">{table}</div>'
        f'<div class="scroll" style="margin-top:16px;max-width:460px">{table_of(["", ""], rows, style="plain")}</div>'
        '<p class="note">Package versions are those of the machine that made this report.</p>'
    )


_ORDER = (
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


def _place(step: str) -> int:
    return _ORDER.index(step) if step in _ORDER else len(_ORDER)


def _settings(parameters: Mapping[str, Any]) -> str:
    """Parameters as they would be typed."""
    said = []
    for name, value in parameters.items():
        text = f"{len(value)} names" if isinstance(value, list | tuple | np.ndarray) else str(value)
        said.append(f"{name.replace('_', '-')} {text}")
    return ", ".join(said)
