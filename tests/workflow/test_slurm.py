"""The workflow under a real Slurm with one (pretended) GPU."""

import csv
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import anndata
import pytest

pytestmark = pytest.mark.slurm

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol")
REAL = Path(sys.executable).parent
"""The program that users start, so that signals and exit codes are its own."""
SLURM_CONF = """\
ClusterName=test
SlurmctldHost=localhost
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CryptoType=crypto/munge
SlurmctldPort=26817
SlurmdPort=26818
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
MinJobAge=3600
JobCompType=jobcomp/none
GresTypes=gpu
NodeName=localhost CPUs=4 RealMemory=20000 Gres=gpu:1 State=UNKNOWN
PartitionName=cpu Nodes=localhost Default=YES MaxTime=INFINITE State=UP
PartitionName=gpu Nodes=localhost MaxTime=INFINITE State=UP
"""


def _path() -> str:
    return f"{os.environ['PATH']}{os.pathsep}/usr/sbin{os.pathsep}/sbin"


@pytest.fixture(scope="module")
def slurm(tmp_path_factory) -> Iterator[dict[str, str]]:
    """Start munge and Slurm on ports and in a folder of their own; gives the environment that reaches them."""
    absent = [program for program in PROGRAMS if shutil.which(program, path=_path()) is None]
    if absent:
        pytest.skip(f"NO SLURM TEST RAN: {', '.join(absent)} not found; Debian: apt-get install slurm-wlm munge")
    folder = tmp_path_factory.mktemp("slurm")
    for part in ("munge", "state", "spool"):
        (folder / part).mkdir(mode=0o755)
    (folder / "munge/key").write_bytes(os.urandom(128))
    (folder / "munge/key").chmod(0o600)
    user = subprocess.run(["id", "-un"], text=True, capture_output=True, check=True).stdout.strip()
    (folder / "slurm.conf").write_text(SLURM_CONF.format(folder=folder, user=user))
    (folder / "gres.conf").write_text("NodeName=localhost Name=gpu File=/dev/null Count=1\n")
    env = os.environ | {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": _path()}

    munge = [
        f"--{name}={folder}/munge/{file}"
        for name, file in (
            ("key-file", "key"),
            ("socket", "socket"),
            ("log-file", "log"),
            ("pid-file", "pid"),
            ("seed-file", "seed"),
        )
    ]
    daemons = [
        subprocess.Popen([*command], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for command in (
            ("munged", "--foreground", "--force", *munge),
            ("slurmctld", "-D", "-i"),
            ("slurmd", "-D", "-N", "localhost"),
        )
    ]
    try:
        _wait(lambda: "idle" in _say(env, "sinfo", "-h", "-o", "%T"), 60, "Slurm's node to come up", folder)
        yield env
    finally:
        _say(env, "scancel", "--user", user)
        for daemon in reversed(daemons):
            daemon.terminate()
        for daemon in daemons:
            daemon.wait(timeout=60)


def _say(env: dict[str, str], *command: str) -> str:
    return subprocess.run(command, env=env, text=True, capture_output=True, timeout=60).stdout


def _wait(until, seconds: float, for_what: str, folder: Path) -> None:
    end = time.monotonic() + seconds
    while not until():
        if time.monotonic() > end:
            logs = "\n".join(f"{log}:\n{log.read_text(errors='replace')[-1500:]}" for log in folder.glob("slurm*.log"))
            pytest.fail(f"waited {seconds} s for {for_what}\n{logs}")
        time.sleep(0.5)


SITE = """\
executor { pollInterval = '1 sec'; queueStatInterval = '1 sec'; submitRateLimit = null }
process.beforeScript = 'echo "${CUDA_VISIBLE_DEVICES-none}" > gpus.txt'
process {
    withLabel: process_gpu { memory = 3.GB } // as institutions have
}
"""


@pytest.fixture(scope="module")
def folder(slurm, nextflow, stmcdi, root, tmp_path_factory) -> Path:
    """Where the workflow has run under Slurm, its training cancelled once."""
    folder = tmp_path_factory.mktemp("slurm_run")
    stmcdi(folder, "simulate", "raw.h5ad", "--n-spots", 250, "--n-genes", 120, "--depth", 800)
    (folder / "samples.csv").write_text("sample,h5ad\ntissue,raw.h5ad\n")
    (folder / "site.config").write_text(SITE)
    arguments = [
        "--input",
        "samples.csv",
        "--gpu_queue",
        "gpu",
        "--cluster_options=--comment=ours",
        "-c",
        "site.config",
    ]
    command = ["run", root, "-profile", "test,slurm,gpu", *arguments]
    run = nextflow.start(folder, *command, settings=slurm, path=REAL)

    def training() -> list[str]:
        listed = _say(slurm, "squeue", "-h", "-t", "RUNNING", "-o", "%i %j").splitlines()
        return [line.split()[0] for line in listed if "TRAIN" in line]

    try:
        _wait(lambda: (training() and _learning(folder)) or run.poll() is not None, 900, "TRAIN to run", folder)
        assert run.poll() is None, run.communicate()
        _say(slurm, "scancel", *training())
        output, _ = run.communicate(timeout=1200)
    finally:
        run.kill()
    assert run.returncode == 0, output
    return folder


def _learning(folder: Path) -> bool:
    return any("epoch" in log.read_text() for log in folder.glob("work/*/*/.command.err"))


@pytest.fixture(scope="module")
def tasks(folder: Path) -> list[dict[str, str]]:
    """Rows of the trace, each with its task's folder, in the order of submission."""
    (trace,) = (folder / "results/pipeline_info").glob("execution_trace_*.txt")
    with open(trace, newline="") as file:
        rows = sorted(csv.DictReader(file, delimiter="\t"), key=lambda row: int(row["task_id"]))
    for row in rows:
        (row["folder"],) = folder.glob(f"work/{row['hash']}*")
        row["step"] = row["name"].split(" ")[0].rpartition("STMCDI_")[2]
    return rows


def test_a_cancelled_training_is_run_again(tasks):
    ran = [(row["step"], row["status"], row["exit"]) for row in tasks]
    assert [step for step in ran if step[0] == "TRAIN"] == [("TRAIN", "FAILED", "143"), ("TRAIN", "COMPLETED", "0")]
    assert {step[0] for step in ran if step[1] == "FAILED"} == {"TRAIN"}
    assert {step[0] for step in ran} == {
        "CHECK_SAMPLESHEET", "NORMALIZE", "SELECT_HVG", "BUILD_GRAPH", "HOLD_OUT", "TRAIN", "IMPUTE", "EVALUATE",
        "REPORT",
    }  # fmt: skip


def test_a_cancelled_training_goes_on_where_it_was(tasks, folder, stmcdi, tmp_path):
    first, second = (row["folder"] for row in tasks if row["step"] == "TRAIN")
    kept = "checkpoints/stmcdi/checkpoints/STMCDI_STMCDI_TRAIN_tissue_model"
    assert f"train: going on from {kept}\n" in (second / ".command.err").read_text()
    assert not any(list(kept.iterdir()) for kept in (folder / "work/stmcdi").iterdir())  # done with
    # To the weights it would have had without the stop.
    stmcdi(tmp_path, "train", second / "tissue_held_out.h5ad", "model", "--quiet")
    weights = [model / "model.safetensors" for model in (tmp_path / "model", folder / "results/tissue/tissue_model")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_the_gpu_is_asked_for_by_two_steps_alone(tasks, slurm):
    for row in tasks:
        asked = (row["folder"] / ".command.run").read_text()
        job = _say(slurm, "scontrol", "show", "job", "-d", row["native_id"])
        seen = (row["folder"] / "gpus.txt").read_text().strip()
        assert "Comment=ours" in job
        if row["step"] in ("TRAIN", "IMPUTE"):
            assert "#SBATCH --comment=ours --gres=gpu:1\n" in asked
            assert "#SBATCH -p gpu\n" in asked
            assert "TresPerNode=gres:gpu:1" in job and "Partition=gpu" in job
            assert seen == "0"
        else:
            assert "gres" not in asked and "gpu" not in asked.replace("gpus.txt", "")
            assert "gres:gpu" not in job and "Partition=cpu" in job
            assert seen in ("none", "NoDevFiles", "")


def test_a_task_without_its_gpu_says_so(tasks, folder):
    """The GPU is pretended, so TRAIN and IMPUTE fall back; in the log, in the records, and at the end of the run."""
    for row in tasks:
        if row["step"] in ("TRAIN", "IMPUTE") and row["status"] == "COMPLETED":
            log = (row["folder"] / ".command.err").read_text()
            assert f"{row['step'].lower()}: on the CPU because" in log
    record = anndata.read_h5ad(folder / "results/tissue/tissue_imputed.h5ad").uns["stmcdi"]
    for step in ("train", "impute"):
        assert record[step]["parameters"]["device"] == "cpu"
        assert record[step]["parameters"]["cpu_fallback"]
    assert "tissue: trained on the CPU, though a GPU was asked for" in (folder / ".nextflow.log").read_text()


def test_require_gpu_fails_at_once(slurm, nextflow, root, folder):
    arguments = [
        "--input",
        "samples.csv",
        "--gpu_queue",
        "gpu",
        "--cluster_options=--comment=ours",
        "-c",
        "site.config",
    ]
    done = nextflow(
        folder, "run", root, "-profile", "test,slurm,gpu", *arguments, "--require_gpu", "-resume", "--outdir", "strict",
        settings=slurm, path=REAL,
    )  # fmt: skip
    assert done.returncode != 0
    assert "stmcdi train: --device cuda: no GPU is visible to torch" in done.stdout
    (trace,) = (folder / "strict/pipeline_info").glob("execution_trace_*.txt")
    with open(trace, newline="") as file:
        rows = [row for row in csv.DictReader(file, delimiter="\t") if row["status"] != "CACHED"]
    assert [(row["name"].split(" ")[0], row["exit"]) for row in rows] == [("STMCDI:STMCDI_TRAIN", "2")]
