"""The numbers of the report: computed here, shown by `page`."""

import csv
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stmcdi_cli import anndata_keys as keys
from stmcdi_cli import validation
from stmcdi_cli.errors import InputError, in_file, one_line
from stmcdi_cli.io.h5ad import shallow_copy
from stmcdi_cli.io.text import read_text, read_yaml
from stmcdi_cli.provenance import parameters_of
from stmcdi_cli.reporting.reliability import reliability
from stmcdi_cli.reporting.visible import Visible, visible_entries
from stmcdi_cli.sparse import accumulate_by_column, as_row_major, layers_of, values_at

if TYPE_CHECKING:
    from anndata import AnnData
    from pandas import DataFrame

    from stmcdi_cli.metrics import Comparison

SHALLOW = 0.25
"""In spots with less than this share of the median depth, imputed values come from the neighbours for the most part."""
N_BINS = 12
MOST_FOR_BINS = 1_000_000
"""Hidden entries from which the bins of the calibration are made; every entry counts in them."""

Metrics = Mapping[str, float | int | None]


@dataclass(frozen=True)
class Calibration:
    """Imputed and hidden values in bins of the imputed value, each [bins].

    Attributes
    ----------
    predicted, observed
        Means of both.
    below, above
        Share of hidden values under ``imputed_q05`` and over ``imputed_q95``; None without these layers.
    """

    predicted: np.ndarray
    observed: np.ndarray
    below: np.ndarray | None
    above: np.ndarray | None


@dataclass
class Findings:
    """The numbers about a run.

    Attributes
    ----------
    adata
        The imputed file.
    sections, section_names
        Integer code of each spot's section, and their names; one section where none were told apart.
    xy
        Spot coordinates, spots x 2.
    depth
        Depth of each spot over the median.
    overview
        A row per section, or one row: spots, depth, genes seen, zeros, missing.
    visible
        Sums over the visible entries.
    genes
        The table of `reliability`, with ``measured_r``, ``measured_skill`` and ``n_hidden`` where values were hidden.
    methods
        Name and metrics on the hidden entries, those of the file itself first; empty without a truth.
    section_metrics
        Metrics of each section by itself.
    calibration
        None without a truth.
    history, model
        Training history as columns, and what ``config.yaml`` says; None without a model folder.
    """

    adata: "AnnData"
    sections: np.ndarray
    section_names: list[str]
    xy: np.ndarray
    depth: np.ndarray
    overview: list[dict[str, float | int | str]]
    visible: Visible
    genes: "DataFrame"
    methods: list[tuple[str, Metrics]] = field(default_factory=list)
    section_metrics: list[Metrics] = field(default_factory=list)
    calibration: Calibration | None = None
    history: dict[str, np.ndarray] | None = None
    model: Mapping[str, Any] | None = None

    @property
    def metrics(self) -> Metrics | None:
        """Metrics of the imputation itself, where values were hidden."""
        return self.methods[0][1] if self.methods else None

    @property
    def parameters(self) -> Mapping[str, Mapping[str, Any]]:
        """What each step recorded in ``uns['stmcdi']``."""
        return self.adata.uns.get(keys.PROVENANCE, {})


def gather(
    adata: "AnnData",
    *,
    model_dir: str | os.PathLike[str] | None = None,
    truth: "AnnData | None" = None,
    baseline: "Sequence[AnnData]" = (),
) -> Findings:
    """Compute everything the report shows; parameters and errors are those of ``report``."""
    for layer in (keys.IMPUTED, keys.IMPUTED_SD):
        if layer not in adata.layers:
            raise InputError(
                f"expected layers['{layer}'], found {validation.first_few(layers_of(adata))}; "
                "run impute (`impute --layers`, where given, must name it), then report on its output"
            )
    validation.table(adata)
    validation.matrix(adata)
    xy = validation.coordinates(adata)[:, :2]
    section_key = parameters_of(adata, "build-graph").get("section_key")
    sections, names = np.zeros(adata.n_obs, dtype=int), ["all spots"]
    if section_key is not None and section_key in adata.obs:
        labels = adata.obs[section_key].astype("category").cat.remove_unused_categories()
        sections, names = labels.cat.codes.to_numpy().astype(int), [str(name) for name in labels.cat.categories]
    adata = _stored_by_rows(adata)
    visible = visible_entries(adata, sections)
    depth = _depth(adata, visible)
    found = Findings(
        adata=adata,
        sections=sections,
        section_names=names,
        xy=xy,
        depth=depth,
        overview=_overview(adata, sections, names, depth, visible),
        visible=visible,
        genes=reliability(adata, sections, visible),
    )
    if truth is not None:
        _measure(found, truth, baseline)
    elif baseline:
        raise InputError("expected the truth of hold-out beside a baseline, found none; give --truth")
    if model_dir is not None:
        found.history, found.model = _read_model(Path(model_dir))
    return found


def _stored_by_rows(adata: "AnnData") -> "AnnData":
    """Give a file whose matrices can be read a few rows at a time."""
    layers = {name: as_row_major(layer) for name, layer in layers_of(adata).items()}
    return shallow_copy(adata, X=as_row_major(adata.X), layers=layers)


def _depth(adata: "AnnData", visible: Visible) -> np.ndarray:
    """Depth of every spot over the median: its size factor, else the sum of its values."""
    if keys.SIZE_FACTOR in adata.obs:
        return adata.obs[keys.SIZE_FACTOR].to_numpy(np.float64)
    return visible.depth / (np.median(visible.depth) or 1)


def _overview(
    adata: "AnnData", sections: np.ndarray, names: list[str], depth: np.ndarray, visible: Visible
) -> list[dict[str, float | int | str]]:
    """Table of the sections: `Findings.overview`."""
    rows = []
    for code, name in enumerate(names):
        here = sections == code
        n_entries, n_missing = int(here.sum()) * adata.n_vars, int(visible.n_missing[here].sum())
        row: dict[str, float | int | str] = {"section": name, "spots": int(here.sum())}
        if visible.counts is not None:
            row["counts"] = float(np.median(visible.counts[here]))
        rows.append(
            row
            | {
                "depth": float(np.median(depth[here])),
                "genes": float(np.median(visible.genes_seen[here])),
                "zeros": 1 - visible.genes_seen[here].sum() / max(n_entries - n_missing, 1),
                "missing": n_missing / n_entries,
            }
        )
    return rows


def _measure(found: Findings, truth: "AnnData", baseline: "Sequence[AnnData]") -> None:
    """Measure the imputation, each gene's mean and the baselines on the hidden entries."""
    from stmcdi_cli.metrics import Comparison, gene_metrics, overall_metrics

    def metrics_of(imputed: "AnnData", layer: str = keys.IMPUTED, spots: np.ndarray | None = None) -> Metrics:
        return overall_metrics(Comparison(imputed, truth, layer, spots).sums())

    adata = found.adata
    hidden = Comparison(adata, truth, keys.IMPUTED)
    sums = hidden.sums()
    own = "stmcdi" if "impute" in found.parameters else parameters_of(adata, "baseline").get("method", "stmcdi")
    found.methods = [(str(own), overall_metrics(sums))]
    per_gene = gene_metrics(sums, adata)
    found.genes["measured_r"], found.genes["measured_skill"] = per_gene["pcc"], per_gene["skill"]
    found.genes["n_hidden"] = per_gene["n_hidden"]

    with_mean = shallow_copy(adata)
    with_mean.layers["gene mean"] = np.broadcast_to(
        np.where(hidden.unmeasured | hidden.not_asked, np.nan, hidden.guess), adata.shape
    )
    found.methods.append(("each gene's mean", metrics_of(with_mean, "gene mean")))
    for k, other in enumerate(baseline, start=1):
        name = parameters_of(other, "baseline").get("method")
        if name is None or str(name) != "gene-mean":
            name = str(name or f"baseline {k}")
            with in_file(f"baseline {name}"):
                found.methods.append((name, metrics_of(other)))

    found.calibration = _calibrate(hidden)
    if len(found.section_names) > 1:
        for code in range(len(found.section_names)):
            here = found.sections == code
            found.section_metrics.append(metrics_of(adata, spots=here) if hidden.n_of_spot[here].any() else {})


def _calibrate(hidden: "Comparison") -> Calibration:
    """Average hidden values in bins of the imputed value."""
    step, n_before, some = max(1, int(hidden.n.sum()) // MOST_FOR_BINS), 0, []
    for rows, mask, _ in hidden.rows():
        some.append(hidden.predicted(rows, mask)[-n_before % step :: step])
        n_before += mask.nnz
    predicted = np.concatenate(some)
    edges = np.unique(np.quantile(predicted, np.linspace(0, 1, N_BINS + 1)[1:-1]))
    n, p_sum, t_sum, below, above = np.zeros((5, len(edges) + 1))
    for rows, mask, values in hidden.rows():
        t, p = values_at(values, mask), hidden.predicted(rows, mask)
        which, spread = np.searchsorted(edges, p, side="right"), hidden.spread(rows, mask)
        n = accumulate_by_column(n, which, np.ones(p.size))
        p_sum, t_sum = accumulate_by_column(p_sum, which, p), accumulate_by_column(t_sum, which, t)
        if "q05" in spread:
            below = accumulate_by_column(below, which, t < spread["q05"])
        if "q95" in spread:
            above = accumulate_by_column(above, which, t > spread["q95"])
    kept = n > 0
    p_mean, t_mean, below, above = (sums[kept] / n[kept] for sums in (p_sum, t_sum, below, above))
    return Calibration(
        p_mean, t_mean, below if "q05" in hidden.layers else None, above if "q95" in hidden.layers else None
    )


def _read_model(path: Path) -> tuple[dict[str, np.ndarray], Mapping[str, Any]]:
    """History and settings of a model folder, without its weights."""
    if not path.is_dir():
        raise InputError(f"no model folder at {path}; `stmcdi train` makes one")
    try:
        description = read_yaml(path / "config.yaml")
        rows = list(csv.DictReader(read_text(path / "history.tsv").splitlines(), delimiter="\t"))
        columns = list(rows[0]) if rows else []
        history = {name: np.array([float(row[name] or "nan") for row in rows]) for name in columns}
        config = dict(description["config"])
    except (OSError, csv.Error, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path} is not a complete model ({one_line(error)}); give the folder that train wrote"
        ) from error
    return history, {**config, "version": description.get("version"), "variant": description.get("variant")}
