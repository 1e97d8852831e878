"""What could mislead a reader of the report, as sentences."""

import numpy as np

from stmcdi_cli import anndata_keys as keys
from stmcdi_cli.reporting.reliability import RARE_SHARE, RARE_SPOTS, TRUST
from stmcdi_cli.reporting.statistics import SHALLOW, Findings, Metrics
from stmcdi_cli.sparse import to_csr

ALIKE = 0.8
"""Correlation of two sections' mean expression below which one model for both deserves a second look."""
DEPTH_RATIO = 3.0
"""Ratio of two sections' median depths above which their zeros mean different things."""
COVERAGE_SLACK = 0.05


def find_warnings(found: Findings) -> list[str]:
    """What could mislead a reader, worst first."""
    said: list[str] = []
    adata, genes, n_spots = found.adata, found.genes, found.adata.n_obs
    impute = found.parameters.get("impute", {}).get("parameters", {})

    if not genes["n_filled"].any():
        said.append("Nothing was filled: the file has no missing entries. Use --target zeros or all, or --evaluate.")
    metrics = found.metrics
    if metrics and metrics["skill"] is not None and metrics["skill"] <= 0:
        said.append("On the hidden entries the imputed values are no better than each gene's mean. Do not use them.")
    better = [name for name, other in found.methods[2:] if metrics and _skill(other) > _skill(metrics)]
    if better:
        said.append(f"{', '.join(better)} did better on the hidden entries: consider using that, and say so.")
    coverage = metrics.get("coverage_90") if metrics else None
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


def _skill(metrics: Metrics) -> float:
    value = metrics.get("skill")
    return float("-inf") if value is None else float(value)
