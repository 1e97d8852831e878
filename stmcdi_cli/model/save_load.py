"""A trained model on disk: a folder with ``model.safetensors``, ``config.yaml`` and ``history.tsv``."""

import importlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from safetensors.torch import load_file
from safetensors.torch import save as as_bytes

from stmcdi_cli import __version__
from stmcdi_cli.errors import InputError, one_line
from stmcdi_cli.io.output import atomic_folder
from stmcdi_cli.io.safety import memory_limited
from stmcdi_cli.io.text import read_yaml
from stmcdi_cli.model.base import ImputationModel
from stmcdi_cli.model.tissue import Tissue

WEIGHTS, CONFIG, HISTORY = "model.safetensors", "config.yaml", "history.tsv"

VARIANTS = {
    "attention": "stmcdi_cli.model.attention.model:AttentionModel",
    "latent": "stmcdi_cli.model.latent.model:LatentModel",
}
"""Class of each variant, imported only when it is used."""


def build(config: Mapping[str, Any], genes: Sequence[str]) -> ImputationModel:
    """Build an untrained model of the variant ``config["variant"]``.

    Raises
    ------
    InputError
        There is no such variant.
    """
    variant = config.get("variant")
    if variant not in VARIANTS:
        raise InputError(f"unknown model variant {variant!r}; expected one of {', '.join(VARIANTS)}")
    module, name = VARIANTS[variant].split(":")
    return getattr(importlib.import_module(module), name)(config, tuple(genes))


def save(model: ImputationModel, path: str | os.PathLike[str], history: Sequence[Mapping[str, float]]) -> None:
    """Write a model folder, completely or not at all; a model that is already there is replaced.

    Raises
    ------
    InputError
        There is something at `path` that is not a model.
    """
    path = Path(path)
    if path.exists() and not (path.is_dir() and all(p.name in (WEIGHTS, CONFIG, HISTORY) for p in path.iterdir())):
        raise InputError(f"{path} exists and is not a model folder; give another name")
    path.parent.mkdir(parents=True, exist_ok=True)
    description = {
        "version": __version__,
        "variant": model.variant,
        "config": _plain(model.config),
        "genes": list(model.genes),
    }
    with atomic_folder(path) as temporary:
        weights = as_bytes({name: value.contiguous() for name, value in model.state().items()})
        (temporary / WEIGHTS).write_bytes(weights)  # `safetensors` itself would not say why it cannot write
        (temporary / CONFIG).write_text(yaml.safe_dump(description, sort_keys=False, allow_unicode=True), "utf-8")
        (temporary / HISTORY).write_text(_table(history), "utf-8")


def load(path: str | os.PathLike[str]) -> ImputationModel:
    """Read a model folder.

    Raises
    ------
    InputError
        The folder is missing, incomplete, damaged, or its parts do not belong together.
    """
    path = Path(path)
    if not path.is_dir():
        raise InputError(f"no model folder at {path}; `stmcdi train` makes one")
    for name in (WEIGHTS, CONFIG):
        if not (path / name).is_file():
            raise InputError(f"{path} is not a complete model: it has no {name}")
    try:
        description = read_yaml(path / CONFIG)
        config, genes = dict(description["config"]), tuple(map(str, description["genes"]))
        config["variant"] = description["variant"]
        if "unmeasured" in config:
            config["unmeasured"] = list(map(str, config["unmeasured"]))
        if config.get("scale") not in list(_SCALE_NAMES):
            raise ValueError(f"`scale` is {config['scale']!r}")
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path / CONFIG} is not a model's configuration: {one_line(error, 300)}") from error
    try:
        # A configuration may ask for a network of any size: it gets memory for the weights that there are.
        with memory_limited((path / WEIGHTS).stat().st_size):
            model = build(config, genes)
            state = load_file(path / WEIGHTS)
            broken = [name for name, value in state.items() if not value.isfinite().all()]
            if broken:
                raise ValueError(f"{broken[0]} has NaN or infinite numbers")
            model.load_state(state)
    except InputError:
        raise
    except Exception as error:  # torch raises errors of many kinds for a damaged folder
        raise InputError(f"{path / WEIGHTS} does not fit {path / CONFIG}: {one_line(error, 300)}") from error
    return model


def check_genes(model: ImputationModel, tissue: Tissue) -> None:
    """Refuse data with other genes than the model was trained on.

    Raises
    ------
    InputError
        A gene is missing or unknown, or their order differs.
    """
    if model.genes == tissue.genes:
        return
    known, given = set(model.genes), set(tissue.genes)
    problems = []
    for what, names in (
        ("the data lack", [gene for gene in model.genes if gene not in given]),
        ("the model does not know", [gene for gene in tissue.genes if gene not in known]),
    ):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            problems.append(f"{what} {', '.join(names[:3])}{more}")
    what = "; ".join(problems) or "the same genes in another order"
    if known - given:
        raise InputError(f"the data's genes are not the model's: {what}; impute the file it was trained on")
    raise InputError(f"the data's genes are not the model's: {what}; keep the model's (select-hvg --genes MODEL)")


def check_scale(model: ImputationModel, tissue: Tissue) -> None:
    """Refuse values on another scale than the model was trained on: all imputed values would be wrong.

    Raises
    ------
    InputError
        For example, the values are raw counts and the model was trained on log1p-normalised ones; or there are none.
    """
    if "scale" not in model.config or model.config["scale"] == tissue.count_scale:
        return
    if not tissue.x.nnz:
        raise InputError("expected some visible value above 0 in X, found none; there is nothing to impute from")
    found, expected = (_SCALE_NAMES[scale] for scale in (tissue.count_scale, model.config["scale"]))
    raise InputError(f"X is on the scale of {found}, the model's is that of {expected}; prepare it as for training")


_SCALE_NAMES = {
    "log1p": "log1p-normalised counts",
    "linear": "normalised counts without a logarithm",
    "counts": "raw counts",
    None: "values that are no counts",
}


def _plain(value: Any) -> Any:
    """Convert to types of safe YAML: tuples become lists."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _table(rows: Sequence[Mapping[str, float]]) -> str:
    """Tab-separated rows under the union of their columns; empty where a row has no value."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    lines = ["\t".join(columns)]
    lines += ["\t".join(f"{row[column]:.8g}" if column in row else "" for column in columns) for row in rows]
    return "\n".join(lines) + "\n"
