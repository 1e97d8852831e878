"""Options from a file (``--config``)."""

import click
import pytest

from stmcdi_cli.cli import main
from stmcdi_cli.cli.config import load_config


@pytest.fixture
def config(tmp_path):
    def write(text):
        (tmp_path / "options.yaml").write_text(text)
        return tmp_path / "options.yaml"

    return write


def parameters(path, step):
    import anndata as ad

    return ad.read_h5ad(path).uns["stmcdi"][step]["parameters"]


def test_options_come_from_a_file_and_the_command_line_wins(cli, config, tmp_path):
    file = config("seed: 5\nepochs: 3\nsimulate:\n  n-spots: 40\n  n_genes: 30\n  rates: false\ntrain:\n  seed: 9\n")
    out = tmp_path / "a.h5ad"
    assert cli("simulate", out, "--config", file, "--n-genes", 20).exit_code == 0
    found = parameters(out, "simulate")
    assert (found["seed"], found["n_spots"], found["n_genes"], found["rates"]) == (5, 40, 20, False)


def test_the_steps_own_section_wins_over_the_top(cli, config, tmp_path):
    file = config("simulate:\n  seed: 7\nseed: 5\nn-spots: 40\n")
    assert cli("simulate", tmp_path / "a.h5ad", "--config", file).exit_code == 0
    assert parameters(tmp_path / "a.h5ad", "simulate")["seed"] == 7


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sed: 1\n", "no step has an option sed; did you mean seed?"),
        ("no-log: true\n", "no step has an option no-log; write log: false"),
        ("simulate:\n  no-rates: true\n", "simulate has no option no-rates; write rates: false"),
        ("simulate:\n  n-spot: 1\n", "simulate has no option n-spot; did you mean n-spots?"),
        ("- seed\n", "expected options with values, found list"),
        ("seed: [\n", "cannot be read as YAML"),
        ("seed: {a: 1}\n", "expected a value for seed, found a mapping"),
        ("seed: many\n", "invalid value for '--seed': 'many' is not a valid integer"),
        ("config: other.yaml\n", "no step has an option config"),
        ("epochs: 3\n", "simulate has no option epochs; if it is for train, write it under train:"),
        ("seed:\n", "expected a value for seed, found none; give one, or leave it out"),
        ("simulate: {n-genes: }\n", "expected a value for n-genes, found none"),
        ("n-genes: 3\nn_genes: 4\n", "n-genes is given twice; leave one out"),
        ("seed: 3\nseed: 4\n", "cannot be read as YAML (the key seed is there twice); correct it"),
    ],
)
def test_a_wrong_file_is_refused(text, said, config, refused, tmp_path):
    assert said in refused("simulate", tmp_path / "a.h5ad", "--config", config(text))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("epochs: 3\n", "run has no option epochs; leave it out, or use the steps one by one"),
        ("train:\n  epochs: 3\n", "run takes no options of train; leave it out, or use the steps one by one"),
        ("normalize:\n  layer: counts\n", "run takes no options of normalize; leave it out"),
    ],
)
def test_options_of_the_steps_have_no_effect_on_run(text, said, config, refused, tmp_path):
    assert said in refused("run", tmp_path / "a.h5ad", tmp_path / "b.h5ad", "--config", config(text))


def test_an_absent_file_is_refused(refused, tmp_path):
    line = refused("simulate", tmp_path / "a.h5ad", "--config", tmp_path / "none.yaml")
    assert "none.yaml: no such file; check the path" in line


def test_a_list_is_what_one_types_between_commas(config):
    for step, option, expected in (("impute", "layers", "a,b"), ("join", "name", ["a", "b"])):
        ctx = click.Context(main.commands[step], parent=click.Context(main))
        load_config(ctx, None, config(f"{step}:\n  {option}: [a, b]\n"))
        assert list(ctx.default_map.values()) == [expected]
