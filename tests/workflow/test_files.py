"""What can be said of the workflow's files without running it."""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import click
import jsonschema
import pytest
import yaml

from stmcdi_cli import __version__
from stmcdi_cli.cli import main
from stmcdi_cli.steps._presets import PRESETS

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted(path for path in (ROOT / "modules/local/stmcdi").iterdir() if path.is_dir())
SCHEMA = json.loads((ROOT / "nextflow_schema.json").read_text())
PARAMETERS = {name: rule for group in SCHEMA["$defs"].values() for name, rule in group["properties"].items()}

OPTION_OF = {  # parameter: command and option
    "n_reference_genes": ("add-reference", "n_genes"),
    "max_reference_cells": ("add-reference", "max_reference_cells"),
    "reference_layer": ("add-reference", "reference_layer"),
    "reference_section_key": ("add-reference", "reference_section_key"),
    "layer": ("normalize", "layer"),
    "log": ("normalize", "log"),
    "skip_normalize": ("normalize", "skip"),
    "round": ("normalize", "round"),
    "hvg_method": ("select-hvg", "method"),
    "n_genes": ("select-hvg", "n_genes"),
    "min_spots": ("select-hvg", "min_spots"),
    "graph_method": ("build-graph", "method"),
    "n_neighbors": ("build-graph", "n_neighbors"),
    "radius": ("build-graph", "radius"),
    "n_rings": ("build-graph", "n_rings"),
    "fraction": ("hold-out", "fraction"),
    "preset": ("train", "preset"),
    "epochs": ("train", "epochs"),
    "batch_size": ("train", "batch_size"),
    "device": ("train", "device"),
    "target": ("impute", "target"),
    "n_samples": ("impute", "n_samples"),
    "sampler": ("impute", "sampler"),
    "n_steps": ("impute", "n_steps"),
    "impute_batch_size": ("impute", "batch_size"),
    "seed": ("train", "seed"),
}


def test_schemas_are_valid():
    for path in (ROOT / "nextflow_schema.json", ROOT / "assets/schema_input.json"):
        jsonschema.Draft202012Validator.check_schema(json.loads(path.read_text()))


def test_schema_takes_its_own_defaults():
    defaults = {name: rule["default"] for name, rule in PARAMETERS.items() if "default" in rule}
    jsonschema.validate(defaults | {"input": "samples.csv"}, SCHEMA)


def test_every_group_is_in_allOf():
    assert [entry["$ref"] for entry in SCHEMA["allOf"]] == [f"#/$defs/{group}" for group in SCHEMA["$defs"]]


@pytest.mark.parametrize("parameter", OPTION_OF)
def test_parameters_agree_with_the_command_line(parameter: str):
    command, name = OPTION_OF[parameter]
    option = next(option for option in main.commands[command].params if option.name == name)
    rule = PARAMETERS[parameter]
    assert rule.get("default") == (option.default if isinstance(option.default, str | int | float) else None)
    if isinstance(option.type, click.Choice):
        assert rule["enum"] == list(option.type.choices)


def test_the_schema_names_every_preset():
    assert all(name in PARAMETERS["preset"]["description"] for name in PRESETS)


def test_bundled_samplesheet_fits_its_schema():
    with open(ROOT / "assets/test/samplesheet.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    jsonschema.validate(rows, json.loads((ROOT / "assets/schema_input.json").read_text()))


@pytest.mark.parametrize("name", ["a b", "../a", "-a", "", "a;b"])
def test_samplesheet_schema_refuses_unsafe_names(name: str):
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(
            [{"sample": name, "h5ad": "a.h5ad"}], json.loads((ROOT / "assets/schema_input.json").read_text())
        )


def test_one_module_per_step():
    assert [module.name for module in MODULES] == [
        "add_reference", "build_graph", "check_samplesheet", "evaluate", "hold_out", "impute", "join", "merge",
        "normalize", "report", "select_hvg", "train",
    ]  # fmt: skip


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.name)
def test_module(module: Path):
    text = (module / "main.nf").read_text()
    meta = yaml.safe_load((module / "meta.yml").read_text())
    assert re.findall(r"^process (\w+) {$", text, re.M) == [f"STMCDI_{module.name.upper()}"]
    assert re.search(r"^    stub:$", text, re.M) and re.search(r"^    script:$", text, re.M)
    assert f"stmcdi {module.name.replace('_', '-')} " in text
    options = {name for option in main.commands[module.name.replace("_", "-")].params for name in option.opts}
    assert ("--memory-limit ${task.memory" in text) == ("--memory-limit" in options)
    assert ("path checkpoints" in text) == bool(options & {"--checkpoint", "--parts"})
    assert "params." not in text and "when:" not in text
    assert meta["name"] == f"stmcdi_{module.name}"
    assert set(meta["output"]) == set(re.findall(r"emit: (\w+)", text))


def test_one_version_everywhere():
    assert f"version         = '{__version__}'" in (ROOT / "nextflow.config").read_text()
    assert PARAMETERS["container"]["default"] == f"localhost/stmcdi:{__version__}-cpu"
    assert f'ARG VERSION="{__version__}"' in (ROOT / "containers/Containerfile").read_text()


def test_scripts_and_configurations_keep_to_the_strict_syntax(tmp_path: Path):
    jars = Path(sys.prefix) / "share/strict-syntax"
    if not jars.is_dir():
        pytest.skip("STRICT SYNTAX NOT CHECKED: no parser; run `tools/install-test-programs.sh strict-syntax`")
    files = [path for part in ("*.nf", "*.config") for path in sorted(ROOT.glob(part))]
    files += [path for folder in ("conf", "modules", "workflows") for path in sorted((ROOT / folder).rglob("*.*"))]
    files = [path for path in files if path.suffix in (".nf", ".config")]
    loose = tmp_path / "loose.nf"
    loose.write_text("workflow {}\nx = 1\n")  # what a parser at work finds
    command = ["java", "-cp", f"{jars}/*", ROOT / "tools/strict-syntax/StrictSyntax.java", *files, loose]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    # This parser knows no inputs of a process in closures of a configuration, which Nextflow 25.04.5 mended.
    faults = [line for line in done.stdout.splitlines() if not line.endswith(": `meta` is not defined")]
    assert [line.partition(": ")[0] for line in faults] == [f"{loose}:2"], faults


def test_hadolint_finds_no_fault_in_the_containerfile():
    hadolint = Path(sys.executable).with_name("hadolint")
    if not hadolint.exists():
        pytest.skip("CONTAINERFILE NOT CHECKED: no hadolint in this environment; run `make env`")
    done = subprocess.run([hadolint, ROOT / "containers/Containerfile"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


def test_conda_environment_holds_the_dependencies():
    import tomllib

    def name(requirement: str) -> str:
        return re.match(r"[A-Za-z0-9_-]+", requirement).group().replace("pytorch", "torch").removesuffix("-base")

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    environment = yaml.safe_load((ROOT / "containers/environment.yml").read_text())["dependencies"]
    assert {name(entry) for entry in project["dependencies"]} <= {name(e) for e in environment if isinstance(e, str)}
