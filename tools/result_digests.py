"""Run every step on one tissue and print a digest of what each output holds.

Two commits give the same results where their lists are the same::

    python tools/result_digests.py raw.h5ad > after.txt
    PYTHONPATH=../other_checkout python tools/result_digests.py raw.h5ad > before.txt
    diff before.txt after.txt

Without a file the tissue is the simulated one of ``make demo``. HDF5 files differ byte by byte from run to run, so
their content is compared: names, types, attributes and values of every group and data set. What depends on the clock
(``seconds``) and the checksums of input files are left out.
"""

import hashlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from stmcdi_cli.baselines import METHODS

SIMULATE = ["--n-spots", 600, "--n-genes", 300, "--depth", 1000, "--seed", 1]
LEFT_OUT = ("seconds", "input_sha256")


def main() -> None:
    """Work in a temporary folder; print a line per output."""
    raw = [Path(name).resolve() for name in sys.argv[1:]]
    with tempfile.TemporaryDirectory() as folder:
        for path in steps(Path(folder), *raw):
            print(f"{digest(path)}  {path.relative_to(folder)}", flush=True)


def steps(folder: Path, raw: Path | None = None) -> Iterator[Path]:
    """Run the steps in their order and yield every output."""

    def run(step: str, *arguments: object, made: int = 1) -> list[Path]:
        """Arguments that start with @ are files in the folder; the last `made` of them are outputs."""
        words = [str(argument).removeprefix("@") for argument in arguments]
        subprocess.run([sys.executable, "-m", "stmcdi_cli.cli", step, *words], check=True, cwd=folder)
        return [folder / str(word)[1:] for word in arguments if str(word).startswith("@")][-made:]

    if raw is None:
        yield from run("simulate", *SIMULATE, "@raw.h5ad")
    else:
        (folder / "raw.h5ad").write_bytes(raw.read_bytes())
    yield from run("import", "@raw.h5ad", "@imported.h5ad")
    yield from run("join", "@raw.h5ad", "@raw.h5ad", "@joined.h5ad")
    yield from run("build-graph", "--section-key", "stmcdi_section", "@joined.h5ad", "@sections.h5ad")
    yield from run("hold-out", "--seed", 3, "@raw.h5ad", "@raw_masked.h5ad", "@raw_truth.h5ad", made=2)
    yield from run("normalize", "@raw.h5ad", "@normalized.h5ad")
    for method in ("cv", "seurat_v3", "cv2-trend"):
        yield from run("select-hvg", "--method", method, "--n-genes", 200, "@normalized.h5ad", f"@{method}.h5ad")
    for method, *options in (("radius", "--radius", 150), ("delaunay",), ("grid",), ("knn",)):
        yield from run("build-graph", "--method", method, *options, "@cv2-trend.h5ad", f"@{method}.h5ad")
    yield from run("hold-out", "@knn.h5ad", "@masked.h5ad", "@truth.h5ad", made=2)
    yield from run("train", "-q", "@masked.h5ad", "@model")
    yield from run("train", "-q", "--preset", "paper", "--epochs", 2, "@masked.h5ad", "@paper")
    yield from run("impute", "-q", "@masked.h5ad", "@model", "@imputed.h5ad")
    yield from run("impute", "-q", "--target", "all", "--n-samples", 10, "@masked.h5ad", "@model", "@all.h5ad")
    yield from run("impute", "-q", "--n-samples", 2, "@masked.h5ad", "@paper", "@imputed_paper.h5ad")
    for sampler in ("ddim", "ddpm", "langevin"):
        options = ["--sampler", sampler, "--n-samples", 5, "--target", "zeros", "--layers", "imputed,imputed_sd"]
        yield from run("impute", "-q", *options, "@masked.h5ad", "@model", f"@{sampler}.h5ad")
    for shard in (1, 2):
        yield from run("impute", "-q", "--shard", f"{shard}/2", "@masked.h5ad", "@model", f"@shard_{shard}.h5ad")
    yield from run("merge", "@shard_1.h5ad", "@shard_2.h5ad", "@merged.h5ad")
    for method in METHODS:
        yield from run("baseline", "--method", method, "@masked.h5ad", f"@{method}.h5ad")
    yield from run("evaluate", "@imputed.h5ad", "@truth.h5ad", "@metrics.json", "--tsv", "@genes.tsv", made=2)
    yield from run("run", "-q", "--n-genes", 100, "--target", "all", "@raw.h5ad", "@run.h5ad")


def digest(path: Path) -> str:
    """Digest of a file's content, or of the files in a folder."""
    found = hashlib.blake2b(digest_size=16)
    if path.is_dir():
        for file in sorted(path.iterdir()):
            found.update(
                file.name.encode() + re.sub(rb"\n  seconds: [0-9.]+|\nseconds: [0-9.]+", b"", file.read_bytes())
            )
    elif path.suffix == ".h5ad":
        with h5py.File(path) as file:
            for words in _content(file):
                found.update(words)
    else:
        found.update(path.read_bytes())
    return found.hexdigest()


def _content(file: h5py.File) -> Iterator[bytes]:
    names: list[str] = []
    file.visit(names.append)
    for name in sorted(names):
        thing = file[name]
        if name.rsplit("/", 1)[-1] in LEFT_OUT or thing.attrs.get("encoding-type") == "null":  # says: no such part
            continue
        yield name.encode()
        for key in sorted(thing.attrs):
            if key not in LEFT_OUT:
                yield f"{key}={thing.attrs[key]!r}".encode()
        if isinstance(thing, h5py.Dataset):
            value = thing[()]
            yield f"{thing.dtype} {thing.shape}".encode()
            yield value.tobytes() if isinstance(value, np.ndarray) and value.dtype != object else repr(value).encode()


if __name__ == "__main__":
    main()
