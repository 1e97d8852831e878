"""The image, built for real, and the workflow inside it: any user id, read-only root, no network."""

import configparser
import csv
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import same_results

from stmcdi_cli import __version__

pytestmark = pytest.mark.podman

IMAGE = f"localhost/stmcdi:{__version__}-cpu"
PUBLIC_BASE = "docker.io/library/python:3.11-slim-bookworm"
TEST_BASE = "localhost/stmcdi-test-base:bookworm"
USER = 12345
DISK = 18.0
"""GB that building takes for a while (measured: 17.3): both stages, the packed layer and the image lie side by side."""


def _call(*command: object, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*map(str, command)], text=True, capture_output=True, **options)


@pytest.fixture(scope="module")
def podman(environment, tmp_path_factory) -> dict[str, str]:
    """The environment in which containers start on this machine, and a base image with Python in the local store."""
    for program in ("podman", "bash", "make"):
        if shutil.which(program) is None:
            pytest.skip(f"NO CONTAINER TEST RAN: {program} not found; Debian: apt-get install podman runc debootstrap")
    store = _call("podman", "info", "--format", "{{.Store.GraphRoot}}").stdout.strip()
    free = shutil.disk_usage(store).free / 1e9
    if free < DISK:
        pytest.skip(f"NO CONTAINER TEST RAN: {free:.1f} GB free in {store}; building the image needs {DISK} GB")
    if _call("podman", "image", "exists", PUBLIC_BASE).returncode == 0:
        base = PUBLIC_BASE
    else:
        base = TEST_BASE
        if _call("podman", "image", "exists", base).returncode != 0:
            _make_base(base, tmp_path_factory.mktemp("base"))
    # Machines whose cgroups or limits the defaults cannot manage: the other runtime, and no limits of our own.
    patient = tmp_path_factory.mktemp("podman") / "containers.conf"
    patient.write_text('[containers]\ndefault_ulimits = []\n[engine]\nruntime = "runc"\n')
    for settings in ({}, {"CONTAINERS_CONF": str(patient)}):
        env = environment | settings
        tried = _call("podman", "run", "--rm", "--network", "none", base, "true", env=env, timeout=120)
        if tried.returncode == 0:
            return env | {"BASE_IMAGE": base}
    pytest.skip(f"NO CONTAINER TEST RAN: podman starts no container here ({tried.stderr.strip()[-300:]})")


def _make_base(name: str, folder: Path) -> None:
    """Without a registry in reach: a minimal Debian with its own Python."""
    if shutil.which("debootstrap") is None or os.geteuid() != 0:
        pytest.skip(f"NO CONTAINER TEST RAN: no image {PUBLIC_BASE} in the local store, and no debootstrap as root")
    rootfs = folder / "rootfs"
    packages = "--include=python3,python3-venv,ca-certificates,procps"
    made = _call("debootstrap", "--variant=minbase", packages, "bookworm", rootfs, timeout=900)
    if made.returncode != 0:
        pytest.skip(f"NO CONTAINER TEST RAN: debootstrap failed ({made.stdout.strip()[-300:]})")
    packed = subprocess.Popen(["tar", "-C", str(rootfs), "-c", "."], stdout=subprocess.PIPE)
    subprocess.run(["podman", "import", "-", name], stdin=packed.stdout, check=True, capture_output=True)
    assert packed.wait() == 0
    shutil.rmtree(rootfs)


def _pip_of_this_machine(folder: Path) -> list[str]:
    """Lend the build this machine's pip settings (mirror, certificates) as mounts: none ends up in the image."""
    listed = _call(sys.executable, "-m", "pip", "config", "list").stdout.splitlines()
    settings = dict(line.split("=", 1) for line in listed if "=" in line)
    config = configparser.ConfigParser(interpolation=None)
    config["global"] = {
        name.rpartition(".")[2]: value.strip("'\"")
        for name, value in settings.items()
        if name.startswith(("global.", ":env:.")) and not name.endswith(("find-links", "cache-dir"))
    }
    file = folder / "pip.conf"
    with open(file, "w") as text:
        config.write(text)
    mounts = ["-v", f"{file}:/etc/pip.conf:ro"]
    certificates = config["global"].get("cert") or os.environ.get("SSL_CERT_FILE")
    return [*mounts, "-v", f"{certificates}:{certificates}:ro"] if certificates else mounts


@pytest.fixture(scope="module")
def image(podman, root, tmp_path_factory) -> Iterator[dict[str, str]]:
    """Build the image by `make image`; gives the environment to run it in. At the end all is as it was before."""
    before = _image_id(podman)
    folder = tmp_path_factory.mktemp("build")
    options = ["--isolation", "chroot", "--network", "host", "--layers=false", *_pip_of_this_machine(folder)]
    arguments = [f"BASE_IMAGE={podman['BASE_IMAGE']}", f"BUILD_OPTIONS={' '.join(options)}"]
    built = _call("make", "-C", root, "image", *arguments, env=podman, timeout=2400)
    try:
        assert built.returncode == 0, (built.stdout + built.stderr)[-3000:]
        yield podman
    finally:
        if _image_id(podman) != before:
            _call("podman", "image", "rm", "--force", IMAGE, env=podman)
        if before:
            _call("podman", "tag", before, IMAGE, env=podman)


def _image_id(env: dict[str, str]) -> str:
    return _call("podman", "image", "inspect", "--format", "{{.Id}}", IMAGE, env=env).stdout.strip()


def _in_image(env: dict[str, str], *command: str) -> str:
    options = ["--rm", "--network", "none", "--read-only", "--read-only-tmpfs=false", "--user", f"{USER}:{USER}"]
    done = _call("podman", "run", *options, IMAGE, *command, env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_image_keeps_nextflow_s_conditions(image):
    def of(field: str) -> str:
        return _call(
            "podman", "image", "inspect", "--format", f"{{{{json .{field}}}}}", IMAGE, env=image
        ).stdout.strip()

    assert of("Config.Entrypoint") == "null"
    assert of("Config.User") in ('""', '"root"', '"0"')
    assert f'"org.opencontainers.image.version":"{__version__}"' in of("Config.Labels")
    settings = of("Config.Env")
    assert not any(word in settings for word in ("PIP_", "CERT", "http")), settings
    assert _in_image(image, "stmcdi", "--version").endswith(__version__)
    assert "bash" in _in_image(image, "bash", "--version")
    assert "PID" in _in_image(image, "ps")


def test_image_holds_what_pip_installed_for_anyone_to_read(image):
    hidden = _in_image(image, "bash", "-c", "find /opt/stmcdi ! -readable -print -quit")
    assert hidden == ""
    assert _in_image(image, "cat", "/usr/share/doc/stmcdi/LICENSE").startswith("MIT License")


ARGUMENTS = ["--input", "samples.csv", "--n_genes", "60", "--seed", "3"]


@pytest.fixture(scope="module")
def runs(image, nextflow, stmcdi, root) -> Iterator[tuple[Path, Path]]:
    """Results of the workflow without a container, and in the image."""
    with tempfile.TemporaryDirectory(prefix="stmcdi_podman_") as folder:  # pytest's own folders are closed to others
        yield _run_both(Path(folder), image, nextflow, stmcdi, root)


def _run_both(folder: Path, image: dict[str, str], nextflow, stmcdi, root: Path) -> tuple[Path, Path]:
    stmcdi(folder, "simulate", "raw.h5ad", "--n-spots", 200, "--n-genes", 100, "--n-sections", 2, "--depth", 800)
    (folder / "samples.csv").write_text("sample,h5ad,section_key\ntissue,raw.h5ad,section\n")
    options = f"--network none --read-only --read-only-tmpfs=false --user {USER}:{USER}"
    often = "process { withName: STMCDI_TRAIN { ext.args = '--seed 3 --checkpoint-every 0' } }"
    (folder / "locked.config").write_text(f"podman.runOptions = '{options}'\n{often}\n")
    folder.chmod(0o755)
    plain = nextflow(folder, "run", root, "-profile", "test", *ARGUMENTS, "--outdir", "plain", "-w", "work_plain")
    assert plain.returncode == 0, plain.stdout + plain.stderr
    # Tasks write into their folders as another user than the one that made them.
    inside = nextflow(
        folder, "run", root, "-profile", "test,podman", *ARGUMENTS, "--outdir", "inside", "-c", "locked.config",
        settings=image, umask=0,
    )  # fmt: skip
    assert inside.returncode == 0, inside.stdout + inside.stderr
    return folder / "plain", folder / "inside"


def test_every_task_ran_in_the_image_locked_in(runs):
    scripts = sorted((runs[1].parent / "work").glob("*/*/.command.run"))
    assert len(scripts) >= 8
    for script in scripts:
        (launch,) = (line for line in script.read_text().splitlines() if line.lstrip().startswith("podman run"))
        assert f"--network none --read-only --read-only-tmpfs=false --user {USER}:{USER}" in launch
        assert IMAGE in launch
        assert (script.parent / "versions.yml").stat().st_uid == USER


def test_a_training_leaves_word_outside_its_container(runs):
    work = runs[1].parent / "work"
    (training,) = (script.parent for script in work.glob("*/*/.command.sh") if "stmcdi train" in script.read_text())
    assert (training / "checkpoints/stmcdi").readlink() == work / "stmcdi"
    assert "no checkpoint" not in (training / ".command.err").read_text()
    assert (work / "stmcdi/checkpoints").stat().st_mtime > (training / ".command.begin").stat().st_mtime


def test_the_image_gives_what_this_machine_gives(runs, files_of):
    plain, inside = runs
    assert files_of(plain) == files_of(inside)
    same_results(plain, inside)


def test_trace_saw_into_the_containers(runs):
    (trace,) = (runs[1] / "pipeline_info").glob("execution_trace_*.txt")
    with open(trace, newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert len(rows) == len(list((runs[1].parent / "work").glob("*/*/.command.run")))
    assert {row["status"] for row in rows} == {"COMPLETED"}
    assert all(row["peak_rss"] not in ("-", "0") for row in rows), rows
