"""A cell is one method on one case; this file says which there are, in which order, and cuts the cases."""

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import anndata as ad
import numpy as np
import scipy.sparse as sp

import stmcdi_cli as stmcdi
from stmcdi_cli.io.h5ad import write_h5ad

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / "benchmarks" / ".work"
SHARED = Path(os.environ.get("STMCDI_SHARED", ROOT / "../shared")).resolve()

ENTRIES, GAPS, DEPTH, GENES = "entries", "gaps", "depth", "genes"
JOBS = {
    "0.2": ENTRIES,
    "gaps-regions": GAPS,
    "gaps-spots": GAPS,
    "depth": DEPTH,
    "genes": GENES,
    "0.1": ENTRIES,
    "0.5": ENTRIES,
    "nonzero": ENTRIES,
}
"""Job of each kind of case, by what is hidden: a share of all entries, or a fifth of those above zero; round holes or
single spots, with all their entries; nothing, but half of the molecules, by which the others are to be predicted; or a
fifth of the genes, as if a panel had never measured them, to be predicted with the help of a reference."""
HIDDEN = tuple(JOBS)
FIFTH = 0.2
SEEDS = (0, 1, 2)
FOLDS = (0, 1, 2, 3, 4)
"""Of genes: which fifth of them is hidden takes the place of the seed."""
NOT_BY_DEFAULT = (
    "slideseq_cerebellum",
    *("breast_visium", "breast_xenium", "osmfish_cortex", "osmfish_reference_smartseq"),
)
"""Poor as a target, or of a pair in which genes are hidden alone."""


class Pair(NamedTuple):
    """What helps to predict genes of a tissue: another file, or the other sections of the tissue's own."""

    reference: str
    section: str | None = None
    window: int | None = None


PAIRS = {
    "breast_xenium": Pair("breast_visium", window=3000),
    "breast_visium": Pair("breast_xenium"),
    "osmfish_cortex": Pair("osmfish_reference_smartseq"),
    "breast_cancer_stahl_4layers": Pair("breast_cancer_stahl_4layers", section="L1"),
    "heart_dev_8sections": Pair("heart_dev_8sections", section="1_CN73_E1"),
    "visium_prostate_normal_cancer_1255genes": Pair("visium_prostate_normal_cancer_1255genes", section="NP"),
}
"""The tissues of which genes are hidden. `window` takes so many spots nearest to the middle."""


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


def title(case: str, hidden: str) -> str:
    """Name of a case in a table: with the reference, where there is one."""
    if JOBS.get(hidden) != GENES or case not in PAIRS:
        return case
    pair = PAIRS[case]
    return f"{case} <- {pair.reference}" if pair.section is None else f"{case}, {pair.section} <- other sections"


def seeds(hidden: str) -> tuple[int, ...]:
    """Seeds of a kind of case; for genes, the folds."""
    return FOLDS if JOBS.get(hidden) == GENES else SEEDS


def exists(cell: Cell) -> bool:
    """Whether there is such a case: genes need a reference."""
    return cell.seed in seeds(cell.hidden) and (JOBS[cell.hidden] != GENES or cell.case in PAIRS)


def by_default(cell: Cell) -> bool:
    """Whether a case is run without being asked for by name."""
    return JOBS[cell.hidden] == GENES or cell.case not in NOT_BY_DEFAULT


def all_cells(cases: list[str], hidden: list[str], seeds: list[int], methods: list[str]) -> Iterator[Cell]:
    """Yield the cells, a fifth hidden by seed 0 first."""
    for kind in hidden:
        for seed in seeds:
            for case in cases:
                for method in methods:
                    yield Cell(case, kind, seed, method)


def cut(case: str, hidden: str, seed: int) -> Path:
    """Make a case's files once; give their folder.

    They are masked.h5ad, truth.h5ad and, for stmcdi, graph.h5ad; of genes panel.h5ad, reference.h5ad and truth.h5ad.
    """
    folder = WORK / "cases" / case / f"{hidden}-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / "lock"):
        if JOBS.get(hidden) == GENES:
            if not (folder / "truth.h5ad").exists():  # the last to be written
                _cut_genes(PAIRS[case], SHARED / "data" / f"{case}.h5ad", seed, folder)
        elif not (folder / "graph.h5ad").exists():
            _cut(case, hidden, seed, folder)
    return folder


def _cut(case: str, hidden: str, seed: int, folder: Path) -> None:
    source, job = SHARED / "data" / f"{case}.h5ad", JOBS.get(hidden, ENTRIES)
    if job == DEPTH:
        _script("split_counts.py", source, folder, "--seed", str(seed))
        _prepare_halves(folder)
    elif job == GAPS:
        _script("make_gaps.py", source, folder, "--kind", hidden.removeprefix("gaps-"), "--seed", str(seed))
    else:
        fraction = "0" if hidden == "nonzero" else hidden
        _script("make_case.py", source, folder, "--fraction", fraction, "--seed", str(seed))
    masked = ad.read_h5ad(folder / "masked.h5ad")
    if hidden == "nonzero":
        masked, truth = stmcdi.hold_out(masked, fraction=FIFTH, seed=seed, of="nonzero")
        write_h5ad(masked, folder / "masked.h5ad")
        write_h5ad(truth, folder / "truth.h5ad")
    graph = stmcdi.build_graph(masked, section_key="section" if "section" in masked.obs else None)
    write_h5ad(graph, folder / "graph.h5ad")


def _cut_genes(pair: Pair, target: Path, fold: int, folder: Path) -> None:
    options = ["--fold", str(fold)]
    options += ["--section", pair.section] if pair.section is not None else []
    options += ["--window", str(pair.window)] if pair.window is not None else []
    _script("make_panel.py", target, SHARED / "data" / f"{pair.reference}.h5ad", folder, *options)


def _script(name: str, *arguments: str | Path) -> None:
    subprocess.run([sys.executable, SHARED / "benchmark" / name, *arguments], check=True, stdout=subprocess.DEVNULL)


def _prepare_halves(folder: Path) -> None:
    """Make masked.h5ad of one half of the molecules as a user would, and truth.h5ad of the other on the same scale.

    Spots without a molecule in that half are dropped. In the truth, all entries of a spot count as hidden, unless the
    other half has no molecule of it.
    """
    half, other = (ad.read_h5ad(folder / f"{name}.h5ad") for name in ("half", "other"))
    use = np.asarray(half.X.sum(1)).ravel() > 0
    half, other = half[use].copy(), other[use].copy()
    total, total_other = (np.asarray(part.X.sum(1), float).ravel() for part in (half, other))
    masked = stmcdi.select_hvg(stmcdi.normalize(half))
    masked.layers["missing"] = sp.csr_matrix(masked.shape, dtype=bool)
    scaled = sp.diags(np.median(total) / np.maximum(total_other, 1)) @ other[:, masked.var_names].X
    truth = ad.AnnData(sp.csr_matrix(scaled, dtype=np.float32).log1p(), obs=masked.obs, var=masked.var[[]])
    truth.layers["missing"] = sp.csr_matrix(np.repeat(total_other[:, None] > 0, truth.n_vars, axis=1))
    write_h5ad(masked, folder / "masked.h5ad")
    write_h5ad(truth, folder / "truth.h5ad")
    for name in ("half", "other"):
        (folder / f"{name}.h5ad").unlink()


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Let one job at a time go on, of this run or another."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
