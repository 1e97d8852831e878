"""Outputs are whole or absent, whatever the system does: on a real disk that is full, read-only, or gone."""

import os
import shutil
import subprocess
import time
from pathlib import Path

import child
import pytest
from steps import STEPS, command

OUTPUTS = {"hold-out": ["a.h5ad", "truth.h5ad"], "check-samplesheet": ["a.csv"], "train": ["model"]}
OUTPUTS |= {"evaluate": ["a.json", "a.tsv"], "report": ["a.html", "a.tsv"], "run": ["a.h5ad", "a.json", "a.model"]}


@pytest.fixture
def disk(tmp_path):
    """A file system of its own, of 256 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("SMALL DISKS NOT TESTED: needs the right to mount one")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def put_old(step: str, out: Path) -> None:
    """Put something at the place of each output."""
    for name in OUTPUTS.get(step, ["a.h5ad"]):
        if name.endswith("model"):
            (out / name).mkdir()
            (out / name / "config.yaml").write_text("old")
        else:
            (out / name).write_text("old")


def content(folder: Path) -> dict[str, bytes | None]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


def refuses(arguments: list[str], said: Path, *words: str) -> str:
    ended = child.run([*arguments, "--quiet"], said, 120)
    assert ended.code == 2 and ended.said.count("\n") == 1 and ended.said.startswith("stmcdi "), ended
    assert any(word in ended.said for word in words), ended.said
    return ended.said


@pytest.mark.parametrize("step", STEPS)
def test_a_full_disk_is_one_line_and_keeps_the_old_output(step, files, disk, tmp_path):
    put_old(step, disk)
    with open(disk / "filler", "wb", buffering=0) as filler:
        try:
            while filler.write(bytes(4096)):
                pass
        except OSError:
            pass
    before = content(disk)
    refuses(command(step, files, disk), tmp_path / "said", "No space left on device", "needs about")
    assert content(disk) == before


@pytest.mark.parametrize("step", ["normalize", "join", "train", "report"])
def test_a_disk_that_fills_up_while_written_is_one_line(step, files, disk, tmp_path):
    put_old(step, disk)
    subprocess.run(["mount", "-o", "remount,size=32k", str(disk)], check=True)  # enough to begin
    before = content(disk)
    said = refuses(command(step, files, disk), tmp_path / "said", "No space left on device", "needs about")
    assert said.startswith(f"stmcdi {step}: {disk}"), said  # no input is at fault
    assert content(disk) == before


@pytest.mark.parametrize("step", STEPS)
def test_a_read_only_folder_is_one_line(step, files, disk, tmp_path):
    put_old(step, disk)
    before = content(disk)
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    refuses(command(step, files, disk), tmp_path / "said", "not writable", "Read-only file system")
    assert content(disk) == before


@pytest.mark.parametrize("step", [step for step in STEPS if step != "simulate"])
@pytest.mark.parametrize("what", ["gone", "folder", "loop", "pipe"])
def test_an_input_that_is_no_file_any_more_is_one_line(step, what, files, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    put_old(step, out)
    before = content(out)
    first = command(step, files, out)[1]
    place = tmp_path / Path(first).name
    if what == "folder":
        place.mkdir()
    elif what == "loop":
        place.symlink_to(place.name)
    elif what == "pipe":
        os.mkfifo(place)
    refuses([word.replace(first, str(place)) for word in command(step, files, out)], tmp_path / "said", place.name)
    assert content(out) == before


@pytest.mark.parametrize("step", STEPS)
def test_a_folder_removed_meanwhile_is_one_line(step, files, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    running = child.Child([*command(step, files, out), "--quiet"], tmp_path / "said")
    end = time.monotonic() + 120
    while running.process.is_alive() and not any(out.glob(".*.part")) and time.monotonic() < end:
        time.sleep(0.0005)
    shutil.rmtree(out, ignore_errors=True)
    shutil.rmtree(out, ignore_errors=True)  # what was made in it in that moment
    ended = running.wait(120)
    if ended.code != 0:  # too late for a quick one
        assert ended.code == 2 and ended.said.count("\n") == 1, ended
    assert not out.exists() or not any(path.name.endswith(".part") for path in out.iterdir())
