"""Write README.md and its plots from results.tsv: every figure in it is a mean over seeds."""

from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks import cells, methods, plots, results, scale_page
from benchmarks.markdown import markdown
from stmcdi_cli.io.output import write_texts

README = cells.ROOT / "benchmarks" / "README.md"
NOT_PEERS = [methods.OURS, "baseline-gan", "baseline-vae", "baseline-mlp"]
"""Ours, and what appendix F puts on our own encoder."""
METRICS = {
    "skill": ("Skill", True),
    "rmse": ("RMSE", False),
    "pcc": ("PCC", True),
    "cs": ("CS", True),
    "mae": ("MAE", False),
    "gene_pcc": ("Per-gene PCC", True),
    "crps": ("CRPS", False),
    "coverage_90": ("90 % coverage", None),
}
"""Title of each metric, and whether more is better (None: neither)."""
KINDS = {
    "0.2": "20 % hidden",
    "gaps-regions": "round holes",
    "gaps-spots": "a fifth of the spots hidden",
    "depth": "half of the molecules",
    "0.1": "10 % hidden",
    "0.5": "50 % hidden",
    "nonzero": "a fifth of the non-zeros hidden",
}
SHOWN = 4
"""So many of these are in the table of all jobs."""
DISTRIBUTION = {"var_ratio": "variance ratio", "zero_error": "zero share error", "corr_error": "correlation error"}

HEAD = """# Accuracy benchmark

Written by `make benchmark` from [results.tsv](results.tsv); do not edit.

Every method gets the same file of a real tissue and is scored on what that file does not hold. Three jobs, each with
seeds 0, 1 and 2:

- **Entries** (`../shared/benchmark/make_case.py`): spots scaled to the median total and log1p-transformed, the 1,000
  most variable genes (or all there are) of those seen in 5 % of spots, then 10 %, 20 % or 50 % of all entries hidden at
  random, zeros included. In *a fifth of the non-zeros hidden* only entries above zero are hidden, and scored.
- **Gaps** (`../shared/benchmark/make_gaps.py`): the same, but whole spots are hidden: a fifth of them at random, or
  three *round holes* of 5 % of the spots in every section, as torn tissue leaves. Each seed draws other holes.
- **Depth** (`../shared/benchmark/split_counts.py`): every molecule goes to one of two halves by the toss of a coin. One
  half is normalised by `stmcdi normalize` and cut to the genes of `stmcdi select-hvg`, and all its values are to be
  denoised (`--target all`); scored on the other half, on the scale of the first.

Definitions are those of `../shared/benchmark/score.py` and `split_counts.py`, on the log1p scale; skill is 1 - MSE /
MSE of each gene's visible mean. A figure is the mean over the seeds; * marks fewer than three. **Bold** is the best of
its column.

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
stmcdi asks for is built beforehand, outside the time. Time and memory with up to 1,000,000 spots are [below](#scale).
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
memory of the whole run, start of Python and reading included, for the case with most of each: 20 % hidden, or gaps or
depth for methods that do not do entries.
"""


def write(table: pd.DataFrame, readme: Path = README) -> None:
    """Write the page and its plots."""
    if table.empty:
        raise SystemExit("benchmark: no results yet, so no report")
    table = results.numbers(table)
    good = table[table["status"] == "ok"]
    mean = good.groupby(["hidden", "case", "method"]).mean(numeric_only=True)
    n_seeds = good.groupby(["hidden", "case", "method"]).size()
    compared = on_our_seeds(good).groupby(["hidden", "case", "method"]).mean(numeric_only=True)
    cases = [name for name in cells.case_names() if name in set(table["case"])] or sorted(set(table["case"]))
    pages = [HEAD, jobs_table(compared, n_seeds, cases)]
    for kind, title in KINDS.items():
        part = table[table["hidden"] == kind]
        if len(part):
            pages.append(f"## {title[0].upper()}{title[1:]}\n")
            if kind == "nonzero":
                pages.append(NONZERO_NOTE)
            pages.append(against_best_peer(compared, kind, cases))
            body = [metric_table(part, mean, n_seeds, kind, metric, cases) for metric in METRICS]
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
    """Skill of ours and of the best peer on every tissue, a column per job."""
    kinds = [kind for kind in list(KINDS)[:SHOWN] if kind in mean.index]
    rows, ratios = [], {kind: [] for kind in kinds}
    for case in cases:
        row = [case]
        for kind in kinds:
            best, key = peer_best(mean, kind, case, "skill"), (kind, case, methods.OURS)
            own = mean.loc[key, "skill"] if key in mean.index else np.nan
            star = "*" if key in n_seeds.index and n_seeds[key] < len(cells.SEEDS) else ""
            peer = "–"
            if best:
                few = "*" if n_seeds[kind, case, best[0]] < len(cells.SEEDS) else ""
                peer = f"{figure(best[1])}{few} {best[0]}"
                ratios[kind].append(own / best[1] if best[1] > 0 else np.nan)
            row.append(f"{figure(own)}{star} / {peer}")
        rows.append(row)
    means = [np.nanmean(found) if not np.all(np.isnan(found)) else np.nan for found in ratios.values()]
    rows.append(["mean ratio", *(f"**{figure(value, 2)}**" for value in means)])
    table = markdown(["skill", *(KINDS[kind] for kind in kinds)], rows)
    return f"## All jobs\n\nSkill of stmcdi / of the best peer, and its name, on the same seeds.\n\n{table}"


def label(method: str) -> str:
    """Row name of a method."""
    if method == methods.OURS:
        return f"**{method}**"
    return methods.PACKAGES[method].label if method in methods.PACKAGES else method.replace("-", " ", 1)


def in_order(found: set[str]) -> list[str]:
    """Ours first, then the methods of `stmcdi baseline`, then the packages."""
    baselines = sorted(found - set(methods.PACKAGES) - {methods.OURS})
    return [name for name in [methods.OURS, *baselines, *methods.PACKAGES] if name in found]


def peer_best(mean: pd.DataFrame, kind: str, case: str, metric: str) -> tuple[str, float] | None:
    """Best peer on a case and its figure."""
    if (kind, case) not in mean.index:
        return None
    found = mean.loc[(kind, case), metric].dropna().drop(NOT_PEERS, errors="ignore")
    if found.empty:
        return None
    name = found.idxmax() if METRICS[metric][1] else found.idxmin()
    return name, found[name]


def against_best_peer(mean: pd.DataFrame, kind: str, cases: list[str]) -> str:
    """Ours and the best peer, side by side; the peer's name under skill."""
    metrics = ("skill", "rmse", "pcc", "cs", "mae", "crps")
    rows, ratios = [], []
    for case in cases:
        best = {metric: peer_best(mean, kind, case, metric) for metric in metrics}
        ours = mean.loc[(kind, case, methods.OURS)] if (kind, case, methods.OURS) in mean.index else None
        pairs = []
        for metric in metrics:
            own = np.nan if ours is None else ours[metric]
            if metric == "mae" and ours is not None:
                own = np.nanmin([ours["mae"], ours["mae_median"]])
            pairs.append(f"{figure(own)} / {figure(best[metric][1] if best[metric] else np.nan)}")
        ratio = ours["skill"] / best["skill"][1] if ours is not None and best["skill"] else np.nan
        ratios.append(ratio)
        peer = best["skill"][0] if best["skill"] else "–"
        coverage = figure(np.nan if ours is None else ours["coverage_90"])
        rows.append([case, peer, figure(ratio, 2), *pairs, coverage])
    if not np.all(np.isnan(ratios)):
        rows.append(["mean", "", f"**{figure(np.nanmean(ratios), 2)}**", *[""] * len(metrics), ""])
    titles = [f"{METRICS[metric][0]}" for metric in metrics]
    header = ["case", "best peer in skill", "skill ratio", *titles, "our 90 % coverage"]
    note = "Ours / best peer of each metric, on the same seeds (MAE: the better of our mean and median)."
    return f"{note}\n\n{markdown(header, rows)}"


def metric_table(
    part: pd.DataFrame, mean: pd.DataFrame, n_seeds: pd.Series, kind: str, metric: str, cases: list[str]
) -> str:
    """Methods by cases."""
    title, more_is_better = METRICS[metric]
    source = {name: (name, metric) for name in in_order(set(part["method"]))}
    rows: dict[str, list[float]] = {}
    if metric == "mae" and methods.OURS in source:
        source = {"median": (methods.OURS, "mae_median")} | source
    notes: dict[str, list[str]] = {}
    status = part[part["status"] != "ok"].groupby(["method", "case"])["status"].first()
    for row, (name, column) in source.items():
        keys = [(kind, case, name) for case in cases]
        rows[row] = [mean[column].get(key, np.nan) for key in keys]
        notes[row] = [
            ("*" if n_seeds[key] < len(cells.SEEDS) else "") if key in n_seeds.index else status.get((name, key[1]), "")
            for key in keys
        ]
    values = np.array(list(rows.values()))
    if np.all(np.isnan(values)):
        return ""
    body = []
    for row, line in rows.items():
        if np.all(np.isnan(line)) and (row == "median" or metric in ("crps", "coverage_90")):
            continue  # gives none
        shown = [label(methods.OURS) + " (median)" if row == "median" else label(row)]
        for column, value in enumerate(line):
            if np.isnan(value):
                shown.append("" if notes[row][column] == "*" else notes[row][column])
                continue
            text = figure(value) + notes[row][column]
            if more_is_better is not None:
                best = (np.nanmax if more_is_better else np.nanmin)(values[:, column])
                text = f"**{text}**" if figure(value) == figure(best) else text
            shown.append(text)
        body.append(shown)
    return f"### {title}\n\n{markdown([title, *cases], body)}"


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


def figure(value: float, digits: int = 3) -> str:
    """A number for a table."""
    return "–" if np.isnan(value) else f"{value:.{digits}f}"
