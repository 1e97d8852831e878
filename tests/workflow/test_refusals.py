"""What must end a run before any work is done, and how it says so."""

import pytest

from stmcdi_cli import __version__


def test_a_mistyped_parameter_ends_the_run_in_one_line(nextflow, root, tmp_path, samplesheet):
    samplesheet("A,a.h5ad")
    before = set(tmp_path.iterdir())
    done = nextflow(tmp_path, "-q", "run", root, "--input", "samples.csv", "--evalute")
    assert done.returncode == 2
    assert (done.stdout, done.stderr) == (
        "", "ERROR: unknown parameter --evalute; the nearest is --evaluate (all of them: --help)\n",
    )  # fmt: skip
    left = {path.name for path in set(tmp_path.iterdir()) - before}
    assert left == {".nextflow", ".nextflow.log", "work"}
    assert not any((tmp_path / "work").iterdir())


@pytest.mark.parametrize(
    ("outdir", "said"), [("", "--outdir needs a string, not 'true'"), ("null", "--outdir has no value")]
)
def test_an_outdir_that_is_none_ends_the_run_in_one_line_too(nextflow, root, tmp_path, samplesheet, outdir, said):
    samplesheet("A,a.h5ad")
    (tmp_path / "p.yml").write_text("input: samples.csv\n" + (f"outdir: {outdir}\n" if outdir else ""))
    before = set(tmp_path.iterdir())
    done = nextflow(tmp_path, "-q", "run", root, "-params-file", "p.yml", *([] if outdir else ["--outdir"]))
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith(f"ERROR: {said}") and done.stderr.count("\n") == 1
    assert {path.name for path in set(tmp_path.iterdir()) - before} == {".nextflow", ".nextflow.log", "work"}


FAULTS = {  # parameters beside --input, as Nextflow parsed them: how the refusal starts
    "'n-gene': 5": "unknown parameter --n-gene; the nearest is --n_genes",
    "input: null": "--input is required",
    "outdir: true": "--outdir needs a string, not 'true'",
    "outdir: 2024": "null",
    "outdir: null": "--outdir has no value; give one, or leave it out for results",
    "target: null": "--target has no value; give one, or leave it out for auto",
    "model: null": "null",
    "n_genes: '0'": "--n_genes must be at least 1, not 0",  # as text, which Nextflow hands over from 26.04 on
    "evaluate: 'true', fraction: '0.1'": "null",
    "n_genes: 'many'": "--n_genes needs an integer or all, not 'many'",
    "n_genes: 0": "--n_genes must be at least 1, not 0",
    "preset: 'my own.yaml'": "--preset 'my own.yaml' does not have the form",
    "hvg_method: 'big'": "--hvg_method must be one of cv2-trend, cv, seurat_v3, not 'big'",
    "evaluate: 'yes'": "--evaluate needs a boolean, not 'yes'",
    "fraction: 1": "--fraction must be less than 1, not 1",
    "radius: 0": "--radius must be more than 0, not 0",
    "min_spots: 1.5": "--min_spots must be at most 1, not 1.5",
    'layer: "it\'s"': "--layer 'it's' does not have the form",
}


def test_every_rule_of_the_schema_is_kept(nextflow, root, tmp_path):
    (tmp_path / "main.nf").write_text(f"""
include {{ typedParameters ; validateParameters }} from '{root}/workflows/parameters'

workflow {{
    def schema = new groovy.json.JsonSlurper().parseText(file('{root}/nextflow_schema.json').text)
    def cases = [{", ".join(f"[input: 'a.csv', {given}]" for given in FAULTS)}]
    cases.each {{ given -> println(validateParameters(typedParameters(given, schema), given.keySet(), schema)) }}
}}
""")
    done = nextflow(tmp_path, "-q", "run", "main.nf")
    assert done.returncode == 0, done.stdout + done.stderr
    said = done.stdout.splitlines()
    assert len(said) == len(FAULTS)
    for message, expected in zip(said, FAULTS.values(), strict=True):
        assert message.startswith(expected)


@pytest.mark.parametrize(
    ("preset", "said"),
    [
        (
            "big",
            "--preset must be one of attention, default, paper or a file with a dot or slash in its name, not 'big'",
        ),
        ("./mine.yaml", "--preset ./mine.yaml: no such file"),
    ],
)
def test_a_preset_that_is_not_there_is_refused_before_any_task(nextflow, root, tmp_path, samplesheet, preset, said):
    given = ["--input", samplesheet("A,a.h5ad"), "--preset", preset]
    done = nextflow(tmp_path, "-q", "run", root, *given)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"ERROR: {said}\n")
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("parameter", ["input", "model"])
def test_a_name_with_a_space_is_refused_before_any_task_and_leaves_no_trace(
    nextflow, root, tmp_path, samplesheet, parameter
):
    """Nextflow writes names into the tasks' scripts; and it refuses to write a trace where one is."""
    sheet, name = samplesheet("A,a.h5ad"), "my own"
    sheet.rename(tmp_path / "my own.csv") if parameter == "input" else (tmp_path / name).mkdir()
    given = {"input": sheet, "model": name} | ({"input": "my own.csv", "model": None} if parameter == "input" else {})
    words = [word for key, value in given.items() if value for word in (f"--{key}", value)]
    done = nextflow(tmp_path, "-q", "run", root, *words, "-with-trace", "trace.txt")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(
        f"ERROR: --{parameter} {given[parameter]}: the name has a space or a letter that shells"
    )
    assert not (tmp_path / "trace.txt").exists() and not (tmp_path / "results").exists()


def test_help_comes_from_the_schema(nextflow, root, tmp_path):
    done = nextflow(tmp_path, "-q", "run", root, "--help")
    assert done.returncode == 0
    assert "--hvg_method" in done.stdout and "(cv2-trend, cv, seurat_v3) [cv2-trend]" in done.stdout
    assert "--custom_config_base" not in done.stdout  # hidden
    assert not (tmp_path / "results").exists()


def test_the_version(nextflow, root, tmp_path):
    done = nextflow(tmp_path, "-q", "run", root, "--version")
    assert (done.returncode, done.stdout) == (0, f"stmcdi {__version__}\n")


def test_all_faults_of_a_samplesheet_are_named_before_any_task(nextflow, root, tmp_path, samplesheet, files_of):
    sheet = samplesheet("A,a.h5ad", "A,a.h5ad", "B,nowhere.h5ad", "../C,a.h5ad")
    done = nextflow(tmp_path, "-q", "run", root, "--input", "samples.csv")
    assert (done.returncode, done.stdout) == (2, "")
    first, *others = done.stderr.splitlines()
    assert first == "ERROR: samples.csv, line 3: sample 'A' is also in line 2; give each sample its own name"
    assert [line.strip()[:44] for line in others] == [
        f"samples.csv, line 4: no file 'nowhere.h5ad' in {sheet.parent}"[:44],
        "samples.csv, line 5: expected sample to be made of"[:44],
    ]
    assert not (tmp_path / "results").exists()


BROKEN = """#!/usr/bin/env bash
# Stands in for the command line: empty outputs, and two samples that no step can read.
for last; do :; done
case $1 in
    --version) echo stmcdi, version 0 ;;
    train) mkdir "$last"; touch "$last/config.yaml" ;;
    report) touch "$last" "${last%.html}.tsv" "${last%.html}_scores_mqc.json" ;;
    normalize)
        if [[ $* == *bad*.h5ad* ]]; then echo "stmcdi normalize: bad.h5ad: expected counts" >&2; exit 2; fi
        touch "$last" ;;
    *) touch "$last" ;;
esac
"""


def test_keep_going_finishes_the_good_samples_and_lists_the_others(nextflow, root, tmp_path, samplesheet):
    program = tmp_path / "bin/stmcdi"
    program.parent.mkdir()
    program.write_text(BROKEN)
    program.chmod(0o755)
    for name in ("bad_1", "bad_2"):
        (tmp_path / f"{name}.h5ad").touch()
    sheet = samplesheet("one,bad_1.h5ad", "good,a.h5ad", "two,bad_2.h5ad")
    (tmp_path / "small.config").write_text("process { cpus = 1; withName: 'STMCDI_.*' { cpus = 1; memory = 1.GB } }")
    arguments = ["run", root, "-c", "small.config", "--input", sheet, "--keep_going"]
    done = nextflow(tmp_path, *arguments, path=program.parent)
    assert done.returncode == 1, done.stdout + done.stderr
    assert (tmp_path / "results/good/good_report.html").exists()
    assert "2 of 3 failed; the others are in results" in done.stdout
    for sample in ("one", "two"):
        assert f"  {sample}: stmcdi normalize: bad.h5ad: expected counts\n" in done.stdout


def test_every_bad_file_is_named_and_a_good_run_says_where_results_are(nextflow, root, tmp_path, samplesheet):
    for name in ("bad_1", "bad_2"):
        (tmp_path / f"{name}.h5ad").write_text("no HDF5")
    sheet = samplesheet("one,bad_1.h5ad", "two,bad_2.h5ad")
    done = nextflow(tmp_path, "run", root, "--input", sheet)
    assert done.returncode == 1
    (said,) = [line for line in done.stdout.splitlines() if "stmcdi check-samplesheet: " in line]
    for name in ("bad_1", "bad_2"):
        assert f"{name}.h5ad: not an HDF5 file" in said
    assert "NORMALIZE" not in done.stdout
    done = nextflow(tmp_path, "run", root, "-stub-run", "--input", sheet)
    assert "Results: results/SAMPLE/, reports: results/SAMPLE/SAMPLE_report.html" in done.stdout
