"""Runs Nextflow for real. Runs are dear (seconds each), so tests share runs or processes (`Standing`)."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from forking import write_client

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = Path(sys.executable).parent
Run = Callable[..., subprocess.CompletedProcess[str]]
LATE = 900
"""Seconds after which a command of Nextflow hangs."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.workflow)


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def forked(tmp_path_factory) -> Iterator[Path]:
    """A folder with a ``stmcdi`` that starts at once (see `forking`); ``PROGRAMS`` has the one that users start."""
    folder = Path(tempfile.mkdtemp(prefix="stmcdi_"))  # a socket's address is short
    paths = [ROOT, ROOT / "tests/robustness", *filter(None, [os.environ.get("PYTHONPATH")])]
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(map(str, paths))}
    server = subprocess.Popen([sys.executable, ROOT / "tests/forking.py", folder], env=env)
    write_client(folder)
    try:
        while not all((folder / name).exists() for name in ("light", "torch")):
            assert server.poll() is None, "the server of forking.py ended"
            time.sleep(0.05)
        yield folder
    finally:
        server.terminate()
        server.wait()
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def environment(forked: Path) -> dict[str, str]:
    """One thread, no colours, and the stmcdi of this Python in front of any other.

    Nextflow's start costs a fifth less with the plain garbage collector and with Groovy's older way of calls, and a bit
    less again with memory enough to collect little.
    """
    java = "-XX:+UseSerialGC -Xms600m -Xmn400m -Dgroovy.target.indy=false"
    return os.environ | {
        "PATH": os.pathsep.join([str(forked), str(PROGRAMS), os.environ["PATH"]]),
        "NXF_ANSI_LOG": "false",
        "NXF_OFFLINE": "true",
        "OMP_NUM_THREADS": "1",
        "NXF_OPTS": f"{java} {os.environ.get('NXF_OPTS', '')}".strip(),
    }


class Nextflow:
    """Call Nextflow in a folder: ``nextflow(folder, 'run', ...)``; ``nextflow.start`` does not wait for its end.

    `settings` are further environment variables, `path` a folder to look for programs in first.
    """

    def __init__(self, program: str, environment: Mapping[str, str]) -> None:
        self.program, self.environment = program, environment

    def start(
        self,
        folder: Path,
        *arguments: object,
        path: Path | None = None,
        settings: Mapping[str, str] | None = None,
        **options,
    ) -> "subprocess.Popen[str]":
        env = {**self.environment, **(settings or {})}
        first = [str(path), self.environment["PATH"]] if path else [self.environment["PATH"]]
        env["PATH"] = os.pathsep.join(dict.fromkeys([*first, *env["PATH"].split(os.pathsep)]))
        command = [self.program, *map(str, arguments)]
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
        return subprocess.Popen(command, cwd=folder, env=env, text=True, **options)

    def stay(self, folder: Path, **options) -> "Standing":
        """Start a Nextflow for several commands."""
        script = Path(__file__).with_name("stay.nf")
        return Standing(self.start(folder, "-q", "run", script, stdin=subprocess.PIPE, stderr=None, **options))

    def __call__(self, folder: Path, *arguments: object, **options) -> subprocess.CompletedProcess[str]:
        with self.start(folder, *arguments, **options) as process:
            try:
                output, errors = process.communicate(timeout=LATE)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


class Standing:
    """Call Nextflow in one folder: ``standing('run', ...)``. All commands run in one process of Java (stay.nf).

    Java reads and compiles Nextflow and the workflow anew in each process, for several times what a further command
    takes. Not for a command that ends Java, as a refusal does, or that does something when Java ends.
    """

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process

    def __call__(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        words = [*map(str, arguments)]
        late = threading.Timer(LATE, self.process.kill)
        late.start()
        try:
            print(json.dumps(words), file=self.process.stdin, flush=True)
            answer = self.process.stdout.readline()
        finally:
            late.cancel()
        assert answer, f"Nextflow ended in {words}"
        return subprocess.CompletedProcess(words, *json.loads(answer))

    def __enter__(self) -> "Standing":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture(scope="session")
def nextflow(environment: dict[str, str]) -> Nextflow:
    program = shutil.which("nextflow", path=environment["PATH"])
    if program is None or shutil.which("java", path=environment["PATH"]) is None:
        pytest.skip("NO WORKFLOW TEST RAN: nextflow or java not found; run `make env` (needs Java 17 or later)")
    return Nextflow(program, environment)


@pytest.fixture(scope="session")
def stmcdi(environment: dict[str, str]) -> Run:
    """Call the command line in a folder: ``stmcdi(folder, 'normalize', ...)``."""

    def run(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["stmcdi", *map(str, arguments)], cwd=folder, env=environment, text=True, capture_output=True, check=True
        )

    return run


@pytest.fixture
def samplesheet(tmp_path: Path) -> Callable[..., Path]:
    """Write a samplesheet into a test's folder, beside an (empty) file a.h5ad."""

    def write(*rows: str, header: str = "sample,h5ad") -> Path:
        (tmp_path / "a.h5ad").touch()
        sheet = tmp_path / "samples.csv"
        sheet.write_text("\n".join([header, *rows]) + "\n")
        return sheet

    return write


def outputs(folder: Path) -> set[str]:
    """Files below a folder, the dated reports left out."""
    names = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {str(name) for name in names if not name.name.startswith(("execution_", "pipeline_dag_"))}


@pytest.fixture(scope="session")
def files_of() -> Callable[[Path], set[str]]:
    return outputs
