"""The shape of the workflow: which steps run and what comes out, with stand-ins for the work."""


def test_stub_run_with_evaluation(nextflow, root, tmp_path, samplesheet, files_of):
    sheet = samplesheet("A,a.h5ad,", "B-2,a.h5ad,section", header="sample,h5ad,section_key")
    done = nextflow(tmp_path, "run", root, "-stub-run", "--input", sheet, "--evaluate")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARN" not in done.stdout + done.stderr + (tmp_path / ".nextflow.log").read_text()
    expected = {"metrics.tsv", "pipeline_info/versions.yml"}
    for sample in ("A", "B-2"):
        names = ["imputed.h5ad", "truth.h5ad", "metrics.json", "metrics.tsv"]
        names += ["report.html", "report.tsv", "report_scores_mqc.json"]
        names += [f"model/{name}" for name in ("model.safetensors", "config.yaml", "history.tsv")]
        expected |= {f"{sample}/{sample}_{name}" for name in names}
    assert files_of(tmp_path / "results") == expected


def test_stub_run_without_evaluation(nextflow, root, tmp_path, samplesheet, files_of):
    arguments = ["--input", samplesheet("A,a.h5ad"), "--save_intermediates", "--outdir", "out"]
    done = nextflow(tmp_path, "run", root, "-stub-run", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {name for name in files_of(tmp_path / "out") if "model" not in name} == {
        "A/A_normalized.h5ad", "A/A_hvg.h5ad", "A/A_graph.h5ad", "A/A_imputed.h5ad", "pipeline_info/versions.yml",
        "A/A_report.html", "A/A_report.tsv", "A/A_report_scores_mqc.json",
    }  # fmt: skip
    assert "STMCDI_HOLD_OUT" not in done.stdout
    assert {path.name.rsplit("_", 2)[0] for path in (tmp_path / "out/pipeline_info").glob("*_*_*")} == {
        "execution_report", "execution_timeline", "execution_trace", "pipeline_dag",
    }  # fmt: skip


def test_a_preview_leaves_no_results(nextflow, root, tmp_path, samplesheet):
    done = nextflow(tmp_path, "run", root, "-preview", "--input", samplesheet("A,a.h5ad"), "--evaluate")
    assert done.returncode == 0, done.stdout + done.stderr
    assert not (tmp_path / "results").exists() and not (tmp_path / "work/stmcdi").exists()


FOREIGN = """
include {{ STMCDI }} from '{root}/workflows/stmcdi'

workflow {{
    STMCDI(channel.of([[id: 'mine', batch: 7], file('{h5ad}')]), {evaluate}, null, 1, null)
    STMCDI.out.imputed.view {{ meta, h5ad -> "imputed ${{meta.batch}} ${{h5ad.name}}" }}
    STMCDI.out.metrics.view {{ meta, json -> "metrics ${{meta.batch}} ${{json.name}}" }}
}}
"""


def test_another_pipeline_includes_the_workflow(nextflow, root, tmp_path):
    (tmp_path / "raw.h5ad").touch()
    (tmp_path / "main.nf").write_text(FOREIGN.format(root=root, h5ad="raw.h5ad", evaluate="true"))
    (tmp_path / "nextflow.config").write_text("process { withName: STMCDI_IMPUTE { ext.prefix = 'ours' } }")
    done = nextflow(tmp_path, "-q", "run", ".", "-stub-run")
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(done.stdout.split("\n")) >= {"imputed 7 ours_imputed.h5ad", "metrics 7 mine_metrics.json"}


def test_a_step_refuses_to_write_over_its_input(nextflow, root, tmp_path):
    name = "mine_normalized.h5ad"
    (tmp_path / name).touch()
    (tmp_path / "main.nf").write_text(FOREIGN.format(root=root, h5ad=name, evaluate="false"))
    done = nextflow(tmp_path, "-q", "run", ".", "-stub-run")
    assert done.returncode != 0
    assert f"STMCDI_NORMALIZE: input and output are both named {name}; set another ext.prefix" in done.stdout


STAND_IN = """#!/usr/bin/env bash
# Stands in for the command line: empty outputs. The GPU has memory for one train and one impute at a time, and for none
# the first time.
for last; do :; done
case $1 in
    --version) echo stmcdi, version 0 ;;
    check-samplesheet) cp "${@: -2:1}" "$last" ;;
    train | impute)
        mkdir HERE/$1-runs || exit 1
        trap 'rmdir HERE/$1-runs' EXIT
        sleep 1
        if mkdir "HERE/$1-failed" 2>/dev/null; then exit 75; fi
        if [ "$1" = train ]; then mkdir "$last"; touch "$last/config.yaml"; else touch "$last"; fi ;;
    report) touch "$last" "${last%.html}.tsv" "${last%.html}_scores_mqc.json" ;;
    *) touch "$last" ;;
esac
"""


def test_one_gpu_gets_one_task_of_a_step_and_a_full_one_is_tried_again_with_a_smaller_batch(
    nextflow, root, tmp_path, samplesheet
):
    program = tmp_path / "bin/stmcdi"
    program.parent.mkdir()
    program.write_text(STAND_IN.replace("HERE", str(tmp_path)))
    program.chmod(0o755)
    (tmp_path / "small.config").write_text(
        "process { withName: 'STMCDI_TRAIN|STMCDI_IMPUTE' { cpus = 1; memory = 1.GB } }"
    )
    arguments = ["--input", samplesheet("A,a.h5ad", "B,a.h5ad"), "--batch_size", 40, "--gpus_per_task", 2]
    done = nextflow(tmp_path, "run", root, "-profile", "gpu", "-c", "small.config", *arguments, path=program.parent)
    assert done.returncode == 0, done.stdout + done.stderr
    scripts = [script.read_text() for script in (tmp_path / "work").glob("*/*/.command.sh")]
    ran = [line.split() for script in scripts for line in script.splitlines() if "--batch-size" in line]
    assert sorted((words[1], words[words.index("--batch-size") + 1]) for words in ran) == [
        ("impute", "128"), ("impute", "256"), ("impute", "256"), ("train", "20"), ("train", "40"), ("train", "40"),
    ]  # fmt: skip
    assert {words[1] for words in ran if "--devices 2" in " ".join(words)} == {"train"}
