"""What a step must not do: reach for the network, or let others read a file that is not complete."""

import os
import stat
import time

import child
import pytest
from steps import STEPS, command


@pytest.mark.parametrize("step", STEPS)
def test_no_step_reaches_for_the_network(step, files, tmp_path):
    """Every socket of the internet ends the process; `test_the_network_is_closed` shows that it would be noticed."""
    (tmp_path / "out").mkdir()
    ended = child.run(command(step, files, tmp_path / "out"), tmp_path / "said", 120, offline=True)
    assert ended.code == 0, ended


def test_the_network_is_closed(tmp_path):
    for code in ("socket.create_connection(('127.0.0.1', 9))", "socket.getaddrinfo('localhost', 80)"):
        assert child.run_code(f"import socket; {code}", tmp_path / "said", offline=True) == child.NETWORK


def test_stores_are_read_without_the_network(tmp_path):
    from helpers import make_raw

    make_raw().write_zarr(tmp_path / "a.zarr")
    ended = child.run(["import", tmp_path / "a.zarr", tmp_path / "a.h5ad"], tmp_path / "said", offline=True)
    assert ended.code == 0, ended


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o000])
@pytest.mark.parametrize("step", ["normalize", "hold-out", "train", "report", "check-samplesheet"])
def test_what_is_not_complete_is_closed_to_others(step, mask, files, tmp_path, monkeypatch):
    out, scratch = tmp_path / "out", tmp_path / "scratch"
    for folder in (out, scratch):
        folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    running = child.Child(command(step, files, out), tmp_path / "said", mask, environment={"TMPDIR": str(scratch)})
    seen = set()
    while running.process.is_alive():
        for folder in (out, scratch):
            for name in os.listdir(folder):
                if folder == scratch or name.endswith(".part"):
                    seen |= modes(folder / name)
        time.sleep(0.0005)
    assert running.wait().code == 0
    assert seen <= {0o700}, [oct(mode) for mode in seen]
    if step in ("normalize", "train"):
        assert seen, "never saw the file that grows"
    for path in out.rglob("*"):
        whole = 0o777 if path.is_dir() else 0o666
        assert stat.S_IMODE(path.stat().st_mode) == whole & ~mask, path
    assert not any(scratch.iterdir())


def modes(path):
    try:
        return {stat.S_IMODE(path.lstat().st_mode)}
    except FileNotFoundError:
        return set()
