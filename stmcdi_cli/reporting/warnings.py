"""Warnings of the report: what could mislead its reader."""

from collections.abc import Iterator

import numpy as np

from stmcdi_cli import anndata_keys as keys
from stmcdi_cli.provenance import FAR_TOTALS
from stmcdi_cli.reporting.reliability import POOR_R, RARE_SHARE, RARE_SPOTS, TRUST, ReferenceFit
from stmcdi_cli.reporting.statistics import SHALLOW, Findings, Metrics

ALIKE = 0.8
"""Correlation of two sections' mean expression below which one model may not fit both."""
DEPTH_RATIO = 3.0
"""Ratio of two sections' median depths above which a zero in one is not like a zero in the other."""
_FEWEST_GENES = 3
"""Genes measured in both of two sections that tell whether these are alike."""
COVERAGE_SLACK = 0.05
"""Difference from 0.9 in the share of hidden values inside their 90 % interval that is tolerated."""


def find_warnings(found: Findings) -> list[str]:
    """Give one or two sentences on each thing that could mislead a reader, the worst first."""
    return [*_accuracy(found), *_settings(found), *_genes(found), *_spots(found), *_sections(found)]


def _accuracy(found: Findings) -> Iterator[str]:
    if not found.genes["n_filled"].any():
        yield "Nothing was filled: the file has no missing entries. Use --target zeros or all, or --evaluate."
    if found.metrics is None:
        return
    if found.metrics["skill"] is not None and found.metrics["skill"] <= 0:
        yield "On the hidden entries the imputed values are no better than each gene's mean. Do not use them."
    better = [name for name, metrics in found.methods[2:] if _skill(metrics) > _skill(found.metrics)]
    if better:
        yield f"{', '.join(better)} did better on the hidden entries: consider using it instead."
    coverage = found.metrics.get("coverage_90")
    if coverage is not None and abs(coverage - 0.9) > COVERAGE_SLACK:
        yield (
            f"The 90% intervals hold {coverage:.0%} of the hidden values: take the uncertainty as "
            f"{'too narrow' if coverage < 0.9 else 'too wide'}."
        )


def _settings(found: Findings) -> Iterator[str]:
    impute = found.parameters.get("impute", {}).get("parameters", {})
    train = found.parameters.get("train", {}).get("parameters", {})
    if train.get("variant") == "attention" or ("variant" not in train and impute.get("preset") == "paper"):
        yield (
            "A model of the variant attention does not calibrate its uncertainty, so the verdicts are less reliable "
            "than with the preset default."
        )
    if train.get("count_scale") == "none":
        yield (
            "The values were no counts on any known scale, so they were taken as Gaussian: counting noise was not "
            "modelled, and shallow spots count as much as deep ones. Start from raw counts if there are any."
        )
    elif train.get("odd_spots"):
        yield (
            f"{train['odd_spots']} spots held no whole counts, unlike the others. Nothing was learnt from them: "
            "correct or remove them."
        )
    ratio = impute.get("ratio_of_totals")
    if ratio is not None and not 1 / FAR_TOTALS < ratio < FAR_TOTALS:
        yield (
            f"For its scale, this tissue has {ratio:.2g} times the counts of the one that the model was trained on. "
            "Rates were scaled, but noise and intervals are those of the other depth: a model of its own is better."
        )
    n_samples = impute.get("n_samples")
    if n_samples is not None and n_samples < 20:
        yield f"Only {n_samples} draws per entry: interval ends and standard deviation are imprecise. Use 20 or more."


def _genes(found: Findings) -> Iterator[str]:
    genes, left_out = found.genes, ReferenceFit.in_record(found.adata)
    if left_out and left_out.mean < POOR_R:
        yield (
            "The reference does not fit this tissue: genes that both have, left out whole, are predicted with a mean "
            f"correlation of {left_out.mean:.2f}. What is filled in for genes never measured is little "
            "more than their level: use a reference of the same tissue and condition."
        )
    is_rare = (genes["seen"] < RARE_SHARE) | (genes["seen"] * found.adata.n_obs < RARE_SPOTS)
    measured = found.visible.missing.sum(0) < found.adata.n_obs
    rare = int((is_rare & measured).sum())
    if rare:
        yield (
            f"{rare} of {len(genes)} genes are too rare (seen in under {RARE_SHARE:.0%} of the spots or fewer than "
            f"{RARE_SPOTS}): their imputed values are the gene's mean at best."
        )
    if genes["n_filled"].any() and not (genes["verdict"] == TRUST).any():
        yield "No gene reached the verdict trust: the data are too sparse for single genes. Look at groups of genes."


def _spots(found: Findings) -> Iterator[str]:
    obs, n_spots = found.adata.obs, found.adata.n_obs
    shallow = int((found.depth < SHALLOW).sum())
    if shallow:
        yield (
            f"{shallow} of {n_spots} spots ({shallow / n_spots:.1%}) have less than {SHALLOW:.0%} of the median depth: "
            "there the imputed values come from the neighbours for the most part."
        )
    empty = int(obs[keys.EMPTY_SPOT].sum()) if keys.EMPTY_SPOT in obs else 0
    if empty:
        yield f"{empty} spots have no counts at all: all their values are filled from the neighbours alone."


def _sections(found: Findings) -> Iterator[str]:
    names = found.section_names
    if len(names) < 2:
        return
    least, i, j = min((_alike(found, i, j), i, j) for i in range(len(names)) for j in range(i))
    if least < ALIKE:
        yield (
            f"Sections {names[j]} and {names[i]} differ much (correlation of their mean expression {least:.2f}). One "
            "model was trained on both: compare a gene in both, and consider a model for each."
        )
    depth = np.array([float(row["depth"]) for row in found.overview])
    if depth.min() > 0 and depth.max() / depth.min() > DEPTH_RATIO:
        yield (
            f"Section {names[int(depth.argmax())]} is {depth.max() / depth.min():.1f} times as deep as "
            f"{names[int(depth.argmin())]}: differences between them are partly due to depth."
        )


def _alike(found: Findings, *pair: int) -> float:
    """Correlation of the mean expression of two sections, over the genes that were measured in both."""
    which = list(pair)
    n_visible = np.bincount(found.sections)[which, None] - found.visible.missing[which]
    both = (n_visible > 0).all(0)
    if both.sum() < _FEWEST_GENES:
        return 1.0
    mean = found.visible.total[which][:, both] / n_visible[:, both]
    with np.errstate(invalid="ignore", divide="ignore"):
        return float(np.nan_to_num(np.corrcoef(mean)[0, 1], nan=0.0))


def _skill(metrics: Metrics) -> float:
    value = metrics.get("skill")
    return float("-inf") if value is None else float(value)
