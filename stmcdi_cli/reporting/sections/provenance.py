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
from stmcdi_cli.reporting.html import figure, table_of
from stmcdi_cli.reporting.statistics import Findings


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
    said = "<p>No validation loss was noted.</p>"
    validation = history.get("validation_loss")
    if validation is not None and np.isfinite(validation).any():
        best = int(np.nanargmin(validation))
        said = f"<p>Lowest validation loss {validation[best]:.4g}, after epoch {epoch[best]:.0f} of {epoch.max():.0f}"
        if epoch[0] != 0:
            said += ".</p>"
        elif best == 0:
            said += (
                ": no later one beat the linear encoder, so the network was kept silent and the model is that "
                "encoder.</p>"
            )
        else:
            said += (
                f", {1 - validation[best] / validation[0]:.1%} below that of the encoder alone (epoch 0). The encoder "
                "knows most of what can be known; what the network adds is small, and should fall and level off.</p>"
            )
    picture = figure(chart.svg(), "Training curve", "Validation: entries kept from learning")
    return f'<div class="charts">{picture}<div>{said}</div></div>'


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
    rows = [[name, str(value)] for name, value in facts.items() if value not in (None, "")]
    table = table_of(["step", "version", "parameters", "input (SHA\u2011256)"], steps, words=(2,))
    return (
        f'<div class="scroll">{table}</div>'
        f'<div class="scroll" style="margin-top:16px;max-width:460px">{table_of(["", ""], rows, style="plain")}</div>'
        '<p class="note">Package versions are those of the machine that made this report.</p>'
    )


def summary(found: Findings) -> list[str]:
    """What a reader wants to know of the run first."""
    train, impute = _facts(found, "train"), _facts(found, "impute")
    said = [
        f"stmcdi {found.parameters.get('impute', {}).get('version', __version__)}",
        *(f"{name.replace('_', ' ')} {impute[name]}" for name in ("preset", "target", "seed") if name in impute),
        *([f"{impute['n_samples']} draws per entry"] if "n_samples" in impute else []),
    ]
    for done, facts in (("trained", train), ("imputed", impute)):
        if _seconds(facts):
            said.append(f"{done} in {_seconds(facts)} on {facts.get('device', 'an unknown device')}")
    return said


def _facts(found: Findings, step: str) -> Mapping[str, Any]:
    """What is known of a step, from the file and from the model's folder."""
    noted = found.parameters.get(step, {}).get("parameters", {})
    return {**noted, **(found.model or {})} if step == "train" else noted


def _seconds(facts: Mapping[str, Any]) -> str | None:
    seconds = facts.get("seconds")
    return None if seconds is None else f"{seconds:.1f} s" if seconds < 10 else f"{seconds:,.0f} s"


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
    """Parameters, short."""
    said = []
    for name, value in parameters.items():
        text = f"{len(value)} names" if isinstance(value, list | tuple | np.ndarray) else str(value)
        said.append(f"{name.replace('_', '-')}: {text}")
    return ", ".join(said)
