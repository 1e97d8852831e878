"""The paper's network trained to the end: figures of docs/paper.md, in paper.tsv a row for each model and sampler.

    python -m benchmarks.paper [--only mob_rep11 attention] [--device auto] [--page]

Cases are cut from ../shared as the benchmark's are, with fewer genes; a fifth of the entries is hidden. Rows that are
there are not computed again, so that a run that was stopped goes on. ``--page`` computes nothing: it prints the tables
of docs/paper.md and draws its learning curves.
"""

import argparse
import csv
import time

import anndata as ad
import yaml

import stmcdi_cli as stmcdi
from benchmarks.cells import ROOT, SHARED, WORK, _script
from benchmarks.markdown import markdown

TABLE, CURVES = ROOT / "benchmarks" / "paper.tsv", ROOT / "benchmarks" / "paper_curves.tsv"
CASES = {"mob_rep11": 200, "mouse_hippo_2k_sec5": 100}
"""Tissues, and their genes."""
AS_CSDI = {"training": {"lr": 1e-3, "lr_drops": [[0.75, 1e-4], [0.9, 1e-5]]}}
"""The rates with which CSDI trains this network."""
TRAINED: dict[str, dict] = {
    "paper": {},
    "as CSDI": AS_CSDI,
    "attention": {"preset": "attention"},
    "default": {"preset": "default"},
}
"""Models, as changes to the preset ``paper``."""
EPOCHS = {("mob_rep11", "as CSDI"): 1000, ("mouse_hippo_2k_sec5", "as CSDI"): 170}
BASELINES = ("gene-mean", "spatial-neighbors", "mlp", "vae", "gan")
SAMPLERS = {"dpm": (5, 10, 15, 25), "ddim": (10, 25), "ddpm": (10, 50), "langevin": (100,)}
"""Samplers and their network passes; dpm with 15 is the default."""
SCORES = ("skill", "rmse", "mae", "pcc", "cs", "coverage_90", "crps_gaussian")
COLUMNS = ("case", "method", "sampler", "passes", "device", "train_s", "impute_s", *SCORES)


def cut(case: str) -> tuple[ad.AnnData, ad.AnnData]:
    """A case with its graph, and its truth."""
    folder = WORK / "paper" / case
    if not (folder / "truth.h5ad").exists():
        folder.mkdir(parents=True, exist_ok=True)
        _script("make_case.py", SHARED / "data" / f"{case}.h5ad", folder, "--n-genes", str(CASES[case]))
    return stmcdi.build_graph(ad.read_h5ad(folder / "masked.h5ad")), ad.read_h5ad(folder / "truth.h5ad")


def rows() -> list[dict[str, str]]:
    """What has been measured."""
    if not TABLE.exists():
        return []
    with open(TABLE, newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def add(row: dict[str, object]) -> None:
    """Append a row to paper.tsv."""
    is_new = not TABLE.exists()
    with open(TABLE, "a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, delimiter="\t", lineterminator="\n")
        if is_new:
            writer.writeheader()
        writer.writerow({name: f"{v:.4g}" if isinstance(v, float) else v for name, v in row.items()})
    print(row, flush=True)


def scores(imputed: ad.AnnData, truth: ad.AnnData) -> dict[str, float]:
    """The figures on the hidden entries (eq. 25-28, skill, coverage of the 90 % intervals, CRPS)."""
    found = stmcdi.evaluate(imputed, truth)
    return {name: found[name] for name in SCORES}


def train_and_draw(case: str, method: str, device: str, done: set[tuple[str, ...]]) -> None:
    """Train a model, keep its learning curve, and draw with every sampler."""
    wanted = [(s, n) for s, passes in SAMPLERS.items() for n in passes if (case, method, s, str(n)) not in done]
    if not wanted:
        return
    adata, truth = cut(case)
    folder = WORK / "paper" / case / method.replace(" ", "_")
    settings = {"preset": "paper"} | TRAINED[method]
    if epochs := EPOCHS.get((case, method)):
        settings["training"] = settings["training"] | {"epochs": epochs}
    file = folder.with_suffix(".yaml")
    file.write_text(yaml.safe_dump(settings))
    start = time.perf_counter()
    model = stmcdi.train(adata, folder, preset=file, device=device)
    trained = time.perf_counter() - start
    for sampler, passes in wanted:
        start = time.perf_counter()
        imputed = stmcdi.impute(adata, model, device=device, sampler=sampler, n_steps=passes, n_samples=20)
        cost = {"device": model.config["device"], "train_s": trained, "impute_s": time.perf_counter() - start}
        row = {"case": case, "method": method, "sampler": sampler, "passes": passes}
        add(row | cost | scores(imputed, truth))
    if method == "default":  # has a network for each of its parts
        return
    with open(folder / "history.tsv", newline="") as file, open(CURVES, "a") as out:
        for row in csv.DictReader(file, delimiter="\t"):
            if loss := row["validation_loss"]:
                out.write(f"{case}\t{method}\t{row['epoch']}\t{loss}\n")


def compare(case: str, method: str) -> None:
    """Impute with a method to compare with."""
    adata, truth = cut(case)
    start = time.perf_counter()
    imputed = stmcdi.baseline(adata, method=method)
    cost = {"device": "cpu", "train_s": "", "impute_s": time.perf_counter() - start}
    add({"case": case, "method": method, "sampler": "", "passes": ""} | cost | scores(imputed, truth))


def page() -> None:
    """Print the tables of docs/paper.md, and draw the learning curves."""
    found = rows()
    for case in CASES:
        mine = [row for row in found if row["case"] == case and row["passes"] in ("", "15")]
        mine.sort(key=lambda row: -float(row["skill"]))
        table = [[row["method"], *(row[name] for name in (*SCORES, "train_s", "impute_s", "device"))] for row in mine]
        print(f"\n{case}, {CASES[case]} genes\n")
        print(markdown(["method", *SCORES, "training, s", "drawing, s", "device"], table))
    drawn = [row for row in found if row["passes"]]
    table = [[row[name] for name in ("case", "method", "sampler", "passes", *SCORES, "impute_s")] for row in drawn]
    print(markdown(["case", "model", "sampler", "passes", *SCORES, "drawing, s"], table))
    draw_curves()


def draw_curves() -> None:
    """Validation loss by update of each model; a row of pictures for each of the losses that are used."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import NullFormatter

    with open(CURVES) as file:
        lines = [line.rstrip("\n").split("\t") for line in file]
    losses = {"eq. 8": [m for m in dict.fromkeys(line[1] for line in lines) if m != "attention"], "v": ["attention"]}
    figure, axes = plt.subplots(len(losses), len(CASES), figsize=(9, 6), layout="constrained", squeeze=False)
    for column, case in zip(axes.T, CASES, strict=True):
        n_updates = -(-cut(case)[0].n_obs // 64)  # of an epoch
        for axis, (loss, methods) in zip(column, losses.items(), strict=True):
            for method in methods:
                curve = [(int(line[2]) * n_updates, float(line[3])) for line in lines if line[:2] == [case, method]]
                if curve:
                    axis.plot(*zip(*curve, strict=True), label=method, linewidth=1)
            axis.set(xlabel="updates", ylabel=f"validation loss ({loss})", xscale="log")
            axis.xaxis.set_minor_formatter(NullFormatter())
            axis.legend(frameon=False)
        column[0].set_title(f"{case}, {CASES[case]} genes")
    figure.savefig(ROOT / "benchmarks" / "plots" / "paper.svg", metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[], help="Tissues and methods to run.")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--page", action="store_true")
    options = parser.parse_args()
    if options.page:
        page()
        return
    for case in CASES:
        for method in (*TRAINED, *BASELINES):
            if any(name not in (case, method) for name in options.only):
                continue
            done = {tuple(row[name] for name in ("case", "method", "sampler", "passes")) for row in rows()}
            if method in TRAINED:
                train_and_draw(case, method, options.device, done)
            elif (case, method, "", "") not in done:
                compare(case, method)


if __name__ == "__main__":
    main()
