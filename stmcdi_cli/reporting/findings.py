"""Everything a report says, as numbers: gathered here, drawn in `page`."""

import csv
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from stmcdi_cli import anndata_keys as keys
from stmcdi_cli import validation
from stmcdi_cli.errors import InputError
from stmcdi_cli.io.h5ad import shallow_copy
from stmcdi_cli.io.text import read_text, read_yaml
from stmcdi_cli.reporting.reliability import RARE_SHARE, RARE_SPOTS, TRUST, reliability
from stmcdi_cli.sparse import mask_out, missing_mask, row_sums, to_csr, values_at

if TYPE_CHECKING:
    from anndata import AnnData
    from pandas import DataFrame

SHALLOW = 0.25
"""Spots with less than this share of the median depth are too shallow to say much by themselves."""
ALIKE = 0.8
"""Correlation of two sections' mean expression below which one model for both deserves a second look."""
DEPTH_RATIO = 3.0
"""Ratio of two sections' median depths above which their zeros mean different things."""
COVERAGE_SLACK = 0.05
N_BINS = 12

Scores = Mapping[str, float | int | None]


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
    """What is known of a run.

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
    genes
        The table of `reliability`, with ``measured_r``, ``measured_skill`` and ``n_hidden`` where values were hidden.
    methods
        Name and scores on the hidden entries, stmcdi first; empty without a truth.
    section_scores
        Scores of each section by itself.
    calibration
        None without a truth.
    history, model
        Training history as columns, and what ``config.yaml`` says; None without a model folder.
    warnings
        What a user should look at, one sentence or two each.
    """

    adata: "AnnData"
    sections: np.ndarray
    section_names: list[str]
    xy: np.ndarray
    depth: np.ndarray
    overview: list[dict[str, float | int | str]]
    genes: "DataFrame"
    methods: list[tuple[str, Scores]] = field(default_factory=list)
    section_scores: list[Scores] = field(default_factory=list)
    calibration: Calibration | None = None
    history: dict[str, np.ndarray] | None = None
    model: Mapping[str, Any] | None = None
    warnings: list[str] = field(default_factory=list)

    @property
    def scores(self) -> Scores | None:
        """Scores of the imputation itself, where values were hidden."""
        return self.methods[0][1] if self.methods else None

    @property
    def parameters(self) -> Mapping[str, Mapping[str, Any]]:
        """What each step noted in ``uns['stmcdi']``."""
        return self.adata.uns.get(keys.PROVENANCE, {})


def gather(
    adata: "AnnData",
    *,
    model_dir: str | os.PathLike[str] | None = None,
    truth: "AnnData | None" = None,
    baseline: "Sequence[AnnData]" = (),
) -> Findings:
    """Work out everything the report shows; parameters and errors are those of ``report``."""
    for layer in (keys.IMPUTED, keys.IMPUTED_SD):
        if layer not in adata.layers:
            raise InputError(
                f"expected layers['{layer}'], found {validation.first_few(adata.layers)}; "
                "run impute (--layers, where given, must name it), then report on its output"
            )
    validation.table(adata)
    xy = validation.coordinates(adata)[:, :2]
    section_key = adata.uns.get(keys.PROVENANCE, {}).get("build-graph", {}).get("parameters", {}).get("section_key")
    sections, names = np.zeros(adata.n_obs, dtype=int), ["all spots"]
    if section_key is not None and section_key in adata.obs:
        labels = adata.obs[section_key].astype("category").cat.remove_unused_categories()
        sections, names = labels.cat.codes.to_numpy().astype(int), [str(name) for name in labels.cat.categories]
    depth = _depth(adata)
    found = Findings(
        adata=adata,
        sections=sections,
        section_names=names,
        xy=xy,
        depth=depth,
        overview=[_overview(adata, sections == code, depth, name) for code, name in enumerate(names)],
        genes=reliability(adata, sections),
    )
    if truth is not None:
        _score(found, truth, baseline)
    elif baseline:
        raise InputError("expected the truth of hold-out beside a baseline, found none; give --truth")
    if model_dir is not None:
        found.history, found.model = _read_model(Path(model_dir))
    found.warnings = list(_warnings(found))
    return found


def _depth(adata: "AnnData") -> np.ndarray:
    """Depth of every spot over the median: its size factor, else the sum of its values."""
    if keys.SIZE_FACTOR in adata.obs:
        return adata.obs[keys.SIZE_FACTOR].to_numpy(np.float64)
    total = row_sums(to_csr(adata.X))
    return total / (np.median(total) or 1)


def _overview(adata: "AnnData", here: np.ndarray, depth: np.ndarray, name: str) -> dict[str, float | int | str]:
    missing = missing_mask(adata)[here]
    x = mask_out(to_csr(adata.X[here]), missing)
    n_visible = x.shape[0] * x.shape[1] - missing.nnz
    row: dict[str, float | int | str] = {"section": name, "spots": int(here.sum())}
    if keys.COUNTS in adata.layers:
        row["counts"] = float(np.median(row_sums(to_csr(adata.layers[keys.COUNTS][here]))))
    row |= {
        "depth": float(np.median(depth[here])),
        "genes": float(np.median(np.diff(x.indptr))),
        "zeros": 1 - x.nnz / max(n_visible, 1),
        "missing": missing.nnz / (x.shape[0] * x.shape[1]),
    }
    return row


def _score(found: Findings, truth: "AnnData", baseline: "Sequence[AnnData]") -> None:
    """Score the imputation, each gene's mean and the baselines on the hidden entries."""
    from stmcdi_cli.metrics import hidden_entries
    from stmcdi_cli.steps.evaluate import evaluate, evaluate_genes

    adata = found.adata
    found.methods = [("stmcdi", evaluate(adata, truth))]
    hidden = hidden_entries(adata, truth, keys.IMPUTED)
    per_gene = evaluate_genes(adata, truth)
    found.genes["measured_r"], found.genes["measured_skill"] = per_gene["pcc"], per_gene["skill"]
    found.genes["n_hidden"] = per_gene["n_hidden"]

    guess = shallow_copy(adata)
    guess.layers["gene mean"] = sp.csr_matrix((hidden.guess, hidden.mask.indices, hidden.mask.indptr), adata.shape)
    found.methods.append(("each gene's mean", evaluate(guess, truth, layer="gene mean")))
    for k, other in enumerate(baseline, start=1):
        name = other.uns.get(keys.PROVENANCE, {}).get("baseline", {}).get("parameters", {}).get("method")
        if name is None or str(name) != "gene-mean":
            found.methods.append((str(name or f"baseline {k}"), evaluate(other, truth)))

    q05, q95 = (
        values_at(adata.layers[name], hidden.mask) if name in adata.layers else None
        for name in (keys.IMPUTED_Q05, keys.IMPUTED_Q95)
    )
    found.calibration = _calibrate(hidden.predicted, hidden.truth, q05, q95)
    if len(found.section_names) > 1:
        for code in range(len(found.section_names)):
            here = found.sections == code
            found.section_scores.append(evaluate(adata[here], truth[here]) if hidden.mask[here].nnz else {})


def _calibrate(
    predicted: np.ndarray, truth: np.ndarray, low: np.ndarray | None, high: np.ndarray | None
) -> Calibration:
    edges = np.unique(np.quantile(predicted, np.linspace(0, 1, N_BINS + 1)[1:-1]))
    which = np.searchsorted(edges, predicted, side="right")
    n = np.bincount(which, minlength=len(edges) + 1)
    kept = n > 0

    def mean(values: np.ndarray) -> np.ndarray:
        return np.bincount(which, values, len(n))[kept] / n[kept]

    return Calibration(
        mean(predicted),
        mean(truth),
        None if low is None else mean(truth < low),
        None if high is None else mean(truth > high),
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
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path} is not a complete model ({reason}); give the folder that train wrote") from error
    return history, {**config, "version": description.get("version"), "variant": description.get("variant")}


def _warnings(found: Findings) -> "Sequence[str]":
    """What could mislead a reader, worst first."""
    said: list[str] = []
    adata, genes, n_spots = found.adata, found.genes, found.adata.n_obs
    impute = found.parameters.get("impute", {}).get("parameters", {})

    if not genes["n_filled"].any():
        said.append("Nothing was filled: the file has no missing entries. Use --target zeros or all, or --evaluate.")
    scores = found.scores
    if scores and scores["skill"] is not None and scores["skill"] <= 0:
        said.append("On the hidden entries the imputed values are no better than each gene's mean. Do not use them.")
    better = [name for name, other in found.methods[2:] if scores and _skill(other) > _skill(scores)]
    if better:
        said.append(f"{', '.join(better)} did better on the hidden entries: consider using that, and say so.")
    coverage = scores.get("coverage_90") if scores else None
    if coverage is not None and abs(coverage - 0.9) > COVERAGE_SLACK:
        said.append(
            f"The 90% intervals hold {coverage:.0%} of the hidden values: take the uncertainty as "
            f"{'too narrow' if coverage < 0.9 else 'too wide'}."
        )
    if impute.get("preset") == "paper":
        said.append(
            "The paper's preset does not calibrate its spread, so verdicts rest on weaker ground than with the default."
        )
    n_samples = impute.get("n_samples")
    if n_samples is not None and n_samples < 20:
        said.append(f"Only {n_samples} draws per entry: interval ends and spread are rough. Use 20 or more.")

    rare = int(((genes["seen"] < RARE_SHARE) | (genes["seen"] * n_spots < RARE_SPOTS)).sum())
    if rare:
        said.append(
            f"{rare} of {len(genes)} genes are too rare (seen in under {RARE_SHARE:.0%} of the spots or fewer than "
            f"{RARE_SPOTS}): their imputed values are the gene's mean at best."
        )
    if genes["n_filled"].any() and not (genes["verdict"] == TRUST).any():
        said.append(
            "No gene reached the verdict trust: the data are too sparse for single genes. Look at groups of genes."
        )
    shallow = int((found.depth < SHALLOW).sum())
    if shallow:
        said.append(
            f"{shallow} of {n_spots} spots ({shallow / n_spots:.1%}) have less than {SHALLOW:.0%} of the median depth: "
            "there the imputed values come from the neighbours, hardly from the spot itself."
        )
    empty = int(adata.obs[keys.EMPTY_SPOT].sum()) if keys.EMPTY_SPOT in adata.obs else 0
    if empty:
        said.append(f"{empty} spots have no counts at all: everything there is filled from the neighbours alone.")
    said += _section_warnings(found)
    return said


def _section_warnings(found: Findings) -> list[str]:
    n = len(found.section_names)
    if n < 2:
        return []
    x = to_csr(found.adata.X)
    mean = np.stack([np.asarray(x[found.sections == code].mean(0)).ravel() for code in range(n)])
    with np.errstate(invalid="ignore", divide="ignore"):
        alike = np.nan_to_num(np.corrcoef(mean), nan=0.0)
    depth = np.array([float(row["depth"]) for row in found.overview])
    said = []
    pairs = [(alike[i, j], i, j) for i in range(n) for j in range(i)]
    worst, i, j = min(pairs)
    if worst < ALIKE:
        said.append(
            f"Sections {found.section_names[j]} and {found.section_names[i]} differ much (correlation of their mean "
            f"expression {worst:.2f}). One model serves both: look at a gene in both, and consider a model for each."
        )
    if depth.min() > 0 and depth.max() / depth.min() > DEPTH_RATIO:
        said.append(
            f"Section {found.section_names[int(depth.argmax())]} is {depth.max() / depth.min():.1f} times as deep as "
            f"{found.section_names[int(depth.argmin())]}: differences between them are partly depth."
        )
    return said


def _skill(scores: Scores) -> float:
    value = scores.get("skill")
    return float("-inf") if value is None else float(value)
