"""The configuration as Nextflow reads it."""

import json
import re
from functools import cache

import pytest
import stand_ins

ENGINES = ["docker", "podman", "singularity", "apptainer", "charliecloud", "conda"]
GPU_OPTION = {
    "docker": "--gpus all",
    "podman": "--device nvidia.com/gpu=all",
    "singularity": "--nv",
    "apptainer": "--nv",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where Nextflow is called, and in `programs` stand-ins for the engines."""
    folder = tmp_path_factory.mktemp("configuration")
    stand_ins.write(folder, dict.fromkeys(GPU_OPTION, stand_ins.ENGINE))
    return folder


@pytest.fixture(scope="module")
def standing(nextflow, folder):
    with nextflow.stay(folder, path=folder / "programs") as standing:
        yield standing


@pytest.fixture(scope="module")
def config(standing, root):
    """Every setting under some profiles, name to value as text."""

    @cache
    def read(profiles: str) -> dict[str, str]:
        done = standing("config", "-flat", "-profile", profiles, root)
        assert done.returncode == 0, done.stdout + done.stderr
        lines = (re.sub(r"@[0-9a-f]+$", "", line) for line in done.stdout.splitlines())  # closures without an address
        return dict(line.split(" = ", 1) for line in lines if " = " in line)

    return read


@pytest.mark.parametrize("engine", ENGINES)
def test_an_engine_switches_the_others_off(config, engine):
    settings = config(engine)
    assert {other: settings[f"{other}.enabled"] for other in ENGINES} == {
        other: str(other == engine).lower() for other in ENGINES
    }


def test_mamba_is_conda_with_another_program(config):
    changed = {name for name, value in config("mamba").items() if config("conda").get(name) != value}
    dated = {name for name in changed if name.endswith((".file", "_suffix"))}
    assert changed - dated == {"conda.useMamba"}


def test_profiles_beside_an_engine(config):
    settings = config("podman,arm64,wave,debug")
    assert settings["podman.runOptions"] == "'--platform=linux/arm64'" and settings["podman.enabled"] == "true"
    assert settings["process.arch"] == "'linux/arm64'" and settings["wave.enabled"] == "true"
    assert settings["dumpHashes"] == "true" and settings["cleanup"] == "false"


@pytest.mark.parametrize("profile", ["standard", "test", "test_full"])
def test_profiles_for_this_machine(config, profile):
    settings = config(profile)
    assert "process.executor" not in settings
    assert ("params.input" in settings and "samplesheet.csv" in settings["params.input"]) == (profile != "standard")


@pytest.mark.parametrize("executor", ["slurm", "k8s", "awsbatch"])
def test_profiles_for_clusters(config, executor):
    settings = config(f"{executor},gpu")
    assert settings["process.executor"] == f"'{executor}'"
    assert settings["params.device"] == "'cuda'"
    assert settings["process.'withName:STMCDI_TRAIN|STMCDI_IMPUTE'.maxForks"] == "0"


def test_gpu_tasks_of_this_machine_wait_for_each_other(config):
    assert config("gpu")["process.'withName:STMCDI_TRAIN|STMCDI_IMPUTE'.maxForks"] == "1"


def test_schema_defaults_are_the_configuration_s(config, root):
    schema = json.loads((root / "nextflow_schema.json").read_text())
    rules = {name: rule for group in schema["$defs"].values() for name, rule in group["properties"].items()}
    settings = {
        name.removeprefix("params."): value for name, value in config("standard").items() if name.startswith("params.")
    }
    assert settings.pop("trace_report_suffix")  # the date
    rules.pop("trace_report_suffix")
    assert settings.keys() == rules.keys()
    for name, rule in rules.items():
        default = rule.get("default")
        expected = f"'{default}'" if isinstance(default, str) else json.dumps(default)
        assert settings[name] == expected, name


def test_every_process_has_a_container(standing, root):
    done = standing("inspect", root, "-profile", "test,docker", "--impute_shards", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    processes = json.loads(done.stdout[done.stdout.index("{") :])["processes"]
    steps = {module.name.upper() for module in (root / "modules/local/stmcdi").glob("*/")}
    assert {process["name"].rpartition("STMCDI_")[2] for process in processes} == steps
    assert {process["container"] for process in processes} == {"localhost/stmcdi:0.1.0-cpu"}


@pytest.mark.parametrize("profile", [*GPU_OPTION, "awsbatch", "test_full"])
def test_stub_run_under_a_profile(standing, root, tmp_path, profile):
    """The profile's settings, with the work done here: of engines and queues nothing but their command line is used.

    Slurm and Kubernetes have tests of their own.
    """
    here = "process { executor = 'local'; queue = null; clusterOptions = null }\n"
    here += "".join(f"{engine}.enabled = false\n" for engine in ENGINES if engine != profile)
    if GPU_OPTION.get(profile) == "--nv":
        here += f"process.container = '{tmp_path}/stmcdi.sif'\n"
    (tmp_path / "here.config").write_text(here)
    # As nf-core's institutions have it: a base with a file that says what the site is.
    (tmp_path / "nfcore_custom.config").write_text("process.afterScript = 'touch institute'\n")
    chosen = profile if profile == "test_full" else f"test,{profile},gpu"
    arguments = ["-stub-run", "-profile", chosen, "-c", tmp_path / "here.config", "--custom_config_base", tmp_path]
    done = standing("-q", "run", root, *arguments, "-w", tmp_path / "work", "--outdir", tmp_path / "results")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "results/tissue/tissue_imputed.h5ad").exists()
    assert len(list(tmp_path.glob("work/*/*/institute"))) == 9
    if profile in GPU_OPTION:
        for script in tmp_path.glob("work/*/*/.command.run"):
            step = re.search(r"^### name: '(?:STMCDI:)?STMCDI_(\w+)", script.read_text(), re.M)[1]
            (launch,) = re.findall(rf"^.*\b{profile} (?:run|exec) .*", script.read_text(), re.M)
            assert (GPU_OPTION[profile] in launch) == (step in ("TRAIN", "IMPUTE")), launch
            assert "CUDA_VISIBLE_DEVICES" in launch
