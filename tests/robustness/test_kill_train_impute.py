"""Kill `train` and `impute` at any moment: the same command goes on, ends as it would have, and leaves nothing else."""

import re
import signal
import time

import anndata as ad
import pytest
from child import Child, run
from helpers import same
from kill import survives
from steps import LONG

import stmcdi_cli as stmcdi

KILLS = 50 if LONG else 4


@pytest.fixture(scope="module")
def masked(tmp_path_factory):
    counts = stmcdi.simulate(n_spots=60, n_genes=24, depth=300, seed=3)
    file = tmp_path_factory.mktemp("data") / "masked.h5ad"
    stmcdi.hold_out(stmcdi.build_graph(stmcdi.normalize(counts)), seed=0)[0].write_h5ad(file)
    return file


def content(folder):
    """All but how long it took."""
    return {path.name: re.sub(rb"\n *seconds: .*", b"", path.read_bytes()) for path in folder.iterdir()}


def same_model(one, other):
    assert content(one) == content(other)
    assert set(content(one)) == {"model.safetensors", "config.yaml", "history.tsv"}


TRAIN = {"default": ["--epochs", 20, "--batch-size", 40], "paper": ["--preset", "paper", "--epochs", 3]}


@pytest.mark.parametrize("preset", TRAIN)
def test_a_killed_training_goes_on(masked, tmp_path, preset):
    out = tmp_path / "out"
    out.mkdir()
    command = ["train", masked, out / "model", *TRAIN[preset], "--checkpoint-every", 0.05, "--device", "cpu"]
    found = survives(command, out, same_model, kills=KILLS, keep=lambda path: path.name == ".model.checkpoint")
    print(preset, found)
    assert found["before"] + found["while writing"] > 0, found


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_a_training_asked_to_stop_says_so_and_goes_on(masked, tmp_path, number):
    command = ["train", masked, tmp_path / "model", *TRAIN["default"], "--device", "cpu"]
    child = Child(command, tmp_path / "said")
    while "epoch 2," not in child.said.read_text():
        assert child.process.is_alive(), child.wait()
        time.sleep(0.01)
    assert child.stop(number).code == 128 + number
    checkpoint = tmp_path / ".model.checkpoint"
    told = f"stmcdi train: stopped by {signal.Signals(number).name}; the same command goes on from {checkpoint}"
    assert told in child.said.read_text()
    assert {path.name for path in tmp_path.iterdir()} == {"said", ".model.checkpoint"}
    ended = run(command, tmp_path / "said")
    assert ended.code == 0 and f"going on from {checkpoint}" in ended.said and "epoch 1," not in ended.said
    assert {path.name for path in tmp_path.iterdir()} == {"said", "model"}
    command[2] = tmp_path / "whole"
    assert run(command, tmp_path / "said").code == 0
    same_model(tmp_path / "model", tmp_path / "whole")


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A tissue of several parts, and a model of it."""
    folder = tmp_path_factory.mktemp("large")
    counts = stmcdi.simulate(n_spots=1500, n_genes=24, depth=300, seed=3)
    masked = stmcdi.hold_out(stmcdi.build_graph(stmcdi.normalize(counts)), seed=0)[0]
    masked.write_h5ad(folder / "masked.h5ad")
    stmcdi.train(masked, folder / "model", epochs=1, device="cpu", quiet=True)
    return folder


def test_a_killed_imputation_goes_on(large, tmp_path):
    def same_file(one, other):
        one, other = ad.read_h5ad(one), ad.read_h5ad(other)
        same(one, other)
        for each in (one, other):
            each.uns["stmcdi"]["impute"]["parameters"].pop("seconds")
        assert str(one.uns) == str(other.uns)

    out = tmp_path / "out"
    out.mkdir()
    command = ["impute", large / "masked.h5ad", large / "model", out / "a.h5ad", "--device", "cpu"]
    command += ["--n-samples", 20]
    found = survives(command, out, same_file, kills=KILLS, keep=lambda path: path.name == ".a.h5ad.parts")
    print(found)
    assert found["before"] + found["while writing"] > 0, found
