"""A cell is one method on one case; this file says which there are, in which order, and cuts the cases."""

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import anndata as ad
import numpy as np
import scipy.sparse as sp

import stmcdi_cli as stmcdi
from stmcdi_cli.io.h5ad import write_h5ad

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / "benchmarks" / ".work"
SHARED = Path(os.environ.get("STMCDI_SHARED", ROOT / "../shared")).resolve()

HIDDEN = ("0.2", "0.1", "0.5", "nonzero")
"""What is hidden: a share of all entries, or a fifth of those above zero."""
SPOTS = "spots"
"""A fifth of the spots, with all their entries; the ablation has it too."""
FIFTH = 0.2
SEEDS = (0, 1, 2)
NOT_BY_DEFAULT = ("slideseq_cerebellum",)


@dataclass(frozen=True)
class Cell:
    """One row of results.tsv, by what it is known by."""

    case: str
    hidden: str
    seed: int
    method: str

    def __str__(self) -> str:
        return f"{self.case} hidden={self.hidden} seed={self.seed} {self.method}"


def case_names() -> list[str]:
    """Every tissue there is, smallest file first, so that a first run shows something soon."""
    files = sorted((SHARED / "data").glob("*.h5ad"), key=lambda file: file.stat().st_size)
    return [file.stem for file in files]


def all_cells(cases: list[str], hidden: list[str], seeds: list[int], methods: list[str]) -> Iterator[Cell]:
    """Yield the cells, a fifth hidden by seed 0 first."""
    for kind in hidden:
        for seed in seeds:
            for case in cases:
                for method in methods:
                    yield Cell(case, kind, seed, method)


def cut(case: str, hidden: str, seed: int) -> Path:
    """Make a case's masked.h5ad, truth.h5ad and, for stmcdi, graph.h5ad once; give their folder."""
    folder = WORK / "cases" / case / f"{hidden}-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / "lock"):
        if not (folder / "graph.h5ad").exists():
            _cut(case, hidden, seed, folder)
    return folder


def _cut(case: str, hidden: str, seed: int, folder: Path) -> None:
    fraction = "0" if hidden in ("nonzero", SPOTS) else hidden
    script, source = SHARED / "benchmark" / "make_case.py", SHARED / "data" / f"{case}.h5ad"
    options = ["--fraction", fraction, "--seed", str(seed)]
    subprocess.run([sys.executable, script, source, folder, *options], check=True, stdout=subprocess.DEVNULL)
    masked = ad.read_h5ad(folder / "masked.h5ad")
    if hidden == "nonzero":
        masked, truth = stmcdi.hold_out(masked, fraction=FIFTH, seed=seed, of="nonzero")
    if hidden == SPOTS:
        masked, truth = hide_spots(masked, np.random.default_rng(seed).random(masked.n_obs) < FIFTH)
    if hidden in ("nonzero", SPOTS):
        write_h5ad(masked, folder / "masked.h5ad")
        write_h5ad(truth, folder / "truth.h5ad")
    graph = stmcdi.build_graph(masked, section_key="section" if "section" in masked.obs else None)
    write_h5ad(graph, folder / "graph.h5ad")


def hide_spots(adata: ad.AnnData, spots: np.ndarray) -> tuple[ad.AnnData, ad.AnnData]:
    """Hide all entries of some spots (bool) of a case in which nothing is hidden; gives masked and truth."""
    masked, truth = adata.copy(), adata.copy()
    seen = sp.diags((~spots).astype(np.float32))
    masked.X, masked.layers["counts"] = sp.csr_matrix(seen @ adata.X), sp.csr_matrix(seen @ adata.layers["counts"])
    for data in (masked, truth):
        data.layers["missing"] = sp.csr_matrix(np.repeat(spots[:, None], adata.n_vars, axis=1))
    del truth.layers["counts"]
    return masked, truth


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Let one job at a time go on, of this run or another."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
