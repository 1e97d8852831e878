"""Both variants, and the preset `attention`, on a real GPU. `test_fake_gpu.py` tests what needs none."""

import gc
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import dense

import stmcdi_cli as stmcdi
from stmcdi_cli.errors import DeviceMemoryError
from stmcdi_cli.model import save_load
from stmcdi_cli.model.attention.denoiser import Denoiser
from stmcdi_cli.model.base import DrawOptions
from stmcdi_cli.model.diffusion.samplers import SAMPLERS
from stmcdi_cli.model.latent.diffusion import LatentDenoiser
from stmcdi_cli.model.tissue import Tissue
from stmcdi_cli.model.training import checkpoint as checkpoint_module
from stmcdi_cli.model.training import distributed
from stmcdi_cli.model.training.trainer import Trainer, Training

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="NO GPU TESTED: torch sees none")

GPU = "cuda"
PRESETS = {
    "default": {"epochs": 4, "batch_size": 16},
    "paper": {"preset": "paper", "epochs": 2, "batch_size": 16},
    "attention": {"preset": "attention", "epochs": 2, "batch_size": 16},
}
N_STEPS = 6

# What rounding may change: products are summed in another order, attention is computed in half precision on a GPU, and
# a sampler passes errors on from step to step. Values are logarithms of counts, from 0 to about 7.
CLOSE = {"default": {"rtol": 1e-3, "atol": 2e-3}} | dict.fromkeys(("paper", "attention"), {"rtol": 1e-2, "atol": 2e-2})
DRAWS_ALIKE = 0.98
"""Share of the entries whose draws must be close: a draw is a count, and a small change may make it the next one."""


@pytest.fixture(scope="module")
def masked():
    raw = stmcdi.simulate(n_spots=48, n_genes=24, depth=400, seed=2)
    return stmcdi.hold_out(stmcdi.build_graph(stmcdi.normalize(raw)), seed=0)[0]


def train(adata, path, preset, device, **options):
    return stmcdi.train(adata, path, **{"device": device, "quiet": True, **PRESETS[preset], **options})


def impute(adata, model, device, **options):
    options = {"n_samples": 3, "n_steps": N_STEPS, "batch_size": 32, **options}
    return stmcdi.impute(adata, model, device=device, quiet=True, **options)


def history(folder):
    return np.genfromtxt(folder / "history.tsv", names=True, delimiter="\t")


def hidden(adata, layer="imputed"):
    values = dense(adata.layers[layer])[dense(adata.layers["missing"])]
    assert np.isfinite(values).all() and values.min() >= 0
    return values


@pytest.fixture(scope="module", params=PRESETS)
def both(request, masked, tmp_path_factory):
    """A model trained on each device: the folder and the model in memory."""
    folder = tmp_path_factory.mktemp("models")
    models = {device: train(masked, folder / device, request.param, device) for device in ("cpu", GPU)}
    return SimpleNamespace(preset=request.param, folder=folder, models=models)


@pytest.fixture
def networked(both):
    """The model of the CPU with networks that matter: after so few steps their output is still near 0."""
    model = save_load.load(both.folder / "cpu")
    networks = [branch.network for branch in model.branches] if both.preset == "default" else [model.network]
    for network in networks:
        torch.nn.init.normal_(network.output.weight, std=0.1, generator=torch.Generator().manual_seed(0))
    if both.preset == "default":
        model.weights = torch.full_like(model.weights, 1 / len(networks))  # every branch draws
    if both.preset == "attention":
        model.point_part = torch.tensor(1.0)
    return model


def test_a_gpu_is_chosen_where_there_is_one(masked, tmp_path, both):
    result = impute(masked, both.folder / "cpu", "auto", n_samples=2)
    parameters = result.uns["stmcdi"]["impute"]["parameters"]
    assert parameters["device"] == GPU and parameters.get("cpu_fallback") is None
    assert both.models[GPU].config["device"] == GPU


def test_training_gives_nearly_the_history_of_the_cpu(both):
    cpu, gpu = history(both.folder / "cpu"), history(both.folder / GPU)
    # Dropout takes its numbers from the device, so only losses before the first step are the same with it.
    rows = slice(0, 1) if both.preset == "default" else slice(None)
    columns = ["validation_loss"] if both.preset == "default" else ["loss", "validation_loss"]
    for column in columns:
        np.testing.assert_allclose(gpu[column][rows], cpu[column][rows], rtol=2e-3, err_msg=column)
    assert np.isfinite(gpu["validation_loss"][-1]) and np.isfinite(gpu["loss"][-1])
    np.testing.assert_allclose(gpu["loss"][1:], cpu["loss"][1:], rtol=0.1)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_draws_are_those_of_the_cpu(both, networked, masked, sampler):
    """Their random numbers are functions of seed, spot and sample."""
    options = {"sampler": sampler, "n_steps": 24 if sampler == "langevin" else N_STEPS}
    cpu, gpu = (impute(masked, networked, device, **options) for device in ("cpu", GPU))
    np.testing.assert_allclose(hidden(gpu), hidden(cpu), **CLOSE[both.preset])
    for layer in ("imputed_median", "imputed_q05", "imputed_sd"):
        assert np.isclose(hidden(gpu, layer), hidden(cpu, layer), **CLOSE[both.preset]).mean() > DRAWS_ALIKE, layer
    other = impute(masked, networked, GPU, **options, seed=1)
    assert not np.isclose(hidden(other, "imputed_sd"), hidden(gpu, "imputed_sd"), **CLOSE[both.preset]).mean() > 0.5


def test_visible_entries_are_denoised_as_on_the_cpu(both, networked, masked):
    cpu, gpu = (dense(impute(masked, networked, device, target="all").layers["imputed"]) for device in ("cpu", GPU))
    np.testing.assert_allclose(gpu, cpu, **CLOSE[both.preset])


def test_a_model_goes_from_one_device_to_the_other(both, masked):
    """From a folder, and in memory: where it was trained says nothing about where it draws."""
    for trained_on, model in both.models.items():
        loaded = save_load.load(both.folder / trained_on)
        assert {value.device.type for value in loaded.state().values()} == {"cpu"}
        digest = loaded.digest()
        found = [impute(masked, each, device) for each in (model, loaded) for device in (GPU, "cpu", GPU)]
        assert model.digest() == loaded.digest() == digest
        for each in found[1:]:
            np.testing.assert_allclose(hidden(each), hidden(found[0]), **CLOSE[both.preset])


def test_a_model_on_a_gpu_has_its_state_on_the_cpu(both, masked, tmp_path):
    model = both.models[GPU]
    model.prepare(Tissue.from_anndata(masked), device=torch.device(GPU))
    assert {value.device.type for value in model.state().values()} == {"cpu"}
    first = impute(masked, model, GPU, parts=tmp_path / "parts")  # which are named after the digest of the state
    np.testing.assert_allclose(hidden(first), hidden(impute(masked, model, GPU)), **CLOSE[both.preset])


def test_the_same_seed_gives_nearly_the_same_model(both, masked, tmp_path):
    """Sums in the gradients of a GPU have no fixed order."""
    again = train(masked, tmp_path / "again", both.preset, GPU)
    one, two = history(both.folder / GPU), history(tmp_path / "again")
    for column in one.dtype.names:
        np.testing.assert_allclose(two[column], one[column], rtol=2e-3, err_msg=column)
    if both.preset == "paper":  # of the other, a network whose losses are the same on both sides may be reset or not
        for name, value in both.models[GPU].state().items():
            torch.testing.assert_close(again.state()[name], value, rtol=1e-3, atol=1e-4)
    values, others = (hidden(impute(masked, model, GPU)) for model in (both.models[GPU], again))
    np.testing.assert_allclose(others, values, atol=0.1)


def test_draws_do_not_depend_on_the_batch(both, networked, masked):
    networked.prepare(Tissue.from_anndata(masked), device=torch.device(GPU))
    options = DrawOptions(n_samples=4, seed=1, sampler="dpm", n_steps=N_STEPS)
    whole = networked.draw(np.arange(masked.n_obs), options)
    spots = np.array([47, 3, 17, 18, 30])
    part = networked.draw(spots, options)
    missing = dense(masked.layers["missing"])[spots]
    np.testing.assert_allclose(part.mean[missing], whole.mean[spots][missing], **CLOSE[both.preset])
    alike = np.isclose(part.samples[:, missing], whole.samples[:, spots][:, missing], **CLOSE[both.preset])
    assert alike.mean() > DRAWS_ALIKE
    batches = [hidden(impute(masked, networked, GPU, batch_size=size)) for size in (7, 256)]
    np.testing.assert_allclose(*batches, **CLOSE[both.preset])


class Killed(BaseException):
    """Nothing can catch a SIGKILL; hardly anything catches this."""


def test_a_stopped_training_goes_on(both, masked, tmp_path, monkeypatch, caplog):
    """Weights, averages, the optimiser's state and the generators of both devices come from the file."""
    preset, n_epochs = both.preset, PRESETS[both.preset]["epochs"]
    save = checkpoint_module.Stage.save

    def stop(self, state):
        save(self, state)
        if self.name == "networks" and callable(state):
            now = state()
            if now["epoch"] == n_epochs // 2 and now["n_seen"] > 0:
                raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(checkpoint_module.Stage, "save", stop)
        train(masked, tmp_path / "model", preset, GPU, checkpoint_every=0)
    begun = []
    epoch = Trainer._train_epoch
    monkeypatch.setattr(Trainer, "_train_epoch", lambda self, *rest: begun.append(self.epoch) or epoch(self, *rest))
    train(masked, tmp_path / "model", preset, GPU, quiet=False)
    assert f"train: going on from {tmp_path / '.model.checkpoint'}" in caplog.text
    assert begun == list(range(n_epochs // 2, n_epochs))
    one, two = history(both.folder / GPU), history(tmp_path / "model")
    for column in one.dtype.names:
        np.testing.assert_allclose(two[column], one[column], rtol=2e-3, err_msg=column)


def test_too_little_memory_to_train_has_its_own_exit_code(masked, h5ad, cli, tmp_path):
    source = h5ad(masked)
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(2**22 / torch.cuda.get_device_properties(0).total_memory)
    try:
        result = cli("train", source, tmp_path / "model", "--preset", "paper", "--epochs", 1, "--device", GPU)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert result.exit_code == DeviceMemoryError.exit_code, result.output
    assert "stmcdi train: the GPU ran out of memory; use --device cpu, or smaller batches" in result.stderr
    assert not (tmp_path / "model").exists()


def test_too_little_memory_to_impute_is_an_error_of_its_own(both, networked, masked, monkeypatch):
    # 2^46 bytes are more than any GPU has.
    for network in (LatentDenoiser, Denoiser):
        monkeypatch.setattr(network, "forward", lambda self, x_t, *rest: x_t.new_empty(2**44))
    with pytest.raises(DeviceMemoryError):
        impute(masked, networked, GPU)


def test_the_command_line(masked, h5ad, cli, tmp_path):
    source, model = h5ad(masked), tmp_path / "model"
    done = cli("train", source, model, "--epochs", 1, "--device", GPU, "--devices", 1)
    assert done.exit_code == 0, done.output
    assert f"48 spots x 24 genes on {GPU}" in done.stderr
    done = cli("impute", source, model, tmp_path / "out.h5ad", "--n-samples", 2, "--device", GPU)
    assert done.exit_code == 0, done.output


def in_one_process_group() -> tuple[float, bool, torch.Tensor]:
    """Train a network with dropout through every exchange between processes."""
    device = distributed.device_of_rank(torch.device(GPU))
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(0.1), torch.nn.Linear(8, 1)).to(device)
    data = torch.randn(12, 4, generator=torch.Generator().manual_seed(1)).to(device)
    losses = []
    trainer = Trainer(
        network,
        lambda network, items, generator: (network(data[items.to(device)]) - 1).square().mean(),
        lambda network: (network(data) - 1).square().mean().item(),
        12,
        Training(epochs=2, batch_size=5, lr=0.01, ema_decay=0.9, clip_norm=1.0),
        seed=3,
    )
    trainer.run(lambda row: losses.append(row["validation_loss"]))
    return losses[-1], distributed.any_of(True), network[0].weight.detach()


def test_processes_that_train_together_exchange_by_nccl():
    """One process here: a GPU cannot be shared by two. The network's weights come back from the process."""
    if not torch.distributed.is_nccl_available():
        pytest.skip("NCCL NOT TESTED: torch was built without it")
    alone = in_one_process_group()
    loss, flag, weights = distributed.launch(1, torch.device(GPU), in_one_process_group, ())
    assert flag is True and loss == pytest.approx(alone[0], rel=1e-3)
    torch.testing.assert_close(weights, alone[2], rtol=1e-3, atol=1e-5)


def test_two_gpus_train_as_one(both, masked, tmp_path):
    if torch.cuda.device_count() < 2:
        pytest.skip("TWO GPUS NOT TESTED: torch sees one")
    train(masked, tmp_path / "two", both.preset, GPU, devices=2)
    one, two = history(both.folder / GPU), history(tmp_path / "two")
    for column in one.dtype.names:
        np.testing.assert_allclose(two[column], one[column], rtol=5e-3, err_msg=column)
