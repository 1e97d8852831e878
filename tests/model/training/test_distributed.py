"""Several processes against one. They are started anew for each test, so tests are few and small."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

import stmcdi_cli as stmcdi
from stmcdi_cli.errors import DeviceMemoryError, InputError, OptionError
from stmcdi_cli.model import save_load
from stmcdi_cli.model.training import distributed
from stmcdi_cli.model.training.trainer import Trainer, Training

ALL_MASKS = True  # as in the processes that are started
CPU = torch.device("cpu")


class Rows(nn.Module):
    """A network with dropout over rows of two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 16), nn.Dropout(0.5), nn.SiLU(), nn.Linear(16, 1))

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.layers(torch.cat([x, y], 1))


def train_rows(n_items: int, batch_size: int) -> tuple[list[float], dict[str, torch.Tensor]]:
    data = torch.randn(n_items, 4, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(0)
    network = Rows()

    def loss(network: nn.Module, items: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        noise = torch.randn(len(items), 4, generator=generator)
        x = data[items] + 0.1 * noise
        return (network(x[:, :2], x[:, 2:]) - data[items].sum(1, keepdim=True)).square().mean()

    def validation(network: nn.Module) -> float:
        return (network(data[:, :2], data[:, 2:]) - data.sum(1, keepdim=True)).square().mean().item()

    settings = Training(epochs=4, batch_size=batch_size, lr=0.01, ema_decay=0.9, clip_norm=1.0)
    history = []
    trainer = Trainer(network, loss, validation, n_items, settings, seed=3)
    trainer.run(lambda row: history.append(list(row.values())))
    return history, network.state_dict()


def test_loss_curve_is_that_of_one_process():
    """Dropout included; the last batch has 1 row for 3 processes."""
    one, weights = train_rows(n_items=17, batch_size=8)
    several, same_weights = distributed.launch(3, CPU, train_rows, (17, 8))
    np.testing.assert_allclose(several, one, rtol=1e-4)
    for name, value in weights.items():
        torch.testing.assert_close(same_weights[name], value, rtol=1e-3, atol=1e-5)
    assert one[0][1] != one[-1][1]


def share_of_rows() -> tuple[int, float, float]:
    network, seen = Rows(), []
    network.layers.register_forward_hook(lambda _module, inputs, _output: seen.append(len(inputs[0])))
    with distributed.split_batch(network):
        network(torch.ones(10, 2), torch.ones(10, 2)).sum().backward()
    alone = network.layers[3].bias.grad.item()
    distributed.sum_gradients(network)
    return seen[0], alone, network.layers[3].bias.grad.item()


def test_each_process_computes_its_share():
    assert distributed.launch(2, CPU, share_of_rows, ()) == (5, 5.0, 10.0)


def fail(kind: str) -> None:
    if distributed.rank() == 1:
        raise {"memory": DeviceMemoryError("full"), "input": InputError("bad")}[kind]
    torch.distributed.barrier()


@pytest.mark.parametrize(("kind", "error"), [("memory", DeviceMemoryError), ("input", InputError)])
def test_an_error_of_one_process_ends_all_with_its_exit_code(kind, error):
    with pytest.raises(error) as raised:
        distributed.launch(2, CPU, fail, (kind,))
    assert raised.value.exit_code == error.exit_code


def history_of(folder) -> np.ndarray:
    return np.genfromtxt(folder / "history.tsv", names=True, delimiter="\t")


@pytest.fixture(scope="module")
def masked():
    raw = stmcdi.simulate(n_spots=150, n_genes=40, depth=400, seed=2)
    return stmcdi.hold_out(stmcdi.build_graph(stmcdi.select_hvg(stmcdi.normalize(raw))))[0]


@pytest.mark.parametrize(("preset", "epochs"), [("default", 5), ("paper", 2)])
def test_both_presets_train_alike_in_two_processes(masked, tmp_path, preset, epochs):
    for devices in (1, 2):
        options = {"preset": preset, "epochs": epochs, "device": "cpu", "quiet": True, "devices": devices}
        stmcdi.train(masked, tmp_path / str(devices), **options)
    one, two = (history_of(tmp_path / str(devices)) for devices in (1, 2))
    for column in one.dtype.names:
        np.testing.assert_allclose(two[column], one[column], rtol=1e-4, err_msg=column)
    assert save_load.load(tmp_path / "2").genes == tuple(masked.var_names)


def test_torchrun_starts_the_same_command(masked, tmp_path):
    masked.write_h5ad(tmp_path / "masked.h5ad")
    command = ["-m", "stmcdi_cli.cli", "train", "masked.h5ad"]
    options = ["--epochs", "3", "--device", "cpu"]
    env = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run([*launcher, *command, "two", *options], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("train: ended after epoch") == 1
    stmcdi.train(masked, tmp_path / "one", epochs=3, device="cpu", quiet=True)
    one, two = history_of(tmp_path / "one"), history_of(tmp_path / "two")
    np.testing.assert_allclose(two["loss"][1:], one["loss"][1:], rtol=1e-4)


def test_refusals(masked, tmp_path, monkeypatch):
    with pytest.raises(OptionError, match="`devices`"):
        stmcdi.train(masked, tmp_path / "model", devices=0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(OptionError, match="--devices 2: 1 GPUs are visible"):
        distributed.check_devices(2, torch.device("cuda"))


def test_each_process_has_its_gpu_before_the_first_exchange(masked, tmp_path, monkeypatch):
    """Or all would exchange from the first GPU, which NCCL refuses."""
    done = []
    monkeypatch.setattr(distributed, "device_of_rank", lambda device: done.append("device") or device)
    monkeypatch.setattr(distributed, "any_of", lambda flag: done.append("exchange") or flag)
    stmcdi.train(masked[:20, :8], tmp_path / "model", preset="paper", epochs=1, device="cpu", quiet=True)
    assert done[0] == "device" and "exchange" in done


@pytest.mark.parametrize("all_are_told", [False, True])  # as by `kill`, and as by a scheduler
def test_two_processes_stop_together_and_go_on(masked, tmp_path, all_are_told):
    masked.write_h5ad(tmp_path / "masked.h5ad")
    command = [sys.executable, "-m", "stmcdi_cli.cli", "train", "masked.h5ad", "model"]
    command += ["--preset", "paper", "--epochs", "400", "--device", "cpu", "--devices", "2"]
    settings = {"cwd": tmp_path, "env": os.environ | {"OMP_NUM_THREADS": "1"}, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, start_new_session=True, **settings)
    for line in process.stderr:
        if "epoch 2," in line:
            break
    (os.killpg if all_are_told else os.kill)(process.pid, signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, said
    assert said.endswith("stopped by SIGTERM; the same command goes on from " + f"{tmp_path / '.model.checkpoint'}\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".model.checkpoint", "masked.h5ad"]
    process = subprocess.Popen(command, start_new_session=True, **settings)
    said = [next(process.stderr) for _ in range(3)]
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    assert said[1] == f"train: going on from {tmp_path / '.model.checkpoint'}\n" and "epoch 1," not in said[2]
