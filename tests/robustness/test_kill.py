"""SIGKILL at random moments, for every step (train and impute have their own files)."""

import json
from pathlib import Path

import anndata as ad
import pytest
from conftest import LONG
from helpers import same
from kill import survives

import stmcdi_cli as stmcdi

KILLS = 50 if LONG else 4


@pytest.fixture(scope="module")
def files(tmp_path_factory, imputed_run):
    """An input for every step, large enough that writing takes a moment."""
    folder = tmp_path_factory.mktemp("files")
    raw = stmcdi.simulate(n_spots=400, n_genes=300, n_sections=2, depth=600, rates=False, seed=2)
    normalized = stmcdi.normalize(raw)
    graph = stmcdi.build_graph(normalized, section_key="section")
    masked, truth = stmcdi.hold_out(graph, seed=0)
    made = {"raw": raw, "normalized": normalized, "graph": graph, "masked": masked, "truth": truth}
    for number in (1, 2):
        made[f"shard_{number}"] = stmcdi.impute(
            imputed_run.masked, imputed_run.model, shard=f"{number}/2", n_samples=2, device="cpu", quiet=True
        )
    paths = {name: folder / f"{name}.h5ad" for name in made}
    for name, adata in made.items():
        adata.write_h5ad(paths[name])
    raw.to_df().assign(x=raw.obsm["spatial"][:, 0], y=raw.obsm["spatial"][:, 1]).to_csv(folder / "raw.csv")
    (folder / "sheet.csv").write_text(f"sample,h5ad\nA,{paths['raw']}\n")
    return (
        paths
        | imputed_run.files
        | {"csv": folder / "raw.csv", "sheet": folder / "sheet.csv", "model": imputed_run.model}
    )


STEPS = {
    "simulate": "{out}/a.h5ad --n-spots 400 --n-genes 300",
    "check-samplesheet": "{sheet} {out}/a.csv",
    "join": "{raw} {raw} {out}/a.h5ad",
    "import": "{csv} {out}/a.h5ad",
    "normalize": "{raw} {out}/a.h5ad",
    "select-hvg": "{normalized} {out}/a.h5ad --n-genes 100",
    "build-graph": "{normalized} {out}/a.h5ad",
    "hold-out": "{graph} {out}/a.h5ad {out}/truth.h5ad",
    "baseline": "{masked} {out}/a.h5ad --method spatial-neighbors",
    "merge": "{shard_1} {shard_2} {out}/a.h5ad",
    "evaluate": "{imputed} {truth} {out}/a.json",
    "report": "{imputed} {out}/a.html --model-dir {model} --truth {truth}",
}


@pytest.mark.parametrize("step", STEPS)
def test_a_killed_step_loses_nothing_and_leaves_nothing(step, files, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    places = {**files, "out": out}
    arguments = [step, *(word.format(**places) for word in STEPS[step].split())]
    found = survives(arguments, out, same_output, kills=KILLS)
    print(step, found)
    assert found["before"] + found["while writing"] > 0, found


def same_output(one: Path, other: Path) -> None:
    """Assert that two files hold the same."""
    if one.suffix == ".h5ad":
        same(ad.read_h5ad(one), ad.read_h5ad(other))
    elif one.suffix == ".json":
        assert json.loads(one.read_text()) == json.loads(other.read_text())
    else:
        assert one.read_text() == other.read_text()
