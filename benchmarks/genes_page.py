"""The section of README.md on genes that a panel never measured."""

import pandas as pd

from benchmarks import cells
from benchmarks.markdown import markdown
from benchmarks.metric_tables import GENE_METRICS, against_best_peer, metric_table

HEAD = """## Genes

A fifth of the genes is taken out of the panel and predicted with the help of a reference that has them all; which fifth
is the fold, five in all. `A <- B` is panel and reference, from files of their own; `<- other sections` means that one
section is the panel and the others of its tissue the reference. Of breast_xenium the 3,000 cells nearest to the middle
are used. Correlations are means over the hidden genes, each over the spots of the panel; MSE / variance is the squared
error over the genes' variance, 1 for a method that knows each gene's mean and nothing else. The truth is single
counts with their noise, so no correlation can come near 1.

Methods read `panel.h5ad` and `reference.h5ad`. All peers get the same help: totals of the genes that both have put
the reference on the panel's scale, and cells without any of these genes are left out. Ours is the chain of commands
`add-reference`, `normalize`, `build-graph`, `train`, `impute` with default options, all within the time. Where ours
has fewer than five folds, the figures of the others are of the same folds. What methods leave open (the distance and
the components of the nearest cells, ridge's penalties, how much is smoothed, Tangram's input) was chosen by these
very cases, fold 0 and in part 1, which flatters the peers.
"""

NOT_THERE = {
    "ENVI (scenvi 0.4.6)": "does not start: it asks for a tensorflow-probability too old for the jax that it gets",
    "CellPin 0.3.0": "21 of its 110 epochs in 5 minutes of a busy machine, on the smallest case",
    "uniPort 1.3": "its 30,000 steps would take half an hour on the smallest case; it needs numpy below 2",
    "SPAGIM 1.0.2": "compares methods; the one in it is SpaGE",
    "stDiff, SpaDiT": "no packages in the Python registry",
    "novoSpaRc on breast_visium": "not tried: distances of all pairs of 17,136 cells take 2.3 GB, and it holds several",
}
"""What has no row, and why."""

BEST = ("gene_pcc", "spearman", "mse_over_variance")


def section(part: pd.DataFrame, mean: pd.DataFrame, n_folds: pd.Series, cases: list[str]) -> str:
    """Ours beside the best peer, then methods by cases, all on our folds; `part` has the rows, and may be empty."""
    if part.empty:
        return ""
    kind = cells.GENES
    body = [metric_table(part, mean, n_folds, kind, metric, cases) for metric in GENE_METRICS]
    absent = markdown(["without a row", "why"], [[name, why] for name, why in NOT_THERE.items()])
    return "\n".join([HEAD, against_best_peer(mean, kind, cases, BEST), *filter(None, body), absent])
