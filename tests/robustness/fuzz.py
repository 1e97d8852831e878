"""Run steps on mutants: each ends in success or in one line with exit code 2, no hang and no half a file."""

import os
import random
import shutil
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import child
import mutants
import platforms

import stmcdi_cli as stmcdi

SECONDS = 60
"""How long a mutant may take, of a processor's time: the machine may be busy with other things."""
HANGS = 300
"""Seconds after which a mutant that takes no processor's time hangs."""
MEMORY = 3 * 2**30
"""Bytes that a mutant may make a step hold; the files it comes from have kilobytes."""


def make_seeds(folder: Path) -> None:
    """Write the valid files that mutants are made from; small, so that each change hits something."""
    raw = stmcdi.simulate(n_spots=40, n_genes=25, n_sections=2, depth=200, seed=3)
    raw.obs["note"] = "x"
    raw.obs["flag"] = raw.obs["section"] == "1"
    graph = stmcdi.build_graph(stmcdi.normalize(raw), section_key="section")
    masked, truth = stmcdi.hold_out(graph, seed=0)
    model = stmcdi.train(masked, folder / "model", epochs=1, device="cpu", quiet=True)
    options = {"n_samples": 2, "device": "cpu", "quiet": True}
    files = {"raw": raw, "panel": raw[:, :22].copy(), "graph": graph, "masked": masked, "truth": truth}
    files["imputed"] = stmcdi.impute(masked, model, **options)
    for number in (1, 2):
        files[f"shard_{number}"] = stmcdi.impute(masked, model, shard=f"{number}/2", **options)
    for name, adata in files.items():
        adata.write_h5ad(folder / f"{name}.h5ad", compression=random.Random(name).choice((None, "gzip")))
    table = raw.to_df().astype(int).assign(x=raw.obsm["spatial"][:, 0], y=raw.obsm["spatial"][:, 1])
    table.to_csv(folder / "counts.csv")
    (folder / "genes.txt").write_text("\n".join(raw.var_names[:5]))
    (folder / "options.yaml").write_text("seed: 1\nselect-hvg:\n  n-genes: 5\n  min-spots: 0.05\n")
    (folder / "samples.csv").write_text(
        "sample,h5ad,section_key,group\nA,raw.h5ad,section,\nB,raw.h5ad,section,g\nC,raw.h5ad,section,g\n"
    )


H5AD = (mutants.mutate_hdf5, mutants.mutate_hdf5, mutants.mutate_hdf5, mutants.mutate_bytes)
TABLE = (mutants.mutate_sheet,)
YAML = (mutants.mutate_bytes, mutants.mutate_yaml)
WAYS = (  # how often, what is changed, how, and the command it goes to
    (4, "raw.h5ad", H5AD, "normalize {in}/raw.h5ad {out}/a.h5ad"),
    (1, "raw.h5ad", H5AD, "import {in}/raw.h5ad {out}/a.h5ad"),
    (1, "raw.h5ad", H5AD, "add-reference {in}/panel.h5ad {in}/raw.h5ad {out}/a.h5ad"),
    (1, "panel.h5ad", H5AD, "add-reference {in}/panel.h5ad {in}/raw.h5ad {out}/a.h5ad --n-genes all"),
    (1, "raw.h5ad", H5AD, "join {in}/raw.h5ad {in}/graph.h5ad {out}/a.h5ad --section-key section"),
    (3, "graph.h5ad", H5AD, "select-hvg {in}/graph.h5ad {out}/a.h5ad --min-spots 0.01"),
    (1, "graph.h5ad", H5AD, "select-hvg {in}/graph.h5ad {out}/a.h5ad --method seurat_v3 --no-subset"),
    (2, "graph.h5ad", H5AD, "build-graph {in}/graph.h5ad {out}/a.h5ad --section-key section"),
    (1, "graph.h5ad", H5AD, "build-graph {in}/graph.h5ad {out}/a.h5ad --method grid"),
    (2, "graph.h5ad", H5AD, "hold-out {in}/graph.h5ad {out}/a.h5ad {out}/b.h5ad"),
    (2, "masked.h5ad", H5AD, "baseline {in}/masked.h5ad {out}/a.h5ad --method spatial-neighbors"),
    (1, "masked.h5ad", H5AD, "baseline {in}/masked.h5ad {out}/a.h5ad --method factor-analysis --target all"),
    (2, "masked.h5ad", H5AD, "train {in}/masked.h5ad {out}/model --epochs 1 --device cpu"),
    (3, "masked.h5ad", H5AD, "impute {in}/masked.h5ad {in}/model {out}/a.h5ad --n-samples 2 --device cpu"),
    (2, "shard_2.h5ad", H5AD, "merge {in}/shard_1.h5ad {in}/shard_2.h5ad {out}/a.h5ad"),
    (2, "imputed.h5ad", H5AD, "evaluate {in}/imputed.h5ad {in}/truth.h5ad {out}/a.json"),
    (2, "truth.h5ad", H5AD, "evaluate {in}/imputed.h5ad {in}/truth.h5ad {out}/a.json"),
    (2, "imputed.h5ad", H5AD, "report {in}/imputed.h5ad {out}/a.html --model-dir {in}/model --truth {in}/truth.h5ad"),
    (1, "truth.h5ad", H5AD, "report {in}/imputed.h5ad {out}/a.html --truth {in}/truth.h5ad"),
    (4, "model", (mutants.mutate_model,), "impute {in}/masked.h5ad {in}/model {out}/a.h5ad --n-samples 2 --device cpu"),
    (1, "model", (mutants.mutate_model,), "report {in}/imputed.h5ad {out}/a.html --model-dir {in}/model"),
    (1, "model", (mutants.mutate_model,), "select-hvg {in}/graph.h5ad {out}/a.h5ad --genes {in}/model"),
    (4, "samples.csv", TABLE, "check-samplesheet {in}/samples.csv {out}/a.csv"),
    (2, "counts.csv", TABLE, "import {in}/counts.csv {out}/a.h5ad"),
    (1, "genes.txt", (mutants.mutate_bytes,), "select-hvg {in}/graph.h5ad {out}/a.h5ad --genes {in}/genes.txt"),
    (1, "options.yaml", YAML, "select-hvg {in}/graph.h5ad {out}/a.h5ad --config {in}/options.yaml"),
)  # fmt: skip


FOLDER = (mutants.mutate_folder,)
READERS = (  # the same for what `import` reads
    (2, "xenium", FOLDER, "import {in}/xenium {out}/a.h5ad"),
    (1, "xenium_zarr", FOLDER, "import {in}/xenium_zarr {out}/a.h5ad"),
    (1, "segmented", FOLDER, "import {in}/segmented {out}/a.h5ad"),
    (2, "merscope", FOLDER, "import {in}/merscope {out}/a.h5ad"),
    (2, "cosmx", FOLDER, "import {in}/cosmx {out}/a.h5ad"),
    (2, "chip.gem", TABLE, "import {in}/chip.gem {out}/a.h5ad --bin 4"),
    (3, "a.loom", H5AD, "import {in}/a.loom {out}/a.h5ad"),
    (2, "visium", FOLDER, "import {in}/visium {out}/a.h5ad"),
    (2, "mex", FOLDER, "import {in}/mex {out}/a.h5ad"),
    (2, "table", FOLDER, "import {in}/table/counts.csv {out}/a.h5ad --coordinates {in}/table/xy.csv"),
    (1, "slides.txt", TABLE, "import {in}/slides.txt {out}/a.h5ad"),
    (1, "a.zarr.zip", (mutants.mutate_bytes,), "import {in}/a.zarr.zip {out}/a.h5ad"),
)


def make_platforms(folder: Path) -> None:
    """Write what instruments write, small and not compressed where a reader takes it so, as seeds of `READERS`."""
    import gzip

    platforms.write_xenium(folder / "xenium", cells="csv")
    platforms.write_xenium(folder / "xenium_zarr", "zarr")
    platforms.write_segmented(folder / "segmented")
    platforms.write_merscope(folder / "merscope")
    platforms.write_cosmx(folder / "cosmx")
    (folder / "chip.gem").write_bytes(gzip.decompress(platforms.write_gem(folder / "gz").read_bytes()))
    (folder / "gz").unlink()
    platforms.write_loom(folder / "a.loom")
    platforms.write_space_ranger(folder / "visium", "tissue_positions_list.csv")
    platforms.write_space_ranger(folder / "mex")
    (folder / "mex" / "filtered_feature_bc_matrix.h5").unlink()
    platforms.write_mex(folder / "mex" / "filtered_feature_bc_matrix")
    table = platforms.table_of_counts()
    (folder / "table").mkdir()
    table.to_csv(folder / "table" / "counts.csv")
    table.iloc[:, :2].set_axis(["x", "y"], axis=1).to_csv(folder / "table" / "xy.csv")
    table.index = [f"A_{i % 8}x{i // 8}" for i in range(len(table))]
    table.assign(note="x", total_counts=1).to_csv(folder / "slides.txt", sep=";")
    adata = stmcdi.simulate(n_spots=20, n_genes=10, seed=0)
    adata.write_zarr(folder / "a.zarr")
    shutil.make_archive(str(folder / "a.zarr"), "zip", folder / "a.zarr")
    shutil.rmtree(folder / "a.zarr")


@dataclass
class Outcome:
    """What became of a mutant.

    Attributes
    ----------
    seed
        Its number.
    what
        How it was made and which step it went to.
    code
        Exit code.
    fault
        What is wrong with how the step ended; None: nothing.
    said
        What the step said.
    """

    seed: int
    what: str
    code: int | None
    fault: str | None
    said: str


def run(seed: int, seeds: Path, scratch: Path, ways: tuple = WAYS) -> Outcome:
    """Make a mutant and run a step on it."""
    choice = random.Random(seed)
    _, name, changes, command = choice.choices(ways, [weight for weight, *_ in ways])[0]
    folder = scratch / str(seed)
    shutil.copytree(seeds, folder / "in")
    (folder / "out").mkdir()
    what = f"{command.split()[0]}, {name}: {choice.choice(changes)(folder / 'in' / name, choice)}"
    places = {"in": str(folder / "in"), "out": str(folder / "out")}
    arguments = [word.format(**places) for word in command.split()]
    before = _listing(folder / "in")
    ended = child.run([*arguments, "--quiet"], folder / "said", HANGS, processor=SECONDS)
    fault = _fault(ended, folder) or ("changed its input" if _listing(folder / "in") != before else None)
    if fault is None:
        shutil.rmtree(folder)
    return Outcome(seed, what, ended.code, fault, ended.said)


def _fault(ended: child.Ended, folder: Path) -> str | None:
    left = sorted(path.name for path in (folder / "out").iterdir())
    if ended.code is None:
        return f"hung for {HANGS} s"
    if "Traceback" in ended.said:
        return "traceback"
    if ended.code not in (0, 2):
        return f"exit code {ended.code}"
    if ended.peak > MEMORY:
        return f"took {ended.peak / 2**30:.1f} GiB"
    if ended.code == 2 and (ended.said.count("\n") != 1 or not ended.said.startswith("stmcdi")):
        return "not one line"
    if ended.code == 2 and left:
        return f"left {left}"
    if ended.code == 0 and (not left or any(name.startswith(".") for name in left)):
        return f"no whole output: {left}"
    return None


def _listing(folder: Path) -> list[tuple[str, int, int]]:
    return sorted((str(path), path.lstat().st_size, path.lstat().st_mtime_ns) for path in folder.rglob("*"))


def run_all(numbers: range, seeds: Path, scratch: Path, ways: tuple = WAYS) -> list[Outcome]:
    """Run many mutants, on two processors at a time."""
    child.run(["--version"], scratch / "said")
    with ThreadPoolExecutor(min(2, os.cpu_count() or 1)) as pool:
        return list(pool.map(lambda seed: run(seed, seeds, scratch, ways), numbers))


def summary(outcomes: list[Outcome]) -> str:
    """Count how they ended; tell of each that ended otherwise than it should."""
    counts = Counter("fault" if one.fault else f"exit code {one.code}" for one in outcomes)
    lines = [f"{len(outcomes)} mutants: {dict(counts)}"]
    for one in outcomes:
        if one.fault:
            said = [line[:300] for line in one.said.splitlines()[-20:]]
            lines += [f"{one.seed}: {one.fault}: {one.what[:300]}", *said]
    return "\n".join(lines)


if __name__ == "__main__":
    import sys
    import tempfile

    first, last = int(sys.argv[1]), int(sys.argv[2])
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "seeds").mkdir()
        ways = READERS if sys.argv[3:] == ["readers"] else WAYS
        (make_platforms if ways is READERS else make_seeds)(Path(name) / "seeds")
        print(summary(run_all(range(first, last), Path(name) / "seeds", Path(name), ways)))
