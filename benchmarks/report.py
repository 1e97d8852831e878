"""Write README.md and its plots from results.tsv: every figure in it is a mean over seeds."""

from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks import cells, genes_page, methods, plots, results, scale_page
from benchmarks.markdown import markdown
from benchmarks.metric_tables import METRICS, against_best_peer, figure, in_order, label, metric_table, peer_best
from stmcdi_cli.io.output import write_texts

README = cells.ROOT / "benchmarks" / "README.md"
KINDS = {
    "0.2": "20 % hidden",
    "gaps-regions": "round holes",
    "gaps-spots": "a fifth of the spots hidden",
    "depth": "half of the molecules",
    "genes": "genes never measured",
    "0.1": "10 % hidden",
    "0.5": "50 % hidden",
    "nonzero": "a fifth of the non-zeros hidden",
}
SHOWN = dict.fromkeys(["0.2", "gaps-regions", "gaps-spots", "depth"], "skill") | {"genes": "gene_pcc"}
"""Which of these are in the table of all jobs, and the metric that stands there."""
DISTRIBUTION = {"var_ratio": "variance ratio", "zero_error": "zero share error", "corr_error": "correlation error"}

HEAD = """# Accuracy benchmark

Written by `make benchmark` from [results.tsv](results.tsv); do not edit.

Every method gets the same file of a real tissue and is scored on what that file does not hold. Four jobs, the first
three each with seeds 0, 1 and 2:

- **Entries** (`../shared/benchmark/make_case.py`): spots scaled to the median total and log1p-transformed, the 1,000
  most variable genes (or all there are) of those seen in 5 % of spots, then 10 %, 20 % or 50 % of all entries hidden at
  random, zeros included. In *a fifth of the non-zeros hidden* only entries above zero are hidden, and scored.
- **Gaps** (`../shared/benchmark/make_gaps.py`): the same, but whole spots are hidden: a fifth of them at random, or
  three *round holes* of 5 % of the spots in every section, as torn tissue leaves. Each seed draws other holes.
- **Depth** (`../shared/benchmark/split_counts.py`): every molecule goes to one of two halves by the toss of a coin. One
  half is normalised by `stmcdi normalize` and cut to the genes of `stmcdi select-hvg`, and all its values are to be
  denoised (`--target all`); scored on the other half, on the scale of the first.
- **Genes** (`../shared/benchmark/make_panel.py`): of the genes that a panel and a reference share, seen in 2 % of the
  spots, at most 600, a fifth is hidden in the panel, as if it had never measured them. Five folds take the place of
  seeds.

Definitions are those of `../shared/benchmark/score.py` and `split_counts.py`, on the log1p scale; skill is 1 - MSE /
MSE of each gene's visible mean. A figure is the mean over the seeds or folds; * marks fewer than there are. **Bold** is
the best of its column.

    make benchmark                                                     # every cell that has no result yet
    make benchmark BENCHMARK='--only method=mofa hidden=0.2 --jobs 2'  # some of them
    make benchmark BENCHMARK='--only case=mob_rep11 method=mofa hidden=0.2 seed=0 --again all'  # one cell again
    make benchmark BENCHMARK=--report                                  # only write this page

Each package runs in an environment of its own under `benchmarks/.work`, installed from its
`peers/NAME/requirements.txt` when first asked for, by its `peers/NAME/run.py`, with the package's defaults unless the
table says otherwise. Packages that take no mask get hidden entries as zeros or as gene means, whichever did better;
each run.py says which. All get the same help: predictions that are negative become 0, those that are not finite the
gene's mean. Impeller installs with dgl 1.1.3 and torch-geometric beside it: dgl 2.1.0, the newest, has libraries for
torch 2.0 to 2.2 alone. No peer needs a GPU. *baseline NAME* is `stmcdi baseline --method NAME`. The spatial graph that
stmcdi asks for is built beforehand, outside the time (of genes, within it). Time and memory with up to 1,000,000 spots
are [below](#scale).
"""

JOBS_NOTE = """Skill of stmcdi / of the best peer, and its name, on the same seeds; of genes never measured, the mean
correlation per gene.
"""

CRPS_NOTE = """CRPS and coverage exist where a method says how sure it is. Ours: CRPS of 20 draws (without bias from
their number), coverage of the reported `imputed_q05` to `imputed_q95`. Methods that give a standard deviation alone,
as factor analysis does, are scored as the Gaussian around their prediction.
"""

DISTRIBUTION_NOTE = """What is left of the data's distribution, mean over the cases. Variance ratio: median over genes
of the variance of imputed entries over that of the true ones (1 is right). Zero share error: mean over genes of the
absolute difference in the share of entries below half a count (0 is right). Correlation error: root mean square
difference of gene-gene correlations in the completed matrix (0 is right). *draw* rows take one draw (or the Gaussian's,
cut at 0) in place of the mean.
"""

NONZERO_NOTE = """Entries are scored here because they are above zero, which no method is told: each predicts too little
for them, and intervals that cover 90 % of all hidden entries cover fewer of these. This ranks methods; it says nothing
of calibration.
"""

COST_NOTE = """Wall and CPU seconds (user and system, which other work on the machine disturbs less) and peak resident
memory of the whole run, start of Python and reading included, for the case with most of each: 20 % hidden, or another
job for methods that do not do entries.
"""


def write(table: pd.DataFrame, readme: Path = README) -> None:
    """Write the page and its plots."""
    if table.empty:
        raise SystemExit("benchmark: no results yet, so no report")
    table = results.numbers(table)
    good = table[table["status"] == "ok"]
    mean = good.groupby(["hidden", "case", "method"]).mean(numeric_only=True)
    n_seeds = good.groupby(["hidden", "case", "method"]).size()
    on_ours = on_our_seeds(good).groupby(["hidden", "case", "method"])
    compared = on_ours.mean(numeric_only=True)
    cases = [name for name in cells.case_names() if name in set(table["case"])] or sorted(set(table["case"]))
    pages = [HEAD, jobs_table(compared, n_seeds, cases)]
    for kind, title in KINDS.items():
        part = table[table["hidden"] == kind]
        here = [case for case in cases if case in set(part["case"])]
        if kind == cells.GENES:
            pages.append(genes_page.section(part, compared, on_ours.size(), here))
        elif len(part):
            pages.append(f"## {title[0].upper()}{title[1:]}\n")
            if kind == "nonzero":
                pages.append(NONZERO_NOTE)
            pages.append(against_best_peer(compared, kind, here))
            body = [metric_table(part, mean, n_seeds, kind, metric, here) for metric in METRICS]
            if kind == "0.2":
                pages += ["![Every metric on every case](plots/accuracy.svg)\n", *body, CRPS_NOTE]
            else:
                pages += ["<details><summary>Every metric</summary>\n", *body, "</details>\n"]
    pages += ["## By what is hidden\n", "![Skill by what is hidden](plots/hidden.svg)\n"]
    pages += ["## Distribution\n", DISTRIBUTION_NOTE, distribution_table(mean)]
    pages += ["## Cost\n", COST_NOTE, "![Skill and cost](plots/cost.svg)\n", cost_table(mean)]
    pages += [scale_page.section(scales := scale_page.load()), versions(table), failures(table)]
    plots.write(mean.reset_index(), cases, METRICS, scales, readme.parent / "plots")
    write_texts({readme: "\n".join(page for page in pages if page)})


def on_our_seeds(good: pd.DataFrame) -> pd.DataFrame:
    """Rows of the seeds that stmcdi has on the same case, or all where it has none: other seeds are other holes."""
    key = ["hidden", "case", "seed"]
    ours = good.loc[good["method"] == methods.OURS, key]
    has_ours = good.set_index(key[:2]).index.isin(ours.set_index(key[:2]).index)
    same_seed = good.set_index(key).index.isin(ours.set_index(key).index)
    return good[same_seed | ~has_ours]


def jobs_table(mean: pd.DataFrame, n_seeds: pd.Series, cases: list[str]) -> str:
    """Skill (or correlation) of ours and of the best peer on every tissue, a column per job."""
    kinds = [kind for kind in SHOWN if kind in mean.index]
    rows, ratios = [], {kind: [] for kind in kinds}
    for case in cases:
        row = [case]
        for kind in kinds:
            if (kind, case) not in mean.index:
                row.append("")
                continue
            metric, all_of = SHOWN[kind], len(cells.seeds(kind))
            best, key = peer_best(mean, kind, case, metric), (kind, case, methods.OURS)
            own = mean.loc[key, metric] if key in mean.index else np.nan
            star = "*" if key in n_seeds.index and n_seeds[key] < all_of else ""
            peer = "–"
            if best:
                few = "*" if n_seeds[kind, case, best[0]] < all_of else ""
                peer = f"{figure(best[1])}{few} {best[0]}"
                ratios[kind].append(own / best[1] if best[1] > 0 else np.nan)
            row.append(f"{figure(own)}{star} / {peer}")
        rows.append(row)
    means = [np.nanmean(found) if not np.all(np.isnan(found)) else np.nan for found in ratios.values()]
    rows.append(["mean ratio", *(f"**{figure(value, 2)}**" for value in means)])
    table = markdown(["tissue", *(KINDS[kind] for kind in kinds)], rows)
    return f"## All jobs\n\n{JOBS_NOTE}\n{table}"


def distribution_table(mean: pd.DataFrame) -> str:
    """Methods by what they keep of the distribution, a fifth hidden."""
    if "0.2" not in mean.index:
        return ""
    over_cases = mean.loc["0.2"].groupby("method").mean()
    rows = []
    for name in in_order(set(over_cases.index)):
        rows.append([label(name), *(figure(over_cases.loc[name, key]) for key in DISTRIBUTION)])
        if not np.isnan(over_cases.loc[name, "draw_var_ratio"]):
            draw = [figure(over_cases.loc[name, f"draw_{key}"]) for key in DISTRIBUTION]
            rows.append([f"{label(name)}, draw", *draw])
    return markdown(["20 % hidden", *DISTRIBUTION.values()], rows)


def cost_table(mean: pd.DataFrame) -> str:
    """Methods by what they cost, a fifth hidden; those that do not do entries, by what their own jobs cost."""
    if "0.2" not in mean.index:
        return ""
    most, any_job = mean.loc["0.2"].groupby("method").max(), mean.groupby("method").max()
    most = pd.concat([most, any_job.loc[any_job.index.difference(most.index)]])
    columns = {"wall_s": "wall, s", "cpu_s": "CPU, s", "peak_mb": "peak, MB"}
    columns |= {"train_s": "train, s", "impute_s": "impute, s", "train_mb": "train, MB", "impute_mb": "impute, MB"}
    names = in_order(set(most.index))
    rows = [[label(name), *(figure(most.loc[name, column], 0) for column in columns)] for name in names]
    return markdown(["method", *columns.values()], rows)


def versions(table: pd.DataFrame) -> str:
    """Which version of each method the figures are of."""
    found = (
        table[(table["status"] == "ok")].groupby("method")["version"].agg(lambda all_of: ", ".join(sorted(set(all_of))))
    )
    rows = [[label(name), found[name]] for name in in_order(set(found.index))]
    return f"## Versions\n\n{markdown(['method', 'version'], rows)}"


def failures(table: pd.DataFrame) -> str:
    """What did not come to its end, and its last words."""
    bad = table[table["status"] != "ok"]
    if bad.empty:
        return ""
    groups = bad.groupby(["method", "status", "error"], sort=False)
    rows = [
        [label(name), status, f"`{error.replace('|', '/')}`", f"{len(part)} ({', '.join(sorted(set(part['case'])))})"]
        for (name, status, error), part in groups
    ]
    return f"## Failures\n\n{markdown(['method', 'what', 'last line', 'cells'], rows)}"
