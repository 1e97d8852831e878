import inspect
import json
import keyword
import subprocess
import sys
from importlib import import_module

import anndata as ad
import click
import numpy as np
import pytest
import scanpy as sc
from helpers import dense, make_raw, shell

import stmcdi_cli
from stmcdi_cli.cli import main
from stmcdi_cli.cli.group import Step
from stmcdi_cli.steps._presets import PRESETS

COMMANDS = sorted(name for name, command in main.commands.items() if isinstance(command, Step))
NOT_OF_THE_FUNCTION = {  # where a command writes what its function returns
    "evaluate": {"tsv"},
    "run": {"evaluate", "model_dir"},
}


@pytest.mark.parametrize("name", COMMANDS)
def test_options_are_the_functions_parameters_with_the_same_defaults(name):
    module = name.replace("-", "_") + "_" * keyword.iskeyword(name)
    function = getattr(import_module(f"stmcdi_cli.steps.{module}"), module)
    assert getattr(stmcdi_cli, module) is function
    parameters = {
        parameter.name: None if parameter.default is parameter.empty else parameter.default
        for parameter in inspect.signature(function).parameters.values()
        if parameter.kind is parameter.KEYWORD_ONLY
    }
    options = {
        option.name: None if "UNSET" in repr(option.default) else option.default  # Click 8.3 and later say UNSET
        for option in main.commands[name].params
        if isinstance(option, click.Option)
        and option.expose_value  # others are common to all: tests/cli/test_group.py
        and option.name not in NOT_OF_THE_FUNCTION.get(name, ())
    }
    assert options == parameters


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_for_all_and_an_example(name, cli):
    command = main.commands[name]
    assert command.help and all(option.help for option in command.params if isinstance(option, click.Option))
    text = cli(name, "--help").stdout
    assert f"Example:\n    stmcdi {name} " in text
    example = next(line for line in text.splitlines() if line.strip().startswith(f"stmcdi {name} "))
    with main.make_context("stmcdi", example.split()[1:], resilient_parsing=False) as context:
        command.make_context(name, example.split()[2:], parent=context)  # the example parses


def test_help_waits_for_nothing_heavy():
    code = "import sys, stmcdi_cli.cli; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "anndata", "numpy", "scipy", "pandas", "h5py"} & set(loaded)


def test_presets_is_a_group_with_help_and_an_example(cli):
    text = cli("presets", "show", "--help").stdout
    assert f"[{'|'.join(PRESETS)}|FILE]" in text and "stmcdi presets show default > mine.yaml" in text
    assert "show" in cli("presets", "--help").stdout
    for wrong, said in (
        (["presets"], "stmcdi presets: missing command; see stmcdi presets --help"),
        (["presets", "shw"], "stmcdi presets: no such step shw; did you mean show?; stmcdi presets --help lists them"),
    ):
        result = cli(*wrong)
        assert (result.exit_code, result.stderr) == (2, f"{said}\n")


def test_version(cli):
    assert cli("--version").stdout.strip() == f"stmcdi, version {stmcdi_cli.__version__}"


def test_the_steps_in_a_row(cli, tmp_path):
    """Every file opens in scanpy; spots, genes and their order survive; no warning, no stray file."""

    def run(*arguments):
        result = cli(*[tmp_path / a if str(a).endswith(("h5ad", "json")) else a for a in arguments], "-q")
        assert result.exit_code == 0 and result.output == "", result.output

    run("simulate", "raw.h5ad", "--n-spots", 120, "--n-genes", 80, "--n-sections", 2, "--seed", 5)
    run("normalize", "raw.h5ad", "normalized.h5ad")
    run("select-hvg", "normalized.h5ad", "selected.h5ad", "--n-genes", 30)
    run("build-graph", "selected.h5ad", "graph.h5ad", "--section-key", "section")
    run("hold-out", "graph.h5ad", "masked.h5ad", "truth.h5ad")
    raw = sc.read_h5ad(tmp_path / "raw.h5ad")
    for name in ("normalized", "selected", "graph", "masked", "truth"):
        adata = sc.read_h5ad(tmp_path / f"{name}.h5ad")
        assert adata.obs_names.equals(raw.obs_names), name
        assert list(adata.var_names) == [gene for gene in raw.var_names if gene in set(adata.var_names)], name
        assert adata.n_vars == (80 if name == "normalized" else 30)
        np.testing.assert_array_equal(adata.obsm["spatial"], raw.obsm["spatial"])
        assert list(adata.obs["section"]) == list(raw.obs["section"])
    record = adata.uns["stmcdi"]
    assert set(record) == {"simulate", "normalize", "select-hvg", "build-graph", "hold-out"}
    assert all("input_sha256" in entry for step, entry in record.items() if step != "simulate")
    imputed = sc.read_h5ad(tmp_path / "masked.h5ad")
    imputed.layers["imputed"] = dense(imputed.X) + 0.1
    imputed.write_h5ad(tmp_path / "imputed.h5ad")
    run("evaluate", "imputed.h5ad", "truth.h5ad", "metrics.json")
    assert len(list(tmp_path.iterdir())) == 9  # the files named above, and metrics.tsv


def test_scanpy_filters_work_on_a_steps_output(cli, h5ad, raw, tmp_path):
    cli("normalize", h5ad(raw), tmp_path / "out.h5ad")
    adata = sc.read_h5ad(tmp_path / "out.h5ad")
    sc.pp.pca(adata, n_comps=5)
    sc.pp.filter_genes(adata, min_cells=3)
    assert adata.n_obs == raw.n_obs


STEPS = [
    ("normalize", "{input}", "{out}"),
    ("select-hvg", "{input}", "{out}"),
    ("build-graph", "{input}", "{out}"),
    ("hold-out", "{input}", "{out}", "{truth}"),
    ("evaluate", "{input}", "{input}", "{out}"),
]


def filled(step, tmp_path, source):
    names = {"input": source, "out": tmp_path / "out.h5ad", "truth": tmp_path / "truth.h5ad"}
    return [part.format(**names) for part in step]


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step[0])
def test_files_that_are_no_h5ad_are_refused_in_one_line(step, refused, tmp_path):
    (tmp_path / "text.h5ad").write_text("not HDF5")
    assert "not an HDF5 file" in refused(*filled(step, tmp_path, tmp_path / "text.h5ad"))
    assert "no such file; check the path" in refused(*filled(step, tmp_path, tmp_path / "none.h5ad"))
    assert "not an HDF5 file" in refused(*filled(step, tmp_path, tmp_path))


@pytest.mark.parametrize("step", STEPS[:4], ids=lambda step: step[0])
@pytest.mark.parametrize("kind", ["zero spots", "one spot", "duplicate spots", "duplicate genes"])
@pytest.mark.filterwarnings("ignore:.*not unique")
def test_tables_that_cannot_be_are_refused_by_every_step(step, kind, h5ad, refused, tmp_path):
    raw = make_raw()
    if kind.endswith(("spots", "genes")) and kind.startswith("dup"):
        names = ["a", "a", *(f"n{i}" for i in range(100))]
        setattr(raw, *(("obs_names", names[:60]) if "spots" in kind else ("var_names", names[:40])))
    else:
        raw = raw[: 0 if kind.startswith("zero") else 1].copy()
    assert "expected" in refused(*filled(step, tmp_path, h5ad(raw)))


def test_real_processes_end_in_one_line_too(h5ad, tmp_path):
    """What CliRunner cannot see: warnings, tracebacks at exit, text from libraries."""
    raw = make_raw()
    raw.obs_names = ["a"] * raw.n_obs
    raw.write_h5ad(tmp_path / "twice.h5ad")
    (tmp_path / "samples.csv").write_text("sample,h5ad\n")
    (tmp_path / "text.h5ad").write_text("x")
    for arguments in (
        ("normalize", tmp_path / "twice.h5ad", tmp_path / "out.h5ad"),
        ("build-graph", tmp_path / "text.h5ad", tmp_path / "out.h5ad"),
        ("check-samplesheet", tmp_path / "samples.csv", tmp_path / "out.csv"),
    ):
        result = shell(*arguments)
        assert result.returncode == 2, result.stderr
        assert result.stdout == "" and result.stderr.count("\n") == 1, result.stderr
        assert result.stderr.startswith(f"stmcdi {arguments[0]}: ")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["samples.csv", "text.h5ad", "twice.h5ad"]


def test_a_full_disk_is_one_line_and_leaves_the_old_file(tmp_path):
    """A limit on file size stands in for the full disk; HDF5 must not print its errors or crash at exit."""
    (tmp_path / "out.h5ad").write_text("old")
    code = (
        "import resource, signal; from stmcdi_cli.cli import main;"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000));"
        f"main(['simulate', {str(tmp_path / 'out.h5ad')!r}, '--n-spots', '300'])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert result.returncode == 2, result.stderr
    assert result.stderr.count("\n") == 1 and "cannot be written (File too large); free space" in result.stderr
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


def test_an_option_out_of_range_names_the_option_not_the_file(h5ad, raw, refused, tmp_path):
    line = refused("hold-out", h5ad(raw), tmp_path / "a.h5ad", tmp_path / "b.h5ad", "--fraction", "1.5")
    assert line == "stmcdi hold-out: expected `fraction` to lie between 0 and 1, found `1.5`"


def test_too_little_memory_for_the_libraries_takes_one_line(refused, monkeypatch, tmp_path):
    """As under ``ulimit -v``, by which some clusters limit memory."""

    def load(**options):
        raise ImportError("libtorch_cpu.so: failed to map segment from shared object")

    monkeypatch.setattr("stmcdi_cli.steps.simulate.simulate.stream", load)
    line = refused("simulate", tmp_path / "a.h5ad")
    assert "too little memory to load the libraries (libtorch_cpu.so" in line and line.endswith("(ulimit -v unlimited)")


def test_usage_errors_exit_2_and_defects_of_ours_keep_their_traceback(cli, monkeypatch, tmp_path):
    assert cli("normalize").exit_code == 2
    assert cli("no-such-step").exit_code == 2

    def defect(**options):
        raise ZeroDivisionError("ours")

    monkeypatch.setattr("stmcdi_cli.steps.simulate.simulate.stream", defect)
    with pytest.raises(ZeroDivisionError):
        cli("simulate", tmp_path / "a.h5ad")


def test_an_output_is_replaced_only_by_a_whole_one(cli, h5ad, raw, refused, tmp_path):
    out = tmp_path / "out.h5ad"
    assert cli("normalize", h5ad(raw), out).exit_code == 0
    raw.X = raw.X * -1
    refused("normalize", h5ad(raw, "bad.h5ad"), out)
    assert ad.read_h5ad(out).shape == raw.shape


@pytest.fixture(scope="module")
def counts_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("tissue") / "raw.h5ad"
    stmcdi_cli.simulate(n_spots=120, n_genes=60, n_sections=2, seed=3).write_h5ad(path)
    return path


def test_run_does_all_steps_and_scores_them(cli, counts_file, tmp_path):
    out, metrics = tmp_path / "imputed.h5ad", tmp_path / "metrics.json"
    options = ("--section-key", "section", "--n-genes", 20, "--n-samples", 5, "--quiet", "--device", "cpu")
    result = cli("run", counts_file, out, *options, "--evaluate", metrics)
    assert result.exit_code == 0 and result.output == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "imputed.h5ad",
        "imputed.model",
        "imputed.truth.h5ad",
        "metrics.json",
        "metrics.tsv",
    ]
    imputed, raw = sc.read_h5ad(out), sc.read_h5ad(counts_file)
    assert imputed.obs_names.equals(raw.obs_names) and imputed.n_vars == 20
    assert {"normalize", "select-hvg", "build-graph", "hold-out", "impute"} <= set(imputed.uns["stmcdi"])
    hidden = dense(imputed.layers["missing"])
    np.testing.assert_array_equal(dense(imputed.layers["imputed"])[~hidden], dense(imputed.X)[~hidden])
    assert json.loads(metrics.read_text())["n_hidden"] == hidden.sum() > 0


def test_train_then_impute(cli, counts_file, tmp_path):
    steps = tmp_path / "graph.h5ad", tmp_path / "masked.h5ad", tmp_path / "truth.h5ad"
    cli("normalize", counts_file, tmp_path / "n.h5ad")
    cli("build-graph", tmp_path / "n.h5ad", steps[0])
    cli("hold-out", *steps)
    result = cli("train", steps[1], tmp_path / "model", "--epochs", 2, "--quiet", "--device", "cpu")
    assert result.exit_code == 0 and result.output == ""
    options = ("--n-samples", 3, "--quiet", "--device", "cpu")
    result = cli("impute", steps[1], tmp_path / "model", tmp_path / "imputed.h5ad", *options)
    assert result.exit_code == 0 and result.output == ""
    assert "input_sha256" in sc.read_h5ad(tmp_path / "imputed.h5ad").uns["stmcdi"]["impute"]


def test_training_is_refused_before_it_starts(refused, h5ad, raw, tmp_path):
    source = h5ad(raw)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("mine")
    assert "not of a model" in refused("train", source, tmp_path / "notes")
    assert "is a file" in refused("train", source, source)
    assert "no such folder" in refused("train", source, tmp_path / "no" / "model")
    assert "run `stmcdi build-graph` first" in refused("train", source, tmp_path / "model", "--quiet")
    assert "no model folder" in refused("impute", source, tmp_path / "model", tmp_path / "out.h5ad")
