import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace

import anndata as ad
import pytest
from click.testing import CliRunner
from helpers import make_raw

import stmcdi_cli as stmcdi
from stmcdi_cli.cli import main

FIRST = ("test_podman.py", "test_slurm.py", "test_reuse.py", "test_parameters.py", "test_kill_train_impute.py")
"""What takes longest begins first where files are shared out over processes, or one would end long after the others."""

SHARED = Path(os.environ.get("STMCDI_SHARED", Path(__file__).parents[1] / "../shared")).resolve()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: FIRST.index(item.path.name) if item.path.name in FIRST else len(FIRST))


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Undo what scanpy's neighbours did in a test before: they leave torch a thread for each core.

    Its small operations then take many times as long, most of it waiting for each other.
    """
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with real tissues and, beside it, the benchmark's scripts."""
    if not (SHARED / "data").is_dir():
        pytest.skip(f"REAL DATA NOT TESTED: no folder {SHARED / 'data'}; set STMCDI_SHARED")
    return SHARED / "data"


@pytest.fixture(scope="session")
def benchmark_scripts(shared_data: Path) -> Path:
    return shared_data.parent / "benchmark"


@pytest.fixture
def raw() -> ad.AnnData:
    return make_raw()


@pytest.fixture(scope="session")
def tissue() -> ad.AnnData:
    """A small simulated tissue of two sections; not to be changed."""
    return stmcdi.simulate(n_spots=200, n_genes=150, n_sections=2, depth=400, seed=1)


@pytest.fixture
def h5ad(tmp_path):
    """Write an AnnData (or a changed copy of raw counts) to a file."""

    def write(adata: ad.AnnData, name: str = "input.h5ad") -> Path:
        adata.write_h5ad(tmp_path / name)
        return tmp_path / name

    return write


@pytest.fixture
def cli():
    """Run the command line; the result has exit_code, stdout and stderr."""

    def run(*arguments: object):
        result = CliRunner().invoke(main, [str(argument) for argument in arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


@pytest.fixture
def refused(cli, tmp_path):
    """Run a command that must end in one line on stderr, exit code 2 and no new file; gives the line."""

    def run(*arguments: object) -> str:
        before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
        result = cli(*arguments)
        assert result.exit_code == 2, (result.exit_code, result.output)
        assert result.stdout == ""
        assert result.stderr.endswith("\n") and result.stderr.count("\n") == 1, result.stderr
        assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
        return result.stderr.strip()

    return run


@contextmanager
def few_masks() -> Iterator[None]:
    """Within, mask spots twice, not up to 32 times, in training the default: enough where it need not be good."""
    from stmcdi_cli.model.latent.masking import Masking

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Masking, "rounds", lambda self, n_spots: 2)
        yield


@pytest.fixture(scope="module", autouse=True)
def few_masks_by_default(request) -> Iterator[None]:
    """Mask few times, but in modules that say ``ALL_MASKS = True``: they ask how good a model is, or how often."""
    with nullcontext() if getattr(request.module, "ALL_MASKS", False) else few_masks():
        yield


@pytest.fixture(scope="session")
def imputed_run(tmp_path_factory):
    """A simulated tissue of two sections with a fifth hidden, imputed; its model, its truth, a baseline."""
    folder = tmp_path_factory.mktemp("run")
    tissue = stmcdi.simulate(n_spots=300, n_genes=120, n_sections=2, depth=900, seed=4)
    masked, truth = stmcdi.hold_out(stmcdi.build_graph(stmcdi.normalize(tissue), section_key="section"), seed=0)
    with few_masks():
        model = stmcdi.train(masked, folder / "model", epochs=3, device="cpu", quiet=True)
    imputed = stmcdi.impute(masked, model, n_samples=20, device="cpu", quiet=True)
    baseline = stmcdi.baseline(masked, method="spatial-neighbors")
    files = {}
    for name, adata in {"masked": masked, "truth": truth, "imputed": imputed, "baseline": baseline}.items():
        files[name] = folder / f"{name}.h5ad"
        adata.write_h5ad(files[name])
    return SimpleNamespace(
        masked=masked, truth=truth, model=folder / "model", imputed=imputed, baseline=baseline, files=files
    )


@pytest.fixture(scope="session")
def prostate(shared_data, tmp_path_factory):
    """A normal and a cancer section, 300 genes, a fifth of the values hidden, imputed."""
    folder = tmp_path_factory.mktemp("prostate")
    raw = ad.read_h5ad(shared_data / "visium_prostate_normal_cancer_1255genes.h5ad")
    chosen = stmcdi.select_hvg(stmcdi.normalize(raw), n_genes=300)
    masked, truth = stmcdi.hold_out(stmcdi.build_graph(chosen, section_key="section"), seed=0)
    model = stmcdi.train(masked, folder / "model", epochs=2, device="cpu", quiet=True)
    imputed = stmcdi.impute(masked, model, n_samples=20, device="cpu", quiet=True)
    return SimpleNamespace(truth=truth, model=folder / "model", imputed=imputed)
