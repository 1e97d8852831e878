"""Memory of every step is bounded by a chunk: a tissue too large for copies goes through within little memory.

benchmarks/README.md has the same at up to 1,000,000 spots; SPOTS can be raised here, too.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import anndata as ad
import pytest

from stmcdi_cli import anndata_keys as keys
from stmcdi_cli.io import h5ad, stream

ROOT = Path(__file__).parents[2]
LONG = os.environ.get("STMCDI_LONG") == "1"
SPOTS = int(os.environ.get("STMCDI_SCALE_SPOTS", 50_000))
GENES = 1000
MOST_MB = 400
"""For each data step, above what its imports take: a dense matrix of doubles of this tissue would be 400 MB alone."""
STEPS = {
    "simulate": f"raw.h5ad --n-spots {SPOTS} --n-genes {GENES} --depth 95 --no-rates",
    "normalize": "raw.h5ad normalized.h5ad",
    "select-hvg": "normalized.h5ad selected.h5ad --min-spots 1e-6",
    "build-graph": "selected.h5ad graph.h5ad",
    "hold-out": "graph.h5ad masked.h5ad truth.h5ad",
}


def cost(folder: Path, *command: object) -> dict[str, float]:
    """Run a step as a process of its own; gives its cost, of which peak_mb is the most memory it held."""
    return _cost(folder, "-m", "stmcdi_cli.cli", *command)


def _cost(folder: Path, *words: object) -> dict[str, float]:
    """Cost of Python with these arguments."""
    measure = [sys.executable, ROOT / "benchmarks" / "measure.py", "600", folder / "log", sys.executable]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    shown = subprocess.run(
        list(map(str, [*measure, *words])), cwd=folder, env=environment, check=True, capture_output=True, text=True
    )
    found = json.loads(shown.stdout)
    assert found["exit_code"] == 0, (folder / "log").read_text()
    return found


@pytest.fixture(scope="module")
def imports_mb(tmp_path_factory) -> float:
    """Memory a step holds before it reads anything. AnnData 0.11 imports torch, which is more than most steps use."""
    return _cost(tmp_path_factory.mktemp("imports"), "-c", "import anndata")["peak_mb"]


@pytest.fixture(scope="module")
def chain(tmp_path_factory) -> tuple[Path, dict[str, dict[str, float]]]:
    """Folder with the files of the data steps, and what each step cost."""
    folder = tmp_path_factory.mktemp("scale")
    return folder, {step: cost(folder, step, *command.split()) for step, command in STEPS.items()}


def test_data_steps_hold_a_chunk_not_the_tissue(chain, imports_mb):
    folder, costs = chain
    assert all(spent["peak_mb"] - imports_mb < MOST_MB for spent in costs.values()), costs
    with h5ad.open_h5ad(folder / "masked.h5ad") as masked:
        n_entries = masked.n_obs * masked.n_vars
        assert masked.n_obs == SPOTS and masked.n_vars > 0.95 * GENES
        assert masked.layers["missing"].group["data"].size / n_entries == pytest.approx(0.2, abs=0.01)
        assert 0.03 < masked.X.group["data"].size / n_entries < 0.05


def test_a_memory_limit_is_kept(chain, imports_mb):
    folder, costs = chain
    limit = round((imports_mb + 180) * 1e6 / 2**20)
    out = ("strict.h5ad", "answer.h5ad", "--memory-limit", f"{limit}M")
    spent = cost(folder, "hold-out", "graph.h5ad", *out)
    assert spent["peak_mb"] < limit * 2**20 / 1e6 < costs["hold-out"]["peak_mb"]
    for strict, usual in (("strict.h5ad", "masked.h5ad"), ("answer.h5ad", "truth.h5ad")):
        with h5ad.open_h5ad(folder / strict) as one, h5ad.open_h5ad(folder / usual) as other:
            hidden = [adata.layers["missing"].group["indices"][-10_000:].tolist() for adata in (one, other)]
            assert hidden[0] == hidden[1]


def test_scores_hold_a_chunk_not_the_tissue(chain, imports_mb):
    folder, _ = chain
    with h5ad.open_h5ad(folder / "masked.h5ad") as masked:
        header = h5ad.copy_without(masked, [keys.X])
        stand_in = h5ad.matrices(masked)
        blocks = ({keys.X: part, keys.IMPUTED: part} for part in _parts(stand_in[keys.X]))
        stream.write({folder / "imputed.h5ad": stream.Stream(header, blocks)})
    spent = cost(folder, "evaluate", "imputed.h5ad", "truth.h5ad", "metrics.json")
    assert spent["peak_mb"] - imports_mb < MOST_MB, spent
    scores = json.loads((folder / "metrics.json").read_text())
    assert scores["n_hidden"] == pytest.approx(0.2 * SPOTS * GENES, rel=0.05) and scores["pcc"] == 0


def _parts(matrix):
    from stmcdi_cli.sparse import read_rows, row_chunks

    return (read_rows(matrix, rows) for rows in row_chunks(matrix.shape))


@pytest.mark.real_data
@pytest.mark.skipif(not LONG, reason="trains on 10,000 spots; STMCDI_LONG=1 runs it")
def test_a_sparse_and_poor_real_tissue_goes_through_every_step(shared_data, tmp_path, imports_mb):
    """Slide-seq: 10,000 spots x 15,149 genes, 0.3 % of the entries above zero."""
    source = shared_data / "slideseq_cerebellum.h5ad"
    steps = [
        ("normalize", source, "normalized.h5ad"),
        ("select-hvg", "normalized.h5ad", "selected.h5ad", "--min-spots", "0.005", "--n-genes", "1000"),
        ("build-graph", "selected.h5ad", "graph.h5ad"),
        ("hold-out", "graph.h5ad", "masked.h5ad", "truth.h5ad"),
        ("train", "masked.h5ad", "model", "--device", "cpu", "--quiet"),
        ("impute", "masked.h5ad", "model", "imputed.h5ad", "--n-samples", "2", "--device", "cpu", "--quiet"),
        ("evaluate", "imputed.h5ad", "truth.h5ad", "metrics.json"),
    ]
    peaks = {step: cost(tmp_path, step, *arguments)["peak_mb"] for step, *arguments in steps}
    data_steps = ("normalize", "select-hvg", "build-graph", "hold-out", "evaluate")
    assert max(peaks[step] for step in data_steps) - imports_mb < MOST_MB
    imputed = ad.read_h5ad(tmp_path / "imputed.h5ad")
    assert imputed.obs_names.equals(ad.read_h5ad(source, backed="r").obs_names)
    assert json.loads((tmp_path / "metrics.json").read_text())["rmse"] > 0
