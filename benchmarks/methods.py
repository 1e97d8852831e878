"""Every method: what runs it, and in which environment."""

import hashlib
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import stmcdi_cli
from benchmarks.cells import DEPTH, ENTRIES, GAPS, GENES, JOBS, ROOT, WORK, locked
from stmcdi_cli.cli import main as cli

HERE = ROOT / "benchmarks"
PEERS = HERE / "peers"
OURS = "stmcdi"


class Peer(NamedTuple):
    """A package, or a method of a few lines: its row in the report, run.py's folder under peers/, and its jobs."""

    label: str
    command: str
    jobs: tuple[str, ...] = (ENTRIES,)


PACKAGES = {
    "cmfrec": Peer("cmfrec CMF_imputer, k = 10", "cmfrec"),
    "mofa": Peer("MOFA (mofapy2), 10 factors", "mofa"),
    "fa-8": Peer("factor analysis, rank 8", "factor_analysis --rank 8"),
    "fa-8-smooth": Peer("factor analysis, rank 8, smoothed over space", "factor_analysis --rank 8 --smooth"),
    "fa-15": Peer("factor analysis, rank 15", "factor_analysis --rank 15"),
    "fa-15-smooth": Peer("factor analysis, rank 15, smoothed over space", "factor_analysis --rank 15 --smooth"),
    "iterative-svd": Peer("iterative SVD, rank 5", "iterative_svd"),
    "softimpute": Peer("fancyimpute SoftImpute", "fancyimpute"),
    "knn-imputer": Peer("scikit-learn KNNImputer, k = 30", "knn_imputer"),
    "magic": Peer("MAGIC, hidden as gene means", "magic --hidden means", (ENTRIES, DEPTH)),
    "magic-20": Peer("MAGIC, hidden as gene means, 20 components", "magic --hidden means --n-pca 20", (ENTRIES, DEPTH)),
    "magic-zeros": Peer("MAGIC, hidden as zeros", "magic --hidden zeros"),
    "idw-6": Peer("inverse-distance mean, k = 6", "scikit_learn idw 6", (GAPS,)),
    "idw-12": Peer("inverse-distance mean, k = 12", "scikit_learn idw 12", (GAPS,)),
    "idw-20": Peer("inverse-distance mean, k = 20", "scikit_learn idw 20", (GAPS,)),
    "idw-40": Peer("inverse-distance mean, k = 40", "scikit_learn idw 40", (GAPS,)),
    "pca-5": Peer("PCA, 5 components", "scikit_learn pca 5", (DEPTH,)),
    "pca-10": Peer("PCA, 10 components", "scikit_learn pca 10", (DEPTH,)),
    "pca-20": Peer("PCA, 20 components", "scikit_learn pca 20", (DEPTH,)),
    "nmf-15": Peer("NMF, rank 15", "scikit_learn nmf 15", (DEPTH,)),
    "sk-fa-8": Peer("scikit-learn FactorAnalysis, rank 8", "scikit_learn fa 8", (DEPTH,)),
    "knn-30": Peer("mean of the 30 nearest in 15 principal components", "scikit_learn knn 30", (DEPTH,)),
    "stark": Peer("STARK", "stark", (ENTRIES, DEPTH)),
    "scvi": Peer("scVI", "scvi", (ENTRIES, DEPTH)),
    "graphst": Peer("GraphST", "graphst", (ENTRIES, GAPS, DEPTH)),
    "stagate": Peer("STAGATE", "stagate", (ENTRIES, GAPS, DEPTH)),
    "nest": Peer("NEST, a fifth of its epochs", "nest", (ENTRIES, GAPS)),
    "alra": Peer("ALRA (halra)", "halra", (ENTRIES, DEPTH)),
    "spamean": Peer("SpaMean-Impute, threshold 0.5", "spamean"),
    "impeller": Peer("Impeller", "impeller"),
    "fistnd": Peer("FIST-nD", "fistnd"),
    "hyperimpute-softimpute": Peer("hyperimpute softimpute", "hyperimpute --plugin softimpute"),
    "hyperimpute-gain": Peer("hyperimpute GAIN", "hyperimpute --plugin gain"),
    "knn-50": Peer("50 nearest cells in 30 shared components", "from_reference knn", (GENES,)),
    "knn-50-smooth": Peer("50 nearest cells, smoothed over space", "from_reference knn --smooth", (GENES,)),
    "ridge": Peer("ridge regression", "from_reference ridge", (GENES,)),
    "ridge-smooth": Peer("ridge regression, smoothed over space", "from_reference ridge --smooth", (GENES,)),
    "pls-10": Peer("PLS, 10 components", "from_reference pls", (GENES,)),
    "pls-10-smooth": Peer("PLS, 10 components, smoothed over space", "from_reference pls --smooth", (GENES,)),
    "spage": Peer("SpaGE", "from_reference spage", (GENES,)),
    "tissue": Peer("TISSUE around SpaGE", "tissue", (GENES,)),
    "imputefish": Peer("ImputeFISH", "imputefish", (GENES,)),
    "transimp": Peer("TransImp (transpa)", "transpa", (GENES,)),
    "stplus": Peer("stPlus", "stplus", (GENES,)),
    "novosparc": Peer("novoSpaRc", "novosparc", (GENES,)),
    "tangram": Peer("Tangram, 300 of its 1,000 epochs", "tangram --epochs 300", (GENES,)),
    "gimvi": Peer("gimVI", "gimvi", (GENES,)),
}
"""Every peer, in the order of the report's rows."""


class Failed(Exception):
    """A method did not come to its end; the message is one line, `status` a word for the table."""

    def __init__(self, status: str, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass
class Limits:
    """What a process may take."""

    timeout: float
    threads: int


def baselines() -> list[str]:
    """Methods of `stmcdi baseline`."""
    command = cli.get_command(None, "baseline")
    if command is None:
        return []
    choices = next(option.type.choices for option in command.params if option.name == "method")
    return [f"baseline-{name}" for name in choices]


def names() -> list[str]:
    """Every method there is."""
    return [*PACKAGES, *baselines(), OURS]


def does(method: str, hidden: str) -> bool:
    """Whether a method is asked to do this kind of case."""
    return method not in PACKAGES or JOBS[hidden] in PACKAGES[method].jobs


def run(
    method: str, case: Path, imputed: Path, log: Path, limits: Limits, *, job: str = ENTRIES
) -> dict[str, float | str]:
    """Run a method on a case's folder in processes of its own; give its costs and version.

    The job tells which files of the folder it gets, and what of them is to be predicted.

    Raises
    ------
    Failed
        It could not be installed, ended with an error, or ran out of time.
    """
    model = imputed.with_suffix(".model")
    commands, version = _commands(method, case, imputed, model, log, job)
    if job == DEPTH and method not in PACKAGES:
        commands["impute"] += ["--target", "all"]
    costs = {step: measure(command, log, limits) for step, command in commands.items()}
    if method == OURS and job != GENES:  # single draws, for CRPS and distribution; their time does not count
        draws = [sys.executable, "-m", "benchmarks.draws", case / "graph.h5ad", model, imputed]
        measure([*draws, "all"] if job == DEPTH else draws, log, limits)
    row: dict[str, float | str] = {"version": version, "threads": limits.threads}
    row |= {key: sum(cost[key] for cost in costs.values()) for key in ("wall_s", "cpu_s")}
    row["peak_mb"] = max(cost["peak_mb"] for cost in costs.values())
    for step in costs if len(costs) > 1 else ():
        row |= {f"{step}_s": costs[step]["wall_s"], f"{step}_mb": costs[step]["peak_mb"]}
    return row


def _commands(
    method: str, case: Path, imputed: Path, model: Path, log: Path, job: str
) -> tuple[dict[str, list[str | Path]], str]:
    """Commands of a method by step, and its version."""
    if method in PACKAGES:
        folder, *options = PACKAGES[method].command.split()
        given = [case / name for name in (("panel.h5ad", "reference.h5ad") if job == GENES else ("masked.h5ad",))]
        command = [environment(PEERS / folder, log), PEERS / folder / "run.py", *given, imputed, *options]
        return {"impute": command}, package_version(PEERS / folder)
    stmcdi, graph = [sys.executable, "-m", "stmcdi_cli.cli"], case / "graph.h5ad"
    before: dict[str, list[str | Path]] = {}
    if job == GENES:
        graph = imputed.with_suffix(".graph.h5ad")
        before = _with_reference(stmcdi, case, graph)
    if method == OURS:
        train = [*stmcdi, "train", graph, model, "--device", "cpu", "--quiet"]
        impute = [*stmcdi, "impute", graph, model, imputed, "--device", "cpu", "--quiet"]
        return before | {"train": train, "impute": impute}, our_version()
    name = method.removeprefix("baseline-")
    return before | {"impute": [*stmcdi, "baseline", graph, imputed, "--method", name]}, our_version()


def _with_reference(stmcdi: list[str | Path], case: Path, graph: Path) -> dict[str, list[str | Path]]:
    """Commands that make of a panel and its reference what `train` takes."""
    both, normalized = graph.with_suffix(".both.h5ad"), graph.with_suffix(".normalized.h5ad")
    return {
        "add-reference": [*stmcdi, "add-reference", case / "panel.h5ad", case / "reference.h5ad", both],
        "normalize": [*stmcdi, "normalize", both, normalized],
        "build-graph": [*stmcdi, "build-graph", normalized, graph],
    }


def measure(command: list[str | Path], log: Path, limits: Limits) -> dict[str, float]:
    """Wall and CPU seconds and peak memory of a command.

    Raises
    ------
    Failed
        It ended with an error or ran out of time.
    """
    threads = dict.fromkeys(["OMP", "OPENBLAS", "MKL", "NUMBA"], str(limits.threads))
    variables = {f"{name}_NUM_THREADS": value for name, value in threads.items()}
    variables |= {"PYTHONPATH": f"{ROOT}:{PEERS}", "CUDA_VISIBLE_DEVICES": "", "PYTHONWARNINGS": "ignore"}
    launcher = [sys.executable, "-I", "-S", HERE / "measure.py", str(limits.timeout), log, *command]
    output = subprocess.run(launcher, capture_output=True, text=True, env={**os.environ, **variables}, cwd=ROOT)
    if output.returncode:
        raise Failed("failed", last_line(output.stderr))
    cost = json.loads(output.stdout)
    if cost["timed_out"]:
        raise Failed("timed out", f"no result after {limits.timeout:.0f} s")
    if cost["exit_code"] == -9:
        raise Failed("failed", "killed, as when memory runs out")
    if cost["exit_code"]:
        raise Failed("failed", last_line(log.read_text(errors="replace")))
    return cost


def last_line(text: str) -> str:
    """Last line that says something, short enough for a table."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " ".join(lines[-1].split())[:200] if lines else "no message"


def environment(folder: Path, log: Path) -> Path:
    """Python of a peer's own environment, made when first asked for; ours, where it needs nothing more.

    A requirements.txt that says ``# shares torch`` sees the packages of our environment behind its own, which spares
    3 GB.
    """
    requirements = folder / "requirements.txt"
    if not requirements.exists():
        return Path(sys.executable)
    place = WORK / "envs" / folder.name
    python, stamp = place / "bin" / "python", place / "installed"
    wanted = hashlib.sha256(requirements.read_bytes()).hexdigest()
    with locked(WORK / "envs" / f"{folder.name}.lock"):
        if stamp.exists() and stamp.read_text() == wanted:
            return python
        shutil.rmtree(place, ignore_errors=True)
        commands = [[sys.executable, "-m", "venv", place], [python, "-m", "pip", "install", "-q", "-r", requirements]]
        with open(log, "ab") as output:
            for command in commands:
                if subprocess.run(command, stdout=output, stderr=output).returncode:
                    raise Failed("install failed", last_line(_errors(log.read_text(errors="replace"))))
                if "# shares torch" in requirements.read_text():
                    (site_packages(place) / "shared.pth").write_text(f"{site_packages(Path(sys.prefix))}\n")
        stamp.write_text(wanted)
    return python


def _errors(text: str) -> str:
    """Pip's error lines, where there are any."""
    return "\n".join(line for line in text.splitlines() if line.lower().startswith("error")) or text


def site_packages(place: Path) -> Path:
    """Where an environment keeps its packages."""
    return place / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"


def package_version(folder: Path) -> str:
    """The peer's pinned version, the first line of its requirements."""
    requirements = folder / "requirements.txt"
    if not requirements.exists():
        return "numpy " + importlib.metadata.version("numpy")
    return requirements.read_text().split()[0].replace("==", " ")


def our_version() -> str:
    """Version and the last commit that touched the package; + where files in it are changed since."""
    git = ["git", "-C", str(ROOT)]
    commit = subprocess.run([*git, "log", "-1", "--format=%h", "--", "stmcdi_cli"], capture_output=True, text=True)
    changed = subprocess.run([*git, "status", "--porcelain", "--", "stmcdi_cli"], capture_output=True, text=True)
    return f"{stmcdi_cli.__version__} {commit.stdout.strip()}{'+' if changed.stdout.strip() else ''}"
