"""What each part of the default model is for: ``python -m benchmarks.ablation [--cases NAME ...] [--hidden KIND ...]``.

Takes one part away at a time and scores the rest on the same hidden entries, a fifth of all or those of whole spots,
then writes ablation.tsv and ablation.md beside it. Cases that have rows are skipped; `--again` runs them anew.
"""

import argparse
import csv
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from importlib import resources
from pathlib import Path

import anndata as ad
import numpy as np
import scipy.sparse as sp
import torch
import yaml

from benchmarks import cells
from benchmarks.draws import N_DRAWS, add_draws
from benchmarks.markdown import markdown
from benchmarks.scoring import SAMPLE, Z90, dense, joint, score
from stmcdi_cli.model.base import DrawOptions
from stmcdi_cli.model.device import single_threaded
from stmcdi_cli.model.draw_summary import interval
from stmcdi_cli.model.latent.model import LatentModel
from stmcdi_cli.model.tissue import Tissue

TABLE, PAGE = cells.ROOT / "benchmarks" / "ablation.tsv", cells.ROOT / "benchmarks" / "ablation.md"
CPU = torch.device("cpu")
FIGURES = {
    "skill": "skill",
    "pcc": "PCC",
    "crps": "CRPS",
    "coverage_90": "90 % coverage",
    "draw_var_ratio": "variance",
    "draw_zero_error": "zeros",
    "corr_error": "correlations",
    "set_crps": "CRPS of gene sets",
    "set_coverage": "90 % coverage of gene sets",
    "spot_crps": "CRPS of spots",
    "spot_coverage": "90 % coverage of spots",
}
KEYS = ("case", "hidden", "seed", "variant")
KINDS = {
    "0.2": "A fifth of the entries hidden",
    "gaps-spots": "A fifth of the spots hidden, with all their entries",
    "gaps-regions": "Round holes in the tissue",
}
VARIANTS = {
    "full": "**the default**",
    "no network": "without the trained networks",
    "fixed": "without diffusion: latents at their mean, counting noise alone",
    "gaussian": "without diffusion and counting noise: a Gaussian per gene around the mean",
    "linear": "linear link alone",
    "log": "log link alone",
    "no graph": "without the graph",
    "no counts": "without the counting model (nor log link)",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    usual = [name for name in cells.case_names() if name not in cells.NOT_BY_DEFAULT]
    parser.add_argument("--cases", nargs="+", choices=cells.case_names(), default=usual)
    parser.add_argument("--hidden", nargs="+", choices=list(KINDS), default=list(KINDS), help="what is hidden")
    parser.add_argument("--seed", type=int, default=0, help="of what is hidden (default: 0)")
    parser.add_argument("--again", action="store_true", help="run cases that have rows already")
    options = parser.parse_args()
    for hidden in options.hidden:
        for case in options.cases:
            cell = {"case": case, "hidden": hidden, "seed": str(options.seed)}

            def others(rows: list[dict[str, str]], cell: dict[str, str] = cell) -> list[dict[str, str]]:
                return [row for row in rows if not cell.items() <= row.items()]

            if not options.again and len(others(load())) < len(load()):
                continue
            with single_threaded():
                found = [cell | row for row in ablate(case, hidden, options.seed)]
            rows = others(load()) + found
            save(rows)
            PAGE.write_text(page(rows), "utf-8")


def ablate(case: str, hidden: str, seed: int) -> Iterator[dict[str, str]]:
    """Score every variant on one case."""
    folder = cells.cut(case, hidden, seed)
    true = ad.read_h5ad(folder / "truth.h5ad")
    truth, missing = dense(true.X).astype(float), dense(true.layers["missing"]).astype(bool)
    masked = ad.read_h5ad(folder / "graph.h5ad")
    tissue = Tissue.from_anndata(masked)
    alone = sp.csr_matrix(tissue.graph.shape, dtype=np.float32)
    model = fit(tissue)
    made = {
        "full": (model, tissue, None),
        "no network": (model, tissue, reset),
        "fixed": (model, tissue, fix),
        "gaussian": (model, tissue, None),
        "linear": (model, tissue, lambda model: weigh(model, 0.0)),
        "log": (model, tissue, lambda model: weigh(model, 1.0)),
        "no graph": (None, replace(tissue, graph=alone), None),
        "no counts": (None, replace(tissue, count_scale=None), None),
    }
    with tempfile.TemporaryDirectory() as scratch:
        for variant, (fitted, data, change) in made.items():
            fitted = copy_of(fitted) if fitted else fit(data)
            if change:
                change(fitted)
            imputed = impute(fitted, data, masked)
            if variant == "gaussian":
                make_gaussian(imputed, fitted, tissue)
            else:
                add_draws(fitted, data, imputed)
            file = Path(scratch) / "imputed.h5ad"
            imputed.write_h5ad(file)
            scores = score(file, folder / "truth.h5ad")
            draws = np.stack([dense(imputed.layers[f"{SAMPLE}{i:02d}"]) for i in range(N_DRAWS)])
            scores |= joint(draws, truth, missing)
            row = {"variant": variant} | {
                name: "" if scores.get(name) is None else f"{scores[name]:.5g}" for name in FIGURES
            }
            print(case, hidden, seed, *row.values(), flush=True)
            yield row


def fit(tissue: Tissue) -> LatentModel:
    """The default preset, as `train` would build and fit it."""
    config = yaml.safe_load((resources.files("stmcdi_cli") / "presets" / "default.yaml").read_text("utf-8"))
    model = LatentModel({**config, "scale": tissue.count_scale}, tissue.genes)
    model.fit(tissue, seed=0, device=CPU, report=lambda row: None)
    return model


def copy_of(model: LatentModel) -> LatentModel:
    """The same model, free to be changed."""
    other = LatentModel(model.config, model.genes)
    other.load_state({name: value.clone() for name, value in model.state().items()})
    return other


def impute(model: LatentModel, tissue: Tissue, masked: ad.AnnData) -> ad.AnnData:
    """What `stmcdi impute` writes by default."""
    model.prepare(tissue, device=CPU)
    draws = model.draw(np.arange(tissue.n_spots), DrawOptions(n_samples=50, seed=0, sampler="dpm"))
    hidden, shape = tissue.missing.toarray(), draws.mean.shape
    samples = draws.samples.reshape(len(draws.samples), -1)
    (low, high), median = interval(samples, draws.tail), np.median(draws.samples, axis=0)
    imputed = ad.AnnData(masked.X, obs=masked.obs[[]], var=masked.var[[]])
    layers = {"imputed": draws.mean, "imputed_sd": draws.samples.std(0), "imputed_median": median}
    layers |= {"imputed_q05": low.reshape(shape), "imputed_q95": high.reshape(shape)}
    for name, values in layers.items():
        imputed.layers[name] = sp.csr_matrix(np.where(hidden, values, tissue.x.toarray() if name == "imputed" else 0))
    return imputed


def reset(model: LatentModel) -> None:
    for branch in model.branches:
        branch.keep_part(0.0)


def weigh(model: LatentModel, share: float) -> None:
    model.weights = torch.tensor([1 - share, share])


def fix(model: LatentModel) -> None:
    """Take every latent at the encoder's mean."""
    for branch in model.branches:

        def draw_expected(spots, pairs, options, branch=branch):
            centre, _, _ = branch._condition(spots)
            expected = branch.encoder.decoder(branch._tissue.depth[spots])(centre)
            for pair in pairs:
                yield pair, expected, expected

        branch.draw_expected = draw_expected


def make_gaussian(imputed: ad.AnnData, model: LatentModel, tissue: Tissue) -> None:
    """Give each gene one standard deviation: that of its visible entries around what is expected of them; and draws."""
    encoders = [branch.encoder for branch in model.branches]
    for encoder in encoders:
        encoder.use_tissue(tissue)
    means = [encoder.decoder(tissue.depth)(encoder.encode(tissue).mean).numpy() for encoder in encoders]
    expected = np.average(means, axis=0, weights=model.weights.numpy())
    visible = ~tissue.missing.toarray()
    residual = np.where(visible, tissue.x.toarray() - expected, 0)
    sd = np.sqrt((residual**2).sum(0) / np.maximum(visible.sum(0), 1))
    del imputed.layers["imputed_median"]
    imputed.layers["imputed_sd"] = sp.csr_matrix(np.where(visible, 0, sd).astype(np.float32))
    mean, random = dense(imputed.layers["imputed"]), np.random.default_rng(0)
    for name, end in (("imputed_q05", mean - Z90 * sd), ("imputed_q95", mean + Z90 * sd)):
        imputed.layers[name] = sp.csr_matrix(np.where(visible, 0, end).astype(np.float32))
    for i in range(N_DRAWS):
        draw = np.maximum(mean + sd * random.standard_normal(mean.shape), 0)
        imputed.layers[f"{SAMPLE}{i:02d}"] = sp.csr_matrix(np.where(visible, 0, draw).astype(np.float32))


def load() -> list[dict[str, str]]:
    """Rows there are."""
    if not TABLE.exists():
        return []
    with open(TABLE, newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def save(rows: list[dict[str, str]]) -> None:
    """Write all rows."""
    with open(TABLE, "w", newline="") as file:
        writer = csv.DictWriter(file, [*KEYS, *FIGURES], delimiter="\t", lineterminator="\n")
        writer.writeheader()
        order = list(VARIANTS)
        writer.writerows(sorted(rows, key=lambda row: (*(row[key] for key in KEYS[:-1]), order.index(row["variant"]))))


def page(rows: list[dict[str, str]]) -> str:
    """Tables: for each kind the mean over the cases, then case by case."""
    lines = [
        "# What each part is for",
        "",
        "Made by `python -m benchmarks.ablation`: one part taken away at a time.",
        "",
        "- *variance*: of a draw's hidden entries over the true one's, median over genes; 1 is right",
        "- *zeros*: error in a gene's share of zeros in a draw, mean over genes",
        "- *correlations*: root mean square error of the gene-gene correlations of the completed matrix, averaged over "
        f"{N_DRAWS} draws",
        "- *gene sets*, *spots*: sums of a spot's hidden entries over sets of 50 genes, and over all genes; CRPS in "
        "standard deviations of the sums",
        "",
    ]
    for kind, title in KINDS.items():
        of_kind = [row for row in rows if row["hidden"] == kind]
        cases = list(dict.fromkeys(row["case"] for row in of_kind))
        if not cases:
            continue
        lines += [f"## {title}", ""]
        lines += table(f"Mean over the cases ({len(cases)})", of_kind)
        for case in cases:
            lines += table(case, [row for row in of_kind if row["case"] == case])
    return "\n".join(lines)


def table(title: str, rows: list[dict[str, str]]) -> list[str]:
    """One table: a row for each variant, means over what there is of it."""
    lines = []
    for variant, label in VARIANTS.items():
        chosen = [row for row in rows if row["variant"] == variant]
        figures = [[float(row[name]) for row in chosen if row[name]] for name in FIGURES]
        if chosen:
            lines.append([label, *(f"{np.mean(f):.4f}" if f else "" for f in figures)])
    return [f"### {title}", "", markdown(["", *FIGURES.values()], lines)]


if __name__ == "__main__":
    main()
