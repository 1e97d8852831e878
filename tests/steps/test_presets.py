"""Presets: every setting is described, a file changes what it names and nothing else, mistakes are one line."""

import inspect
from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from helpers import model_files

import stmcdi_cli as stmcdi
from stmcdi_cli.errors import OptionError
from stmcdi_cli.model import save_load
from stmcdi_cli.model.attention.denoiser import Denoiser
from stmcdi_cli.model.diffusion.schedule import Schedule
from stmcdi_cli.model.latent.diffusion import LatentDenoiser
from stmcdi_cli.model.latent.factor_model import SpatialFactorModel
from stmcdi_cli.model.save_load import build
from stmcdi_cli.model.training.trainer import Training
from stmcdi_cli.steps._presets import PRESETS, preset_as_yaml, read_preset
from stmcdi_cli.steps._settings import SETTINGS

DOCS = Path(__file__).parents[2] / "docs"


def flat(config):
    return {f"{section}.{name}" for section, part in config.items() if isinstance(part, dict) for name in part}


def arguments(of):
    return set(inspect.signature(of).parameters)


@pytest.fixture
def mine(tmp_path):
    """Write a file of settings."""

    def write(text, name="mine.yaml"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


@pytest.fixture(scope="module")
def tissue():
    counts = stmcdi.simulate(n_spots=40, n_genes=16, depth=300, seed=3)
    return stmcdi.build_graph(stmcdi.normalize(counts))


def test_the_table_has_what_the_models_take():
    training = {field.name for field in fields(Training)}
    for variant, settings in SETTINGS.items():
        without = {"latent": {"patience", "validate_every"}, "attention": set()}[variant]  # it is not stopped early
        assert {key[9:] for key in settings if key.startswith("training.")} - {"spots", "updates"} == training - without
        assert {key[10:] for key in settings if key.startswith("diffusion.")} == arguments(Schedule)
    latent, attention = SETTINGS["latent"], SETTINGS["attention"]
    assert {key[8:] for key in attention if key.startswith("network.")} == arguments(Denoiser) - {"n_genes", "expects"}
    assert {key[8:] for key in latent if key.startswith("network.")} == arguments(LatentDenoiser) - {"rank", "steps"}
    encoder = {key[8:] for key in latent if key.startswith("encoder.")}
    assert encoder - {"links", "sweeps"} == arguments(SpatialFactorModel) - {"link"}
    may_be_null = {field.name for field in fields(Training) if "None" in str(field.type)} | {"spots"}
    assert {key[9:] for key, setting in (latent | attention).items() if "null" in setting.needs} == may_be_null


@pytest.mark.parametrize("variant", SETTINGS)
def test_every_setting_is_in_the_documentation(variant):
    text = (DOCS / "steps" / "presets.md").read_text("utf-8")
    assert not [key for key in SETTINGS[variant] if f"`{key}`" not in text]


@pytest.mark.parametrize("name", PRESETS)
def test_what_is_shown_is_the_preset_itself(name, mine):
    path = mine(preset_as_yaml(name))
    shown, built_in = read_preset(path), read_preset(name)
    assert flat(built_in) <= set(SETTINGS[built_in["variant"]])
    assert repr(shown | {"preset": name}) == repr(built_in)  # the same types and order
    assert built_in["preset"] == name and shown["preset"] == "mine.yaml"
    again = mine(preset_as_yaml(path), "again.yaml")
    assert repr(read_preset(again) | {"preset": name}) == repr(built_in)


@pytest.mark.parametrize("name", PRESETS)
def test_what_is_shown_trains_the_same_model(name, tissue, mine, tmp_path):
    path = mine(preset_as_yaml(name))
    for folder, preset in (("built-in", name), ("mine", path)):
        stmcdi.train(tissue, tmp_path / folder, preset=preset, epochs=1, device="cpu", quiet=True)
    one, other = model_files(tmp_path / "built-in"), model_files(tmp_path / "mine")
    assert one["config.yaml"].replace(f"preset: {name}\n".encode(), b"preset: mine.yaml\n") == other["config.yaml"]
    del one["config.yaml"], other["config.yaml"]
    assert one == other


def test_settings_of_a_file_are_in_the_model_s_folder(tissue, mine, tmp_path):
    path = mine("network: {width: 8}\nencoder: {links: [log]}\ntraining: {updates: 2, lr: 1e-3, clip_norm: null}\n")
    stmcdi.train(tissue, tmp_path / "model", preset=path, device="cpu", quiet=True)
    model = save_load.load(tmp_path / "model")
    assert model.config["preset"] == "mine.yaml" and model.config["network"]["width"] == 8
    assert model.config["training"]["lr"] == 1e-3 and model.training.clip_norm is None
    assert model.branches[0].network.input.out_features == 8 and len(model.branches) == 1
    imputed = stmcdi.impute(tissue, model, n_samples=2, device="cpu", quiet=True)
    noted = {step: imputed.uns["stmcdi"][step]["parameters"] for step in ("train", "impute")}
    assert noted["train"]["variant"] == "latent" and noted["impute"]["preset"] == "mine.yaml"


BASES = {  # what a file says: preset that it changes
    "training: {lr: 1}": "default",
    "preset: paper": "paper",
    "variant: latent": "default",
    "variant: attention": "paper",
    "preset: paper\nvariant: attention": "paper",
}


@pytest.mark.parametrize("text", BASES)
def test_what_a_file_leaves_out_comes_from_its_base(text, mine):
    found, base = read_preset(mine(text)), read_preset(BASES[text])
    if "lr" in text:
        base["training"]["lr"] = 1.0
    assert repr(found) == repr(base | {"preset": "mine.yaml"})


def test_updates_of_a_file_replace_the_epochs_of_its_preset(mine):
    settings = read_preset(mine("preset: paper\ntraining: {updates: 500}"))
    assert settings["training"]["updates"] == 500 and "epochs" not in settings["training"]
    assert read_preset("paper")["training"]["epochs"] == 2000


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("length", ["updates", "epochs"])
def test_a_shown_file_with_another_length_can_be_read_again(name, length, mine):
    settings = read_preset(mine(f"preset: {name}\ntraining: {{{length}: 7}}"))
    assert {key: settings["training"].get(key) for key in ("updates", "epochs")} == {
        "updates": None, "epochs": None, length: 7,
    }  # fmt: skip
    again = mine(preset_as_yaml(mine(f"preset: {name}\ntraining: {{{length}: 7}}")), "again.yaml")
    assert read_preset(again) == settings | {"preset": "again.yaml"}
    assert build({**settings, "seed": 0, "scale": "log1p"}, ("a", "b")).training.epochs == (length == "epochs") * 7


def test_a_file_as_windows_writes_it_is_read(mine):
    path = mine(b"\xef\xbb\xbfpreset: attention\r\ntraining:\r\n  lr: 1e-4\r\n")
    assert read_preset(path)["training"]["lr"] == 1e-4


def test_numbers_are_read_in_the_type_of_the_setting(mine):
    text = "training: {lr: 1e-3, batch_size: 1e2, weight_decay: 0, clip_norm: 2, lr_drops: [[0.5, 1e-4], [1, 1e-5]]}"
    training = read_preset(mine(text))["training"]
    assert (training["lr"], training["batch_size"], training["weight_decay"]) == (0.001, 100, 0.0)
    assert [type(training[name]) for name in ("lr", "batch_size", "weight_decay", "clip_norm")] == [
        float, int, float, float,
    ]  # fmt: skip
    assert training["lr_drops"] == [[0.5, 1e-4], [1.0, 1e-5]]


def test_a_file_named_as_a_preset_is_told_apart(mine, tmp_path, monkeypatch):
    mine("training: {lr: 0.5}", "paper")
    monkeypatch.chdir(tmp_path)
    assert read_preset("paper")["variant"] == "attention"
    for path in ("./paper", Path("paper")):
        assert read_preset(path)["preset"] == "./paper" and read_preset(path)["training"]["lr"] == 0.5


UNKNOWN = {
    "training: {learning_rate: 1e-3}": "training.learning_rate is no setting; did you mean training.lr?",
    "training: {bach_size: 3}": "training.bach_size is no setting; did you mean training.batch_size?",
    "network: {lr: 1}": "network.lr is no setting; did you mean training.lr?",
    "lr: 1": "lr is no setting; did you mean training.lr?",
    "traning: {lr: 1}": "traning is no setting; did you mean training?",
    "training.lr: 1": "training.lr stands at the top; write lr below training:",
    "network: {heads: 2}": "network.heads is no setting of the variant latent, but of attention; name the preset to "
    "change, as in `preset: paper`",
    "preset: paper\nencoder: {rank: 3}": "encoder.full_depth is missing; this preset has no encoder of its own, "
    "so give all of it",
    "trainng: {epochs: 1}": "trainng is no setting; did you mean training?",
    "zzz: {a: 1}": "zzz is no setting; `stmcdi presets show default` prints those there are",
    "training: {1: 1}": "training.1 is no setting; `stmcdi presets show default` prints those there are",
    "preset: deflaut": "expected preset to be one of default, attention, paper, found `deflaut`; did you mean default?",
    "preset: [paper]": "expected preset to be one of default, attention, paper, found `['paper']`; did you mean paper?",
    "variant: latnet": "expected variant to be one of latent, attention, found `latnet`; did you mean latent?",
    "preset: default\nvariant: attention": "expected variant to be latent, that of the preset default, found "
    "`attention`; leave it out",
    "training: 3": "expected training to have settings below it, found `3`; correct it",
    "training:": "expected training to have settings below it, found `null`; correct it",
    "training: {epochs: 3, updates: 30}": "found training.epochs beside training.updates, which it would make void; "
    "give one",
}  # fmt: skip


@pytest.mark.parametrize("text", UNKNOWN)
def test_a_setting_that_does_not_exist_names_the_nearest(text, mine):
    path = mine(text)
    with pytest.raises(OptionError) as error:
        read_preset(path)
    assert str(error.value) == f"preset {path}: {UNKNOWN[text]}"


VALUES = {  # setting: values that it refuses, beside text
    "encoder.links": ["linear", "[]", "[gaussian]", "[log, log]", "[[log]]"],
    "encoder.rank": ["0", "1.5", "true", "null", "1001"],
    "diffusion.T": ["1", "10001"],
    "diffusion.beta_1": ["0", "1", ".nan"],
    "network.dropout": ["1", "-0.1"],
    "masking.hidden": ["0.5", "[0.5]", "[0.6, 0.5]", "[0, 0]", "[0.5, 1.1]", "[a, b]"],
    "training.lr": ["0", "-1e-3", ".inf", "1e999", "2020-01-01", "{a: 1}"],
    "training.batch_size": ["0", "2.5", "1e400", "0x" + "f" * 5000],
    "training.lr_schedule": ["linear", "[cosine]"],
    "training.lr_drops": ["0.5", "[0.5, 1e-3]", "[[0.5, 1e-3], [0.5, 1e-4]]", "[[2, 1e-3]]", "[[0.5, 0]]", "null"],
    "training.clip_norm": ["0", "false"],
    "training.spots": ["9"],
}


@pytest.mark.parametrize("key", VALUES)
def test_a_wrong_value_is_refused_with_what_is_needed(key, mine):
    section, name = key.split(".")
    for value in [*VALUES[key], "fast", "''"]:
        path = mine(f"{section}:\n  {name}: {value}\n")
        with pytest.raises(OptionError) as error:
            read_preset(path)
        line = str(error.value)
        needs = SETTINGS["latent"][key].needs
        assert line.startswith(f"preset {path}: expected {key} to be {needs}, found ") and len(line) < 400 + len(
            str(path)
        )


CONFLICTS = {
    "diffusion: {beta_1: 0.6}": "diffusion.beta_1 to be at most diffusion.beta_T, found `0.6` and `0.5`",
    "diffusion: {T: 1000}": "diffusion.T steps to leave at least 1e-08 of the data's variance, found `",
    "preset: paper\nnetwork: {heads: 5}": "network.heads to divide network.channels, found `5` and `32`",
    "preset: paper\nnetwork: {step_embedding: 7}": "network.step_embedding to be an even whole number",
}


@pytest.mark.parametrize("text", CONFLICTS)
def test_settings_that_do_not_fit_each_other_are_refused(text, mine):
    path = mine(text)
    with pytest.raises(OptionError) as error:
        read_preset(path)
    assert str(error.value).startswith(f"preset {path}: expected {CONFLICTS[text]}")


FILES = {
    "": "expected settings, found none",
    "# nothing\n": "expected settings, found none",
    "- lr\n": "expected settings with values, found list",
    "fast": "expected settings with values, found str",
    "training: [\n": "cannot be read as YAML",
    "training: {lr: 1}\ntraining: {lr: 2}\n": "cannot be read as YAML (the key training is there twice)",
    "training: {lr: 1, lr: 2}\n": "cannot be read as YAML (the key lr is there twice)",
    "training: !!python/object/apply:os.system [ls]\n": "cannot be read as YAML",
    "training: &a {lr: 1}\nnetwork: *a\n": "cannot be read as YAML",
    b"training: \xff": "expected UTF-8 text",
    b"\x00\x01": "cannot be read as YAML",
}


@pytest.mark.parametrize("content", FILES, ids=lambda content: repr(content)[:30])
def test_what_is_no_file_of_settings_is_refused_in_one_line(content, mine, cli, refused):
    path = mine(content)
    assert f"stmcdi presets: preset {path}: {FILES[content]}" in refused("presets", "show", path)


def test_a_name_that_is_none_names_those_there_are(refused, tmp_path):
    line = refused("presets", "show", "papr")
    listed = ", ".join(PRESETS)
    assert line == (
        f"stmcdi presets: expected `preset` to be one of {listed} or a YAML file, found `papr`, and there is no such "
        "file; did you mean paper?"
    )
    assert "no such file" in refused("presets", "show", tmp_path / "none.yaml")
    assert "cannot be read as YAML (Is a directory)" in refused("presets", "show", tmp_path)
    for preset in (None, 3, "a\0b", "a" * 5000):
        with pytest.raises(OptionError, match="there is no such file"):
            read_preset(preset)


def test_training_and_run_refuse_before_any_work(tissue, mine, refused, h5ad):
    path = mine("training: {learning_rate: 1e-3}")
    source = h5ad(tissue)
    folder = path.parent
    for command in (
        ("train", source, folder / "model", "--preset", path),
        ("run", source, folder / "out.h5ad", "--preset", path),
    ):
        said = f"preset {path}: training.learning_rate is no setting; did you mean training.lr?"
        assert refused(*command) == f"stmcdi {command[0]}: {said}"


def test_a_checkpoint_of_other_settings_is_not_gone_on_from(tissue, mine, tmp_path, caplog, monkeypatch):
    from stmcdi_cli.errors import Stopped
    from stmcdi_cli.model.training.checkpoint import Checkpoint

    def stop(self, *state):
        self.write()
        raise Stopped("stopped", 143)

    options = {"epochs": 1, "device": "cpu"}
    path = mine("training: {lr: 1e-3}")
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr("stmcdi_cli.model.training.checkpoint.Stage.save", lambda self, state: stop(self.checkpoint))
        stmcdi.train(tissue, tmp_path / "model", preset=path, quiet=True, **options)
    assert Checkpoint(tmp_path / ".model.checkpoint").path.exists()
    mine("training: {lr: 2e-3}")
    stmcdi.train(tissue, tmp_path / "model", preset=path, **options)
    assert "is of other data, settings or software" in caplog.text


def test_show_prints_a_file_with_all_its_settings(cli, mine):
    path = mine("preset: paper\ntraining: {ema_decay: 0.5}\n")
    shown = cli("presets", "show", path)
    assert shown.exit_code == 0 and shown.stderr == ""
    content = yaml.safe_load(shown.stdout)
    assert content.pop("preset") == "paper" and content["training"]["ema_decay"] == 0.5
    assert read_preset(path) == content | {"preset": "mine.yaml"}
