"""Which image a step gets, and what is said before any work where the default image was never built."""

import json

import pytest
import stand_ins

ABSENT = """#!/usr/bin/env bash
# Stands in for a container engine without images.
echo "Error response from daemon: No such image: $3" >&2
exit 1
"""
CPU, CUDA = "localhost/stmcdi:0.1.0-cpu", "localhost/stmcdi:0.1.0-cuda"
ELSE = "in ROOT, or name another by --container"
FILE = "make an image file of it (docs/hpc.md) and name that by --container /path/to/stmcdi.sif"
SAID = {  # engine and device: the images and how to get them
    ("docker", "cpu"): (CPU, f"build it by `make image ENGINE=docker` {ELSE}"),
    ("podman", "cuda"): (f"{CPU}, {CUDA}", f"build it by `make image` and `make image VARIANT=cuda` {ELSE}"),
    ("apptainer", "cpu"): (CPU, FILE),
    ("singularity", "cpu"): (CPU, FILE),
}


@pytest.fixture
def programs(tmp_path):
    return stand_ins.write(tmp_path, dict.fromkeys(("docker", "podman", "singularity", "apptainer"), ABSENT))


def test_an_image_that_was_never_built_ends_the_run_in_one_line(nextflow, root, tmp_path, samplesheet, programs):
    arguments = ["-stub-run", "-profile", "podman,gpu", "--input", samplesheet("A,a.h5ad")]
    done = nextflow(tmp_path, "-q", "run", root, *arguments, path=programs)
    assert (done.returncode, done.stdout) == (2, "")
    images, how = SAID["podman", "cuda"]
    assert done.stderr == f"ERROR: no image {images} on this machine; {how.replace('ROOT', str(root))}\n"
    assert not (tmp_path / "results").exists() and not any((tmp_path / "work").iterdir())


NOT_LOOKED_FOR = {
    "another image": "container: 'registry.example/stmcdi:1'",
    "an image of some steps": f"container: '{CPU}', 'withName:STMCDI_.*': [container: 'registry.example/stmcdi:1']",
    "a cluster's nodes": f"container: '{CPU}', executor: 'slurm'",
}


@pytest.fixture
def found(nextflow, root, tmp_path, programs):
    """What is missing, by engine and device, and then where no image is looked for."""
    calls = [
        *(f"missingImage([process: [container: images]], '{engine}', [device: '{device}'])" for engine, device in SAID),
        *(f"missingImage([process: [{case}]], 'podman', [device: 'cpu'])" for case in NOT_LOOKED_FOR.values()),
    ]
    (tmp_path / "main.nf").write_text(f"""
include {{ missingImage }} from '{root}/workflows/images'

workflow {{
    def images = {{ task.accelerator ? '{CUDA}' : '{CPU}' }}
    println(groovy.json.JsonOutput.toJson([{", ".join(calls)}]))
}}
""")
    done = nextflow(tmp_path, "-q", "run", "main.nf", path=programs)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def test_what_is_missing_and_how_to_get_it(found, tmp_path):
    for said, (images, how) in zip(found[: len(SAID)], SAID.values(), strict=True):
        assert said == f"no image {images} on this machine; {how.replace('ROOT', str(tmp_path))}"
    assert found[len(SAID) :] == [None] * len(NOT_LOOKED_FOR)  # no other image is looked for


IMAGES = {  # arguments: images of the steps without and with a GPU
    ("--container", "registry.example/stmcdi:2-cpu"): (
        "registry.example/stmcdi:2-cpu",
        "registry.example/stmcdi:2-cuda",
    ),
    ("--container", "stmcdi.sif"): ("stmcdi.sif", "stmcdi.sif"),
    ("--gpu_container", "mine"): (CPU, "mine"),
    ("-c", "site.config"): ("theirs", "theirs"),
}


@pytest.fixture(scope="module")
def standing(nextflow, tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    (folder / "site.config").write_text("process.container = 'theirs'\n")
    with nextflow.stay(folder) as standing:
        yield standing


@pytest.mark.parametrize("arguments", IMAGES)
def test_steps_with_a_gpu_get_its_image_and_no_other_step(standing, root, arguments):
    first = [option for option in arguments if arguments[0] == "-c"]
    rest = [option for option in arguments if not first]
    done = standing(*first, "inspect", root, "-profile", "test,docker,gpu", *rest)
    assert done.returncode == 0, done.stdout + done.stderr
    processes = json.loads(done.stdout[done.stdout.index("{") :])["processes"]
    images = {process["name"].rpartition(":")[2]: process["container"] for process in processes}
    without, with_gpu = IMAGES[arguments]
    gpu_steps = ("STMCDI_TRAIN", "STMCDI_IMPUTE")
    assert images == {step: with_gpu if step in gpu_steps else without for step in images}
    assert set(gpu_steps) < set(images)
