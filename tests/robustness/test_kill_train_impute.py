"""Kill `train` and `impute` at any moment: the same command goes on, ends as it would have, and leaves nothing else."""

import signal
import time

import pytest
from child import Child, run
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
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def same_model(one, other):
    assert content(one) == content(other)
    assert set(content(one)) == {"model.safetensors", "config.yaml", "history.tsv"}


TRAIN = {"default": ["--epochs", 20, "--batch-size", 10], "paper": ["--preset", "paper", "--epochs", 3]}


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
