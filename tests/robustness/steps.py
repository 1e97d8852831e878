"""Every step as a command, with inputs for it; what the tests of this folder run."""

import os
from pathlib import Path

import stmcdi_cli as stmcdi

LONG = os.environ.get("STMCDI_LONG") == "1"
"""Whether to try ten times as much, for an hour."""

STEPS = {
    "simulate": "{out}/a.h5ad --n-spots 400 --n-genes 300",
    "check-samplesheet": "{sheet} {out}/a.csv",
    "add-reference": "{panel} {raw} {out}/a.h5ad",
    "join": "{raw} {raw} {out}/a.h5ad",
    "import": "{csv} {out}/a.h5ad",
    "normalize": "{raw} {out}/a.h5ad",
    "select-hvg": "{normalized} {out}/a.h5ad --n-genes 100",
    "build-graph": "{normalized} {out}/a.h5ad",
    "hold-out": "{graph} {out}/a.h5ad {out}/truth.h5ad",
    "baseline": "{masked} {out}/a.h5ad --method spatial-neighbors",
    "train": "{small_graph} {out}/model --epochs 1 --device cpu",
    "impute": "{imputed} {model} {out}/a.h5ad --n-samples 2 --device cpu",
    "merge": "{shard_1} {shard_2} {out}/a.h5ad",
    "evaluate": "{imputed} {truth} {out}/a.json",
    "report": "{imputed} {out}/a.html --model-dir {model} --truth {truth}",
    "run": "{small} {out}/a.h5ad --evaluate {out}/a.json --n-samples 2 --device cpu",
}
"""Arguments of each step."""
TRAINING = ("train", "impute", "run")


def command(step: str, files: dict[str, Path], out: Path) -> list[str]:
    """Give a step's command line, its outputs in `out`."""
    return [step, *(word.format(**files, out=out) for word in STEPS[step].split())]


def make_files(folder: Path, imputed_run) -> dict[str, Path]:
    """Write an input for every step, large enough that writing takes a moment."""
    raw = stmcdi.simulate(n_spots=400, n_genes=300, n_sections=2, depth=600, rates=False, seed=2)
    normalized = stmcdi.normalize(raw)
    graph = stmcdi.build_graph(normalized, section_key="section")
    masked, _ = stmcdi.hold_out(graph, seed=0)
    small = stmcdi.simulate(n_spots=40, n_genes=25, depth=200, seed=2)
    small_graph = stmcdi.build_graph(normalized[:100, :100].copy(), section_key="section")
    made = {
        "raw": raw,
        "normalized": normalized,
        "graph": graph,
        "masked": masked,
        "small": small,
        "small_graph": small_graph,
        "panel": raw[:, :100],
    }
    for number in (1, 2):
        made[f"shard_{number}"] = stmcdi.impute(
            imputed_run.masked, imputed_run.model, shard=f"{number}/2", n_samples=2, device="cpu", quiet=True
        )
    paths = {name: folder / f"{name}.h5ad" for name in made}
    for name, adata in made.items():
        adata.write_h5ad(paths[name])
    raw.to_df().assign(x=raw.obsm["spatial"][:, 0], y=raw.obsm["spatial"][:, 1]).to_csv(folder / "raw.csv")
    (folder / "sheet.csv").write_text(f"sample,h5ad\nA,{paths['raw']}\n")
    ours = {"csv": folder / "raw.csv", "sheet": folder / "sheet.csv", "model": imputed_run.model}
    return paths | ours | {name: imputed_run.files[name] for name in ("imputed", "truth")}
