"""SIGKILL at random moments, for every step (train and impute have their own files)."""

import json
from pathlib import Path

import anndata as ad
import pytest
from helpers import model_files, same
from kill import survives
from steps import LONG, STEPS, TRAINING, command


@pytest.mark.parametrize("step", [step for step in STEPS if step not in TRAINING])
def test_a_killed_step_loses_nothing_and_leaves_nothing(step, files, tmp_path):
    check(step, files, tmp_path, 50 if LONG else 4)


@pytest.mark.skipif(not LONG, reason="trains many times; STMCDI_LONG=1 runs it")
def test_a_killed_run_loses_nothing_and_leaves_nothing(files, tmp_path):
    check("run", files, tmp_path, 10)


def check(step, files, folder, kills):
    out = folder / "out"
    out.mkdir()
    found = survives(command(step, files, out), out, same_output, kills=kills)
    print(step, found)
    assert found["before"] + found["while writing"] > 0, found


def same_output(one: Path, other: Path) -> None:
    """Assert that two files hold the same."""
    if one.suffix == ".h5ad":
        same(ad.read_h5ad(one), ad.read_h5ad(other))
    elif one.suffix == ".json":
        assert json.loads(one.read_text()) == json.loads(other.read_text())
    elif one.is_dir():
        assert model_files(one) == model_files(other)
    else:
        assert one.read_text() == other.read_text()
