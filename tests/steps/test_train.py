import os
import signal
import subprocess
import sys

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
import yaml
from helpers import dense, same

import stmcdi_cli as stmcdi
from stmcdi_cli.model.latent.model import LatentModel

FILES = ["config.yaml", "history.tsv", "model.safetensors"]


@pytest.fixture(scope="module")
def counts() -> ad.AnnData:
    return stmcdi.simulate(n_spots=120, n_genes=60, depth=300, seed=3)


def prepared(counts, **options):
    return stmcdi.hold_out(stmcdi.build_graph(stmcdi.normalize(counts, **options)), seed=0)


@pytest.fixture
def masked(counts):
    return prepared(counts)[0]


def train(adata, path, **options):
    return stmcdi.train(adata, path, **{"epochs": 2, "device": "cpu", "quiet": True, **options})


def names(path):
    return sorted(p.name for p in path.iterdir())


def test_a_model_is_three_plain_files(masked, tmp_path):
    model = train(masked, tmp_path / "model", seed=7)
    assert names(tmp_path) == ["model"] and names(tmp_path / "model") == FILES
    for path in (tmp_path / "model").iterdir():
        content = path.read_bytes()
        # No pickle of any kind. The length of the weights' header may begin with 0x80, but no protocol follows it.
        pickles = (b"PK", *(bytes([0x80, protocol]) for protocol in range(2, 6)))
        assert not content.startswith(pickles) and b"torch._utils" not in content
    description = yaml.safe_load((tmp_path / "model" / "config.yaml").read_text())
    assert description["genes"] == list(masked.var_names)
    assert description["config"]["seed"] == 7 and description["config"]["training"]["epochs"] == 2
    assert description["config"]["preset"] == "default" and description["config"]["scale"] == "log1p"
    head, *rows = [line.split("\t") for line in (tmp_path / "model" / "history.tsv").read_text().splitlines()]
    assert {"epoch", "loss", "validation_loss"} <= set(head)
    assert [row[head.index("epoch")] for row in rows] == ["0", "1", "2"]
    assert model.genes == tuple(masked.var_names)


def test_the_input_is_not_changed(masked, tmp_path):
    before = masked.copy()
    train(masked, tmp_path / "model")
    same(masked, before)


def test_a_model_already_there_is_replaced(masked, tmp_path):
    train(masked, tmp_path / "model", seed=1)
    train(masked, tmp_path / "model", seed=2)
    assert names(tmp_path) == ["model"]
    assert yaml.safe_load((tmp_path / "model" / "config.yaml").read_text())["config"]["seed"] == 2


def test_a_failure_leaves_nothing_or_the_old_model(masked, tmp_path, monkeypatch):
    def fail(*arguments, **options):
        raise ZeroDivisionError

    for name in ("fit", "state"):  # while learning, while writing
        with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
            patch.setattr(LatentModel, name, fail)
            train(masked, tmp_path / "model")
        assert names(tmp_path) == []
    train(masked, tmp_path / "model")
    weights = (tmp_path / "model" / "model.safetensors").read_bytes()
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(LatentModel, "state", fail)
        train(masked, tmp_path / "model", seed=5)
    assert names(tmp_path) == ["model"] and (tmp_path / "model" / "model.safetensors").read_bytes() == weights


def test_a_wide_tissue_gives_the_same_model_on_any_number_of_cores(tmp_path):
    """With more than 1,000 genes products of matrices are large enough for OpenMP to share them out."""
    raw = stmcdi.simulate(n_spots=300, n_genes=1300, depth=3000, rates=False, seed=2)
    stmcdi.build_graph(stmcdi.normalize(raw)).write_h5ad(tmp_path / "wide.h5ad")
    for threads in ("1", "3"):
        arguments = ["train", tmp_path / "wide.h5ad", tmp_path / threads, "--epochs", "1", "--device", "cpu", "--quiet"]
        command = [sys.executable, "-m", "stmcdi_cli.cli", *map(str, arguments)]
        subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": threads})
    one, three = ((tmp_path / threads / "model.safetensors").read_bytes() for threads in ("1", "3"))
    assert one == three


def test_a_killed_training_leaves_no_folder(masked, h5ad, tmp_path):
    source = h5ad(masked)
    arguments = ["train", source, tmp_path / "model", "--preset", "paper", "--device", "cpu"]
    process = subprocess.Popen(
        [sys.executable, "-m", "stmcdi_cli.cli", *map(str, arguments)],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    for line in process.stderr:
        if "epoch 1," in line:  # 2,000 are asked for
            break
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert names(tmp_path) == ["input.h5ad"]


def test_progress_goes_to_stderr(masked, h5ad, cli, tmp_path):
    result = cli("train", h5ad(masked), tmp_path / "model", "--epochs", 2, "--device", "cpu")
    assert result.exit_code == 0 and result.stdout == ""
    assert "120 spots x 60 genes on cpu" in result.stderr and "epoch 2" in result.stderr


def test_the_papers_preset_trains_and_imputes(counts, tmp_path):
    tiny, truth = prepared(counts[:40, :12].copy())
    model = train(tiny, tmp_path / "model", preset="paper", epochs=1)
    assert model.variant == "attention" and names(tmp_path / "model") == FILES
    result = stmcdi.impute(tiny, tmp_path / "model", n_samples=2, n_steps=3, device="cpu", quiet=True)
    values, hidden = dense(result.layers["imputed"]), dense(tiny.layers["missing"])
    assert np.isfinite(values).all() and values.min() >= 0
    np.testing.assert_array_equal(values[~hidden], dense(tiny.X)[~hidden])
    assert result.uns["stmcdi"]["impute"]["parameters"]["preset"] == "paper"


def unlike_counts(counts):
    """What another tool may have left: smooth values above zero, on no scale of counts."""
    other = counts.copy()
    random = np.random.default_rng(0)
    rates = np.log2(1 + 1e4 * counts.layers["rates"] / counts.layers["rates"].sum(1, keepdims=True))
    other.X = sp.csr_matrix(rates + 0.3 * random.random(counts.shape), dtype=np.float32)
    return other


KINDS = {
    "log": ({}, "log1p"),
    "linear": ({"log": False}, "linear"),
    "raw": ({"skip": True}, "counts"),
    "other": ({"skip": True}, None),
}


@pytest.mark.parametrize("kind", KINDS)
def test_any_scale_trains_and_imputes(tmp_path, kind):
    options, scale = KINDS[kind]
    counts = stmcdi.simulate(n_spots=300, n_genes=60, depth=300, seed=3)  # of raw counts, fewer say little of the skill
    masked, truth = prepared(unlike_counts(counts) if kind == "other" else counts, **options)
    model = train(masked, tmp_path / "model")
    assert model.config["scale"] == scale
    for target in ("missing", "zeros", "all"):
        result = stmcdi.impute(masked, tmp_path / "model", target=target, n_samples=8, device="cpu", quiet=True)
        for name in ("imputed", "imputed_sd", "imputed_median", "imputed_q05", "imputed_q95"):
            values = dense(result.layers[name])
            assert np.isfinite(values).all() and values.min() >= 0, (target, name)
        assert stmcdi.evaluate(result, truth)["skill"] > 0.25


def test_a_panel_of_dense_values_trains_as_a_sparse_one(masked, tmp_path):
    other = masked.copy()
    other.X, other.layers["missing"] = dense(other.X), dense(other.layers["missing"])
    train(masked, tmp_path / "sparse")
    train(other, tmp_path / "dense")
    one, two = (tmp_path / name / "model.safetensors" for name in ("sparse", "dense"))
    assert one.read_bytes() == two.read_bytes()


REFUSED = {
    "no epochs": (["--epochs", 0], "expected `epochs` to be at least 1, found `0`"),
    "no batch": (["--batch-size", 0], "expected `batch_size` to be at least 1, found `0`"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_options_out_of_range_are_refused(masked, h5ad, refused, tmp_path, kind):
    options, message = REFUSED[kind]
    assert refused("train", h5ad(masked), tmp_path / "model", *options) == f"stmcdi train: {message}"


def test_a_gpu_that_is_not_there_is_refused(masked, h5ad, refused, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    line = refused("train", h5ad(masked), tmp_path / "model", "--device", "cuda")
    assert "--device cuda: no GPU is visible" in line


def test_data_that_cannot_be_learnt_from_are_refused_in_one_line(masked, h5ad, refused, tmp_path):
    bare = masked.copy()
    del bare.obsp["spatial_connectivities"]
    assert "run `stmcdi build-graph` first" in refused("train", h5ad(bare, "bare.h5ad"), tmp_path / "model")
    broken = masked.copy()
    broken.X = np.where(dense(broken.X) > 2, np.nan, dense(broken.X))
    assert "NaN or infinite" in refused("train", h5ad(broken, "nan.h5ad"), tmp_path / "model")
    broken.X = dense(masked.X) - 1
    assert "negative" in refused("train", h5ad(broken, "negative.h5ad"), tmp_path / "model")


@pytest.mark.parametrize("preset", ["default", "paper"])
def test_epochs_and_batch_size_are_those_asked_for(counts, tmp_path, preset):
    tiny, _ = prepared(counts[:20, :8].copy())
    train(tiny, tmp_path / "model", preset=preset, epochs=3, batch_size=7)
    history = (tmp_path / "model" / "history.tsv").read_text().splitlines()
    assert history[-1].split("\t")[0] == "3"
    config = yaml.safe_load((tmp_path / "model" / "config.yaml").read_text())["config"]
    assert config["training"]["batch_size"] == 7


def test_the_part_of_the_networks_that_is_kept_is_said(counts, tmp_path, caplog):
    caplog.set_level("INFO")
    tiny, _ = prepared(counts[:30, :8].copy())
    stmcdi.train(tiny, tmp_path / "model", epochs=2, device="cpu")
    names, *rows = [line.split("\t") for line in (tmp_path / "model" / "history.tsv").read_text().splitlines()]
    last = dict(zip(names, rows[-1], strict=True))
    linear, log = float(last["kept_linear"]), float(last["kept_log"])
    assert 0 <= min(linear, log) <= max(linear, log) <= 1
    assert f"the part that is kept: {linear:.2f} (linear link), {log:.2f} (log link)" in caplog.text
