"""Numbers for MultiQC's custom content: files it finds by their name, ``*_mqc.json``, and merges over samples."""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from stmcdi_cli.reporting.charts import COLORS
from stmcdi_cli.reporting.reliability import CAUTION, DONT, TRUST
from stmcdi_cli.reporting.statistics import Findings

VERDICTS = (TRUST, CAUTION, DONT)


def custom_content(found: Findings, sample: str) -> Iterator[tuple[str, str]]:
    """Yield (part of the file's name, JSON text): general statistics, genes by verdict, training curve."""
    verdict = found.genes["verdict"]
    counts = {name: int((verdict == name).sum()) for name in VERDICTS}
    parts = {"scores": _general(found, counts), "verdicts": _verdicts(counts), "training": _training(found)}
    for part, content in parts.items():
        if content is not None:
            description, data = content
            yield part, json.dumps({"id": f"stmcdi_{part}", **description, "data": {sample: data}}, indent=1) + "\n"


def _general(found: Findings, counts: dict[str, int]) -> tuple[dict[str, Any], Any]:
    """Columns of the table of general statistics, and their values."""
    row: dict[str, float | int] = {"trusted": 100 * counts[TRUST] / len(found.genes)}
    headers: dict[str, dict[str, Any]] = {
        "trusted": {
            "title": "Genes to trust",
            "description": "Share of the genes whose imputed values can be trusted (stmcdi)",
            "suffix": " %",
            "min": 0,
            "max": 100,
            "format": "{:,.1f}",
            "scale": "Greens",
        }
    }
    for key, title, description in (
        ("skill", "Skill", "On hidden values: 1 - squared error / squared error of each gene's mean (stmcdi)"),
        ("gene_pcc", "PCC per gene", "On hidden values: mean correlation within genes (stmcdi)"),
        ("coverage_90", "Coverage", "Share of hidden values inside the 90% interval (stmcdi)"),
    ):
        value = found.metrics.get(key) if found.metrics else None
        if value is not None:
            row[key] = value
            headers[key] = {"title": title, "description": description, "format": "{:,.3f}", "scale": "Blues"}
    return {"plot_type": "generalstats", "headers": headers}, row


def _verdicts(counts: dict[str, int]) -> tuple[dict[str, Any], Any]:
    """Bar chart of genes by verdict."""
    description = {
        "section_name": "stmcdi: genes by verdict",
        "description": "How far each gene's imputed values can be trusted, judged by the model's own spread.",
        "plot_type": "bargraph",
        "pconfig": {"id": "stmcdi_verdicts_plot", "title": "stmcdi: genes by verdict", "ylab": "Genes"},
        "categories": {name: {"name": name, "color": COLORS[name]} for name in VERDICTS},
    }
    return description, counts


def _training(found: Findings) -> tuple[dict[str, Any], Any] | None:
    """Validation loss by epoch; None where it is not known."""
    if found.history is None or not np.isfinite(found.history.get("validation_loss", np.array([]))).any():
        return None
    epoch, loss = found.history["epoch"], found.history["validation_loss"]
    # By text of one width: every MultiQC draws it in this order, where those before 1.30 fail on pairs of numbers.
    width = max(4, len(f"{epoch.max():.0f}"))
    curve = {f"{e:0{width}.0f}": float(value) for e, value in zip(epoch, loss, strict=True) if np.isfinite(value)}
    description = {
        "section_name": "stmcdi: training",
        "description": "Loss on the entries kept from learning, by epoch.",
        "plot_type": "linegraph",
        "pconfig": {
            "id": "stmcdi_training_plot",
            "title": "stmcdi: validation loss",
            "xlab": "Epoch",
            "ylab": "Validation loss",
        },
    }
    return description, curve
