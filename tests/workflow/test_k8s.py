"""The pods that the workflow asks Kubernetes for. A stand-in for the API server notes them and runs their commands."""

import json
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.k8s


class Api(BaseHTTPRequestHandler):
    """Pods of /api/v1/namespaces/NAME/pods: created, asked for, deleted; every one ends at once."""

    pods: dict[str, dict[str, Any]]

    def do_POST(self) -> None:
        pod = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        name = pod["metadata"]["name"]
        (container,) = pod["spec"]["containers"]
        command = container.get("command", []) + container.get("args", [])
        self.pods[name] = pod
        pod["exit"] = subprocess.run(command, capture_output=True, cwd=container.get("workingDir")).returncode
        self._answer(pod)

    def do_GET(self) -> None:
        name, _, what = self.path.partition("?")[0].partition("/pods/")[2].partition("/")
        if what == "log":
            self._answer(b"")
        else:
            when = "2026-01-01T00:00:00Z"
            ended = {"terminated": {"exitCode": self.pods[name]["exit"], "startedAt": when, "finishedAt": when}}
            phase = "Failed" if self.pods[name]["exit"] else "Succeeded"
            status = {"phase": phase, "containerStatuses": [{"name": name, "state": ended}]}
            self._answer({"metadata": {"name": name}, "status": status})

    def do_DELETE(self) -> None:
        self._answer({})

    def _answer(self, body: Any) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def api() -> Iterator[tuple[str, dict[str, dict[str, Any]]]]:
    """Address of the stand-in and the pods it was asked for."""
    pods: dict[str, dict[str, Any]] = {}
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Api,), {"pods": pods}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", pods
    server.shutdown()


SITE = """\
k8s {{
    client {{ server = '{server}'; token = 'none' }}
    namespace        = 'lab'
    storageClaimName = 'claim'
    storageMountPath = '{folder}'
    debug.yaml       = true
}}
process {{
    withLabel: process_gpu {{ memory = 3.GB }} // as institutions have
}}
executor.pollInterval = '1 sec'
"""


@pytest.fixture(scope="module")
def standing(nextflow, tmp_path_factory):
    with nextflow.stay(tmp_path_factory.mktemp("k8s")) as standing:
        yield standing


def _asked(standing, root: Path, folder: Path, api, *arguments: str) -> dict[str, dict[str, Any]]:
    """Run the workflow's stubs; gives the container of each step's pod."""
    server, pods = api
    (folder / "a.h5ad").touch()
    (folder / "samples.csv").write_text("sample,h5ad\nA,a.h5ad\n")
    (folder / "site.config").write_text(SITE.format(server=server, folder=folder))
    command = ["run", root, "-stub-run", "-profile", "test,k8s,gpu", "-c", folder / "site.config"]
    command += ["--input", folder / "samples.csv", "-w", folder / "work", "--outdir", folder / "results"]
    done = standing(*command, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    steps = {}
    for pod in pods.values():
        step = pod["metadata"]["labels"]["nextflow.io/processName"].rpartition("STMCDI_")[2]
        (steps[step],) = pod["spec"]["containers"]
        assert pod["metadata"]["namespace"] == "lab"
    return steps


GPU_STEPS = {"TRAIN", "IMPUTE"}


def test_two_pods_get_a_gpu(standing, root, tmp_path, api):
    steps = _asked(standing, root, tmp_path, api)
    assert len(steps) >= 8 and GPU_STEPS < set(steps)
    for step, container in steps.items():
        assert container["image"] == f"localhost/stmcdi:0.1.0-{'cuda' if step in GPU_STEPS else 'cpu'}"
        asked = {kind: container["resources"].get(kind, {}) for kind in ("requests", "limits")}
        for kind in asked:
            gpus = {name: amount for name, amount in asked[kind].items() if "gpu" in name}
            assert gpus == ({"nvidia.com/gpu": 1} if step in GPU_STEPS else {}), (step, kind)
        assert asked["requests"]["cpu"] >= 1 and asked["requests"]["memory"].endswith("Mi")
    # What the stand-in was sent is what Nextflow notes in the task's folder.
    assert sum("nvidia.com/gpu" in note.read_text() for note in tmp_path.glob("work/*/*/.command.yaml")) == 2


def test_number_and_kind_of_gpus(standing, root, tmp_path, api):
    steps = _asked(standing, root, tmp_path, api, "--gpus_per_task", "2", "--gpu_type", "nvidia.com/mig-1g.5gb")
    for kind in ("requests", "limits"):
        assert steps["TRAIN"]["resources"][kind]["nvidia.com/mig-1g.5gb"] == 2
        assert steps["IMPUTE"]["resources"][kind]["nvidia.com/mig-1g.5gb"] == 1
