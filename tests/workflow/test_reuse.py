"""What other pipelines and later runs rely on: includes, site configurations, -resume, shards, groups, models."""

import csv
import re
from collections.abc import Callable
from pathlib import Path

import anndata
import numpy as np
import pytest
import stand_ins
import yaml
from helpers import dense, same_results, untimed

ARGUMENTS = ["-profile", "test", "--input", "samples.csv", "--n_genes", "40", "--epochs", "3", "--target", "zeros"]
ALL_STEPS = [
    "BUILD_GRAPH", "CHECK_SAMPLESHEET", "EVALUATE", "HOLD_OUT", "IMPUTE", "NORMALIZE", "REPORT", "SELECT_HVG", "TRAIN",
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(stmcdi, tmp_path_factory) -> Path:
    """Two tissues: one by itself, and the samplesheets that the tests need."""
    folder = tmp_path_factory.mktemp("reuse")
    for name, seed in (("left", 1), ("right", 2)):
        stmcdi(folder, "simulate", f"{name}.h5ad", "--n-spots", 100, "--n-genes", 60, "--depth", 600, "--seed", seed)
    (folder / "samples.csv").write_text("sample,h5ad\nleft,left.h5ad\n")
    (folder / "group.csv").write_text("sample,h5ad,group\nright,right.h5ad,brain\nleft,left.h5ad,brain\n")
    (folder / "right.csv").write_text("sample,h5ad\nright,right.h5ad\n")
    return folder


SLURM = {
    "sbatch": """#!/usr/bin/env bash
# Stands in for Slurm: runs the job at once.
bash "${@: -1}" >/dev/null 2>&1
echo "Submitted batch job $$"
""",
    "squeue": "#!/bin/sh\n",
    "scancel": "#!/bin/sh\n",
}


@pytest.fixture(scope="module")
def standing(nextflow, folder):
    """Nextflow in that folder, with programs that stand in for Slurm's."""
    with nextflow.stay(folder, path=stand_ins.write(folder, SLURM)) as standing:
        yield standing


@pytest.fixture(scope="module")
def run(standing, root, folder) -> Callable[..., list[str]]:
    """Run the workflow into an outdir; gives the steps that were not taken from the cache."""

    def run(outdir: str, *arguments: object) -> list[str]:
        done = standing("run", root, *ARGUMENTS, "--outdir", outdir, *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        trace = max((folder / outdir / "pipeline_info").glob("execution_trace_*.txt"))
        with open(trace, newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
        assert {row["status"] for row in rows} <= {"COMPLETED", "CACHED"}
        return sorted(row["name"].split()[0].rpartition("STMCDI_")[2] for row in rows if row["status"] != "CACHED")

    return run


@pytest.fixture(scope="module")
def whole(run, folder) -> Path:
    assert run("whole") == ALL_STEPS
    return folder / "whole"


def test_five_shards_are_as_one(run, whole, folder):
    assert run("five", "--impute_shards", 5, "-resume") == ["EVALUATE", *["IMPUTE"] * 5, "MERGE", "REPORT"]
    same_results(folder / "five", whole)
    ours, theirs = (
        untimed(anndata.read_h5ad(outdir / "left/left_imputed.h5ad")) for outdir in (whole, folder / "five")
    )
    np.testing.assert_equal(ours, theirs)
    assert {path.name for path in (folder / "five/left").glob("*.h5ad")} == {"left_imputed.h5ad", "left_truth.h5ad"}


def test_resume_after_a_change_of_resources_reruns_nothing(run, whole, folder):
    (folder / "more.config").write_text(
        "process { memory = 3.GB; time = 2.h; withLabel: process_gpu { cpus = 1 }\n"
        "    withName: 'STMCDI_TRAIN|STMCDI_IMPUTE' { maxForks = 2; maxRetries = 5; queue = 'other' } }\n"
    )
    assert run("resources", "-resume", "-c", "more.config") == []


def test_resume_after_a_change_of_a_parameter_reruns_what_depends_on_it(run, whole):
    assert run("samples", "-resume", "--n_samples", 6) == ["EVALUATE", "IMPUTE", "REPORT"]
    assert run("epochs", "-resume", "--epochs", 4) == ["EVALUATE", "IMPUTE", "REPORT", "TRAIN"]


def test_a_file_of_settings_reaches_the_training_and_a_change_of_it_is_noticed(run, whole, folder):
    own = folder / "settings" / "mine.yaml"
    own.parent.mkdir()
    own.write_text("training: {lr: 5e-4}\n")
    later = ["EVALUATE", "IMPUTE", "REPORT", "TRAIN"]
    given = ("own", "-resume", "--preset", own)
    assert run(*given) == later
    config = yaml.safe_load((folder / "own/left/left_model/config.yaml").read_text())["config"]
    assert (config["preset"], config["training"]["lr"], config["training"]["epochs"]) == ("mine.yaml", 5e-4, 3)
    assert "preset mine.yaml" in (folder / "own/left/left_report.html").read_text()
    assert run(*given) == []
    own.write_text("training: {lr: 2e-4}\n")
    assert run(*given) == later


def test_a_trained_model_is_applied_to_another_sample(run, whole, folder):
    model = whole / "left/left_model"
    steps = run("applied", "--input", "right.csv", "--model", model)
    assert "TRAIN" not in steps and "IMPUTE" in steps
    right = anndata.read_h5ad(folder / "applied/right/right_imputed.h5ad")
    left = anndata.read_h5ad(whole / "left/left_imputed.h5ad")
    assert right.var_names.equals(left.var_names) and right.n_obs == 100
    assert "imputed" in right.layers


def test_other_genes_are_refused_by_name(nextflow, root, whole, folder):
    other = anndata.read_h5ad(folder / "right.h5ad")
    used = list(anndata.read_h5ad(whole / "left/left_imputed.h5ad").var_names)
    other[:, [gene for gene in other.var_names if gene != used[3]]].write_h5ad(folder / "fewer.h5ad")
    (folder / "fewer.csv").write_text("sample,h5ad\nfewer,fewer.h5ad\n")
    model = whole / "left/left_model"
    done = nextflow(folder, "run", root, *ARGUMENTS, "--input", "fewer.csv", "--model", model, "--outdir", "refused")
    assert done.returncode != 0
    assert re.search(rf"stmcdi select-hvg: .*{used[3]}", done.stdout), done.stdout


def test_a_model_that_is_none_is_refused_at_once(nextflow, root, folder):
    done = nextflow(folder, "-q", "run", root, *ARGUMENTS, "--model", "nowhere", "--outdir", "refused")
    assert done.returncode == 2
    assert done.stderr.startswith("ERROR: --model nowhere: no such folder") and done.stderr.count("\n") == 1


def test_samples_of_a_group_get_one_model(run, folder):
    assert run("group", "--input", "group.csv") == sorted([*ALL_STEPS, "JOIN"])
    assert {path.name for path in (folder / "group").iterdir()} == {"brain", "pipeline_info", "metrics.tsv"}
    brain = anndata.read_h5ad(folder / "group/brain/brain_imputed.h5ad")
    assert brain.obs["stmcdi_sample"].value_counts().to_dict() == {"left": 100, "right": 100}
    assert list(brain.obs["stmcdi_sample"][:1]) == ["left"]  # by name, not by who came first
    graph = brain.obsp["spatial_connectivities"].tocoo()
    sample = brain.obs["stmcdi_sample"].to_numpy()
    assert (sample[graph.row] == sample[graph.col]).all()
    assert np.isfinite(dense(brain.layers["imputed"])).all()
    # One run later nothing is done again, whatever order the samples came in.
    assert run("group", "--input", "group.csv", "-resume") == []


FOREIGN = """
include {{ STMCDI }} from '{root}/workflows/stmcdi'
include {{ STMCDI_NORMALIZE as THEIR_NORMALIZE }} from '{root}/modules/local/stmcdi/normalize/main'

workflow {{
    THEIR_NORMALIZE(channel.of([[id: 'single'], file('left.h5ad')]))
    STMCDI(channel.of([[id: 'whole', batch: 7], file('left.h5ad')]), true, null, 1, null)
    STMCDI.out.imputed.view {{ meta, h5ad -> "imputed ${{meta.batch}} ${{h5ad.name}}" }}
    THEIR_NORMALIZE.out.h5ad.view {{ meta, h5ad -> "normalized ${{meta.id}} ${{h5ad.name}}" }}
}}
"""
FAST = "pollInterval = '1 sec'; queueStatInterval = '1 sec'; submitRateLimit = null"
SITE = """
process {
    withLabel: process_gpu { memory = 2.GB; cpus = 2; queue = 'institute' }
    withLabel: process_high { memory = 2.GB }
}
"""


def _requests(work: Path) -> dict[str, str]:
    """Each step's .command.run."""
    found = {}
    for script in work.glob("*/*/.command.run"):
        text = script.read_text()
        found[re.search(r"^#SBATCH -J nf-([A-Z_]+?)_?(\(|$)", text, re.M)[1].rpartition("STMCDI_")[2]] = text
    return found


@pytest.mark.parametrize("through", ["their configuration", "our modules.config"])
def test_a_foreign_pipeline_keeps_the_gpu_under_a_site_s_own_label(standing, root, tmp_path, through):
    (tmp_path / "main.nf").write_text(FOREIGN.format(root=root))
    if through == "our modules.config":
        # What our workflow asks for, under the parameters that our configuration declares.
        declared = re.search(r"^params \{.*?^\}$", (root / "nextflow.config").read_text(), re.M | re.S)[0]
        gpu = f"{declared}\nparams.device = 'cuda'\nincludeConfig '{root}/conf/base.config'\n"
        gpu += f"includeConfig '{root}/conf/slurm.config'\nincludeConfig '{root}/conf/modules.config'\n"
    else:
        gpu = (
            "process.executor = 'slurm'\n"
            'process.clusterOptions = { task.accelerator ? "--gres=gpu:${task.accelerator.request}" : null }\n'
            "process { withName: 'STMCDI_TRAIN|STMCDI_IMPUTE' { accelerator = 1 } }\n"
        )
    (tmp_path / "nextflow.config").write_text(f"{gpu}\nexecutor {{ {FAST} }}\n")
    (tmp_path / "site.config").write_text(SITE)
    script, site, work = (tmp_path / name for name in ("main.nf", "site.config", "work"))
    done = standing("-q", "run", script, "-stub-run", "-c", site, "-w", work)
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(done.stdout.split("\n")) >= {"imputed 7 whole_imputed.h5ad", "normalized single single_normalized.h5ad"}
    asked = _requests(tmp_path / "work")
    assert {"TRAIN", "IMPUTE", "THEIR_NORMALIZE", "NORMALIZE"} <= set(asked)
    assert {step for step, text in asked.items() if "--gres=gpu:1" in text} == {"TRAIN", "IMPUTE"}
    for step in ("TRAIN", "IMPUTE"):  # the site's own block did apply
        assert "#SBATCH --mem 2048M" in asked[step]


def test_memory_follows_the_size_of_the_files(nextflow, root, tmp_path):
    (tmp_path / "small.h5ad").touch()
    with open(tmp_path / "large.h5ad", "wb") as file:
        file.truncate(2**30)
    (tmp_path / "main.nf").write_text(f"""
include {{ memoryFor }} from '{root}/modules/local/stmcdi/memory'

workflow {{
    def (small, large) = [file('small.h5ad'), file('large.h5ad')]
    println([
        memoryFor(1.GB, 4, small, 1), memoryFor(1.GB, 4, large, 1), memoryFor(1.GB, 4, large, 3),
        memoryFor(1.GB, 0.5, [large, [large, small]], 1), memoryFor(1.GB, 2, file('absent.h5ad'), 1),
    ].join(', '))
}}
""")
    done = nextflow(tmp_path, "-q", "run", "main.nf")
    assert done.stdout == "1 GB, 5 GB, 15 GB, 2 GB, 3 GB\n", done.stdout + done.stderr


def test_a_large_sample_asks_for_more_memory(standing, root, tmp_path, samplesheet):
    sheet = samplesheet("small,a.h5ad", "large,large.h5ad")
    with open(tmp_path / "large.h5ad", "wb") as file:
        file.truncate(2**28)
    (tmp_path / "fast.config").write_text(f"executor {{ {FAST} }}")
    arguments = ["-stub-run", "-profile", "slurm", "-c", tmp_path / "fast.config", "--input", sheet]
    arguments += ["-w", tmp_path / "work", "--outdir", tmp_path / "results"]
    done = standing("-q", "run", root, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    asked = {
        re.search(r"^#SBATCH -J nf-(\S+)", text, re.M)[1]: re.search(r"^#SBATCH --mem (\w+)", text, re.M)[1]
        for text in (script.read_text() for script in tmp_path.glob("work/*/*/.command.run"))
    }
    assert asked["STMCDI_STMCDI_NORMALIZE_(small)"] == "2048M" and asked["STMCDI_STMCDI_NORMALIZE_(large)"] == "6144M"
