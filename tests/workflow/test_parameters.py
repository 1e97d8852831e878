"""Parameters in every way they can be given: typed (as text, too), in a file, by a configuration."""

import json
import re

import pytest
import yaml

CHOSEN = {  # every parameter of the schema that is not about this run alone
    "input": "samples.csv", "outdir": "out", "evaluate": True, "save_intermediates": True, "publish_dir_mode": "copy",
    "keep_going": False,
    "layer": "counts", "log": False, "skip_normalize": True, "round": True,
    "hvg_method": "cv", "n_genes": "all", "min_spots": 0.1,
    "graph_method": "radius", "n_neighbors": 4, "radius": 120.5, "n_rings": 2, "fraction": 0.3,
    "preset": "paper", "epochs": 7, "batch_size": 12, "device": "cpu", "target": "zeros", "n_samples": 9,
    "sampler": "ddim", "n_steps": 6, "impute_batch_size": 99, "impute_shards": 2, "seed": 3,
    "container": "ours/stmcdi:1", "gpu_container": "ours/stmcdi:2",
    "queue": "short", "gpu_queue": "gpu", "cluster_options": "--account=lab",
    "gpus_per_task": 2, "gpu_type": "a100", "gpu_options": "--gpus=1", "gpu_forks": 3, "require_gpu": False,
    "config_profile_name": "ours", "config_profile_description": "a site", "config_profile_contact": "us",
    "config_profile_url": "none", "trace_report_suffix": "today",
}  # fmt: skip
LEFT_OUT = {"help", "version", "model", "custom_config_base"} | {
    "reference",
    "reference_genes",
    "n_reference_genes",
    "max_reference_cells",
    "reference_layer",
    "reference_section_key",
}  # those of a reference are given in test_reference.py
WAYS = ["typed", "typed as text", "yaml", "json"]
AS_TEXT = {"NXF_DISABLE_PARAMS_TYPE_DETECTION": "1"}  # what Nextflow does from 26.04 on


def _typed(parameters: dict) -> list[str]:
    words = []
    for name, value in parameters.items():
        text = str(value).lower() if isinstance(value, bool) else str(value)
        words += [f"--{name}"] if value is True else [f"--{name}={text}"]
    return words


@pytest.fixture(scope="module")
def launch(tmp_path_factory):
    """Where Nextflow is called, with an input."""
    folder = tmp_path_factory.mktemp("parameters")
    (folder / "a.h5ad").touch()
    (folder / "samples.csv").write_text("sample,h5ad\nA,a.h5ad\n")
    return folder


@pytest.fixture(scope="module")
def standing(nextflow, launch):
    with nextflow.stay(launch) as standing:
        yield standing


@pytest.fixture(scope="module")
def commands(nextflow, standing, launch, root):
    """ext.args of every step, for each way of giving all parameters."""
    # A stub does not show its ext.args, so a configuration writes them down.
    (launch / "show.config").write_text("process.beforeScript = { \"echo '${task.ext.args}' > args\" }\n")
    (launch / "all.yaml").write_text(yaml.safe_dump(CHOSEN))
    (launch / "all.json").write_text(json.dumps(CHOSEN))
    found = {}
    for way in WAYS:
        given = _typed(CHOSEN) if way.startswith("typed") else ["-params-file", f"all.{way}"]
        folder = launch / way
        words = ["run", root, "-stub-run", "-c", "show.config", "-w", folder, *given]
        done = nextflow(launch, *words, settings=AS_TEXT) if way == "typed as text" else standing(*words)
        assert done.returncode == 0, done.stdout + done.stderr
        (launch / "out").rename(folder / "out")
        assert (folder / "out/A/A_graph.h5ad").exists()  # --save_intermediates
        found[way] = {
            re.search(r"^### name: '(\S+)", script.read_text(), re.M)[1].rstrip("'"): script.with_name(
                "args"
            ).read_text()
            for script in folder.glob("*/*/.command.run")
        }
    return found


def test_every_parameter_of_the_schema_is_given(root):
    schema = json.loads((root / "nextflow_schema.json").read_text())
    assert {name for group in schema["$defs"].values() for name in group["properties"]} == set(CHOSEN) | LEFT_OUT


@pytest.mark.parametrize("way", WAYS[1:])
def test_arguments_are_the_same_however_parameters_are_given(commands, way):
    assert commands[way] == commands["typed"]
    assert commands[way]["STMCDI:STMCDI_SELECT_HVG"] == "--method cv --min-spots 0.1 --n-genes all\n"
    assert commands[way]["STMCDI:STMCDI_NORMALIZE"] == "--layer counts --no-log --skip --round\n"


def test_a_value_typed_as_text_is_checked_by_its_type(nextflow, root, tmp_path, samplesheet):
    given = ["--input", samplesheet("A,a.h5ad"), "--evaluate=true", "--n_genes=0"]
    done = nextflow(tmp_path, "-q", "run", root, *given, settings=AS_TEXT)
    assert (done.returncode, done.stderr) == (2, "ERROR: --n_genes must be at least 1, not 0\n"), done.stdout


SITE = """params {
    max_memory = 64.GB
    max_cpus = 16
    max_time = 48.h
    igenomes_base = '/references'
    project = 'lab'
    schema_ignore_params = 'genomes,modules'
    validation { monochromeLogs = true }
    config_profile_name = 'Site'
    config_profile_description = 'Our cluster'
    config_profile_contact = 'us'
    config_profile_url = 'none'
}
params.validationSchemaIgnoreParams = 'project'
"""


@pytest.mark.parametrize("way", ["custom_config_base", "-c", "pipeline"])
def test_parameters_of_a_site_s_configuration_are_ignored_if_unknown(standing, root, tmp_path, way):
    arguments = ["--custom_config_base", tmp_path]
    (tmp_path / "nfcore_custom.config").write_text(SITE if way == "custom_config_base" else "")
    if way == "-c":
        (tmp_path / "site.config").write_text(SITE)
        arguments = ["-c", tmp_path / "site.config"]
    elif way == "pipeline":
        (tmp_path / "conf/pipeline").mkdir(parents=True)
        (tmp_path / "conf/pipeline/site.config").write_text(SITE)
        (tmp_path / "nfcore_custom.config").write_text(
            'profiles { site { includeConfig "${params.custom_config_base}/conf/pipeline/site.config" } }\n'
        )
        arguments += ["-profile", "site"]
    arguments += ["--input", "samples.csv", "--cluster_options=--project=lab --max_cpus=2"]
    done = standing("run", root, "-preview", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr


def test_unknown_parameters_that_are_chosen_are_refused(nextflow, root, tmp_path, samplesheet):
    (tmp_path / "site.config").write_text(SITE)
    (tmp_path / "chosen.json").write_text('{"max_cpus": 4}')
    given = ["--input", samplesheet("A,a.h5ad"), "-params-file", "chosen.json"]
    done = nextflow(tmp_path, "-q", "run", root, "-preview", "-c", "site.config", *given)
    assert done.returncode == 2
    assert done.stderr.startswith("ERROR: unknown parameter --max_cpus; the nearest is --")


COMMANDS = {  # how Nextflow was called: the parameters that were chosen by it
    "run . --max_cpus 4 --seed=1 -resume": ["max_cpus", "seed"],
    "run . -params-file chosen.json": ["max_cpus", "input"],
    "run . -params-file=chosen.yml --epochs '3'": ["epochs", "max_cpus", "input"],
    "run . -params-file absent.yml --a.b 1": ["a"],
    "run . -params-file flow.yml": ["max_cpus", "input"],
    "run . -params-file empty.yml --seed 1": ["seed"],
    "run . -params-file our own.yml --seed 1": ["seed", "max_cpus", "input"],
    "run . -params-file=our own.yml": ["max_cpus", "input"],
    "run . --cluster_options=--project=lab --max_cpus=2": ["cluster_options"],
}


def test_parameters_are_chosen_on_the_command_line_and_in_a_file(nextflow, root, tmp_path):
    (tmp_path / "chosen.json").write_text(json.dumps({"max_cpus": 4, "input": "a"}))
    (tmp_path / "chosen.yml").write_text("# ours\nmax_cpus: 4\n'input': a\n")
    (tmp_path / "flow.yml").write_text("{max_cpus: 4, input: a}\n")
    (tmp_path / "empty.yml").write_text("# nothing\n")
    (tmp_path / "our own.yml").write_text("# indented\n  max_cpus: 4\n  input: a\n")
    (tmp_path / "main.nf").write_text(f"""
include {{ chosenParameters }} from '{root}/workflows/parameters'

workflow {{
    def params = [cluster_options: '--project=lab --max_cpus=2']
    def commands = {json.dumps(list(COMMANDS))}
    println(groovy.json.JsonOutput.toJson(commands.collect {{ command -> chosenParameters(params, command) }}))
}}
""")
    done = nextflow(tmp_path, "-q", "run", "main.nf")
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout) == list(COMMANDS.values())
