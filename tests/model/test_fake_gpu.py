"""The code for a GPU on a machine without one (`fake_gpu`). Values are not tested here but in `test_gpu.py`."""

import importlib

import numpy as np
import pytest
import torch
from fake_gpu import CUDA, fake_gpu
from helpers import dense
from torch import Tensor

import stmcdi_cli as stmcdi
from stmcdi_cli.model import save_load
from stmcdi_cli.model.attention.graph_encoder import Neighbourhood
from stmcdi_cli.model.attention.model import AttentionModel
from stmcdi_cli.model.base import DrawOptions
from stmcdi_cli.model.diffusion.samplers import SAMPLERS
from stmcdi_cli.model.diffusion.schedule import Schedule
from stmcdi_cli.model.latent.diffusion import TrainingPairs
from stmcdi_cli.model.latent.masking import Masking
from stmcdi_cli.model.tissue import Tissue
from stmcdi_cli.model.training.trainer import Trainer

train_step = importlib.import_module("stmcdi_cli.steps.train")  # `stmcdi_cli.steps` may name its function so

PRESETS = {"default": {"epochs": 2, "batch_size": 16}, "paper": {"preset": "paper", "epochs": 2, "batch_size": 16}}
FROM_ENCODER = {"attention": {"preset": "attention", "epochs": 2, "batch_size": 16}}
OPTIONS = DrawOptions(n_samples=2, seed=1, sampler="dpm", n_steps=4)


@pytest.fixture(scope="module")
def masked():
    raw = stmcdi.simulate(n_spots=40, n_genes=16, depth=300, seed=3)
    return stmcdi.hold_out(stmcdi.build_graph(stmcdi.normalize(raw)), seed=0)[0]


def train(masked, path, preset, **options):
    """Train with short settings: every operation takes longer here, and how well a model fits does not matter."""

    def short(*arguments, **changes):
        config = configuration(*arguments, **changes)
        config["diffusion"]["T"] = 6
        if "encoder" in config:
            config["encoder"]["sweeps"] = 2
        if preset != "default":
            config["network"]["layers"] = 1
        return config

    configuration = train_step._configuration
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_step, "_configuration", short)
        patch.setattr(Masking, "rounds", lambda self, n_spots: 1)
        return stmcdi.train(
            masked, path, **{"device": "cuda", "quiet": True, **(PRESETS | FROM_ENCODER)[preset], **options}
        )


@pytest.fixture(scope="module")
def models(masked, tmp_path_factory):
    """Folders of models that were trained on the CPU."""
    folder = tmp_path_factory.mktemp("models")
    for preset in PRESETS:
        train(masked, folder / preset, preset, device="cpu", epochs=1)
    return {preset: folder / preset for preset in PRESETS}


def networks(model):
    return [model.network] if model.variant == "attention" else [branch.network for branch in model.branches]


def loaded(folder, masked, device=CUDA):
    """A model ready to draw, with networks that matter: after so few steps their output is 0."""
    model = save_load.load(folder)
    for network in networks(model):
        torch.nn.init.normal_(network.output.weight)
    if model.variant == "latent":
        model.weights = torch.full_like(model.weights, 1 / len(model.branches))  # every branch draws
    model.prepare(Tissue.from_anndata(masked), device=device)
    return model


def devices(model):
    return {value.device.type for network in networks(model) for value in network.state_dict().values()}


@pytest.mark.parametrize("preset", [*PRESETS, *FROM_ENCODER])
def test_a_training_runs_and_leaves_its_state_on_the_cpu(masked, tmp_path, preset):
    with fake_gpu() as gpu:
        model = train(masked, tmp_path / "model", preset)
        assert gpu.n_calls > 1000
        assert devices(model) == {"cuda"}
        assert {value.device.type for value in model.state().values()} == {"cpu"}
        model.digest()
        result = stmcdi.impute(
            masked, model, device="cuda", n_samples=2, n_steps=2, parts=tmp_path / "parts", quiet=True
        )
        assert np.isfinite(dense(result.layers["imputed"])).all()
    assert save_load.load(tmp_path / "model").genes == tuple(masked.var_names)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_training_goes_on_from_its_checkpoint(masked, tmp_path, monkeypatch, preset):
    states = []
    save, load = Trainer.state_dict, Trainer.load_state_dict

    def stop(self):
        state = save(self)
        if self.epoch == 1:
            raise KeyboardInterrupt
        return state

    def check(self, state):
        load(self, state)
        states.append(self.state_dict())

    with fake_gpu():
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(Trainer, "state_dict", stop)
            train(masked, tmp_path / "model", preset, checkpoint_every=0)
        assert (tmp_path / ".model.checkpoint").exists()
        monkeypatch.setattr(Trainer, "load_state_dict", check)
        train(masked, tmp_path / "model", preset)
    (state,) = states
    moments = [value for each in state["optimizer"]["state"].values() for value in each.items()]
    assert {value.device.type for name, value in moments if name != "step"} == {"cuda"}
    assert {value.device.type for name, value in moments if name == "step"} == {"cpu"}  # or every step would wait
    assert {value.device.type for value in state["averaged"].values()} == {"cuda"}
    assert {state[name].device.type for name in ("generator", "dropout", "dropout_gpu")} == {"cpu"}


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("preset", PRESETS)
def test_every_sampler_draws(models, masked, preset, sampler):
    options = DrawOptions(n_samples=3, seed=1, sampler=sampler, n_steps=4, denoise=sampler == "ddim")
    with fake_gpu() as gpu:
        model = loaded(models[preset], masked)
        gpu.n_calls = 0
        samples = model.draw(np.arange(10), options).samples
        assert gpu.n_calls > 100
    assert samples.shape == (3, 10, 16) and np.isfinite(samples).all()


@pytest.mark.parametrize("preset", PRESETS)
def test_a_model_moves_from_one_device_to_the_other(models, masked, preset):
    tissue = Tissue.from_anndata(masked)
    with fake_gpu() as gpu:
        model = loaded(models[preset], masked)
        for device in (torch.device("cpu"), CUDA):
            model.prepare(tissue, device=device)
            gpu.n_calls = 0
            model.draw(np.arange(3), OPTIONS)
            assert devices(model) == {device.type} and (gpu.n_calls > 0) == (device == CUDA)
        model.load_state({name: value.cpu() for name, value in model.state().items()})
        assert devices(model) == {"cuda"}


def left(name):
    """Leave a parameter or buffer of each network on the CPU."""

    def leave(patch):
        to = torch.nn.Module.to

        def most(module, device):
            before = {id(part): dict(part._parameters) | dict(part._buffers) for part in module.modules()}
            to(module, device)
            path, _, last = name.rpartition(".")
            for part in module.modules():
                if hasattr(part, "output") and device == CUDA:
                    owner = part.get_submodule(path)
                    stays = before[id(owner)][last]
                    (owner._parameters if last in owner._parameters else owner._buffers)[last] = stays
            return module

        patch.setattr(torch.nn.Module, "to", most)

    return leave


def unmoved_input(patch):
    """Forget one of the tensors of a training step."""
    around = Neighbourhood.around
    to = Tensor.to

    def mark(self, spots):
        found = around(self, spots)
        shapes.add(found.shape)
        return found

    shapes = set()
    patch.setattr(Neighbourhood, "around", mark)
    patch.setattr(Tensor, "to", lambda self, *rest, **more: self if self.shape in shapes else to(self, *rest, **more))


def unmoved_noise(patch):
    noise = AttentionModel._keyed_noise
    patch.setattr(AttentionModel, "_keyed_noise", lambda self, *key: noise(self, *key).cpu())


def unmoved_level(patch):
    level = Schedule.alpha_bar
    patch.setattr(Schedule, "alpha_bar", lambda self, t, like: torch.atleast_1d(level(self, t, like).cpu()))


def unmoved_condition(patch):
    patch.setattr(TrainingPairs, "to", lambda self, device: self._replace(offset=self.offset.to(device)))


BUFFERS = {"default": ["output.bias", "step.weight"], "paper": ["genes", "step.rates", "encoder.condition.bias"]}
MISTAKES = {
    **{(preset, name): (left(name), {"training", "drawing"}) for preset, names in BUFFERS.items() for name in names},
    ("default", "level"): (unmoved_level, {"training"}),
    ("default", "condition"): (unmoved_condition, {"training"}),
    ("paper", "level"): (unmoved_level, {"training", "drawing"}),
    ("paper", "input"): (unmoved_input, {"training"}),
    ("paper", "noise"): (unmoved_noise, {"drawing"}),
}


@pytest.mark.parametrize(
    "mistake", [(*key, where) for key, (_, found) in MISTAKES.items() for where in sorted(found)], ids="-".join
)
def test_a_tensor_that_was_left_on_the_cpu_is_found(models, masked, tmp_path, mistake):
    """Without this, the tests above might find nothing."""
    preset, name, where = mistake
    with fake_gpu(), pytest.MonkeyPatch.context() as patch:
        MISTAKES[preset, name][0](patch)
        with pytest.raises(RuntimeError, match="same device|two devices|different devices"):
            if where == "drawing":
                model = loaded(models[preset], masked)
                model.draw(np.arange(4), OPTIONS)
            else:
                train(masked, tmp_path / "model", preset)
