"""A pipeline of others that includes the workflow and conf/include.config: images, GPUs and arguments of each step."""

import re

import pytest
import stand_ins

MAIN = """
include {{ STMCDI }} from '{root}/workflows/stmcdi'

process OTHER {{
    output:
    path 'other.txt'

    script:
    'touch other.txt'

    stub:
    'touch other.txt'
}}

workflow {{
    OTHER()
    STMCDI(channel.of([[id: 'whole'], file('left.h5ad')]), false, null, 1, null)
}}
"""
CONFIG = """
includeConfig '{root}/conf/include.config'

params.stmcdi_container = '{image}'
{engine}.enabled = true
process {{
    container = '/images/theirs.sif'
    withName: STMCDI_IMPUTE {{ ext.args = '--target zeros' }}
    withLabel: process_gpu {{ memory = 2.GB }}
}}
"""
OPTION = {"docker": "--gpus all", "apptainer": "--nv"}


@pytest.fixture(scope="module")
def launch(tmp_path_factory):
    """Where Nextflow is called, and in `programs` stand-ins for the engines."""
    folder = tmp_path_factory.mktemp("include")
    (folder / "left.h5ad").touch()
    stand_ins.write(folder, dict.fromkeys(OPTION, stand_ins.ENGINE))
    return folder


@pytest.fixture(scope="module")
def standing(nextflow, launch):
    with nextflow.stay(launch, path=launch / "programs") as standing:
        yield standing


@pytest.fixture
def run(standing, launch, root, tmp_path):
    """Run the pipeline's stubs under an engine; gives each step's line that starts its container, and its folder."""

    def run(engine: str, image: str, *arguments: str):
        (tmp_path / "main.nf").write_text(MAIN.format(root=root))
        (tmp_path / "nextflow.config").write_text(CONFIG.format(root=root, engine=engine, image=image))
        done = standing("-q", "run", tmp_path / "main.nf", "-stub-run", "-w", tmp_path / "work", *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "undefined parameter" not in (launch / ".nextflow.log").read_text()
        launches = {}
        for script in tmp_path.glob("work/*/*/.command.run"):
            name = re.search(r"^### name: '(?:STMCDI:)?(\w+)", script.read_text(), re.M)[1]
            (launches[name],) = re.findall(rf"^.*\b{engine} (?:run|exec) .*", script.read_text(), re.M)
        return launches

    return run


@pytest.mark.parametrize("engine", OPTION)
def test_the_gpu_reaches_the_containers_of_two_steps(run, engine):
    image = "/images/stmcdi.sif" if engine == "apptainer" else "registry.example/stmcdi:2-cpu"
    launches = run(engine, image, "--stmcdi_gpu")
    assert {"OTHER", "STMCDI_NORMALIZE", "STMCDI_TRAIN", "STMCDI_IMPUTE", "STMCDI_REPORT"} <= set(launches)
    for step, launch in launches.items():
        gpu = step in ("STMCDI_TRAIN", "STMCDI_IMPUTE")
        assert (OPTION[engine] in launch) == gpu, launch
        expected = image.replace("-cpu", "-cuda") if gpu else image
        assert (expected if step != "OTHER" else "theirs") in launch, launch


def test_without_a_gpu_there_is_one_image_and_no_option(run):
    launches = run("docker", "registry.example/stmcdi:2-cpu", "--stmcdi_gpu", "false")
    assert not any("--gpus" in launch for launch in launches.values())
    assert {step for step, launch in launches.items() if "stmcdi:2-cpu" not in launch} == {"OTHER"}
