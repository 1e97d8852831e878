"""What must end a run before any work is done, and how it says so."""

import pytest


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


FAULTS = {  # parameters beside --input, as Nextflow parsed them: how the refusal starts
    "'n-gene': 5": "unknown parameter --n-gene; the nearest is --n_genes",
    "input: null": "--input is required",
    "outdir: true": "--outdir needs a string, not 'true'",
    "outdir: 2024": "null",
    "n_genes: 'many'": "--n_genes needs an integer, not 'many'",
    "n_genes: 0": "--n_genes must be at least 1, not 0",
    "preset: 'big'": "--preset must be one of default, paper, not 'big'",
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


def test_help_comes_from_the_schema(nextflow, root, tmp_path):
    done = nextflow(tmp_path, "-q", "run", root, "--help")
    assert done.returncode == 0
    assert "--hvg_method" in done.stdout and "(cv2-trend, cv, seurat_v3) [cv2-trend]" in done.stdout
    assert "--custom_config_base" not in done.stdout  # hidden
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["A,a.h5ad", "A,a.h5ad"], "line 3: sample 'A' is also in line 2"),
        (["A,nowhere.h5ad"], "line 2: no file 'nowhere.h5ad'"),
        (["../A,a.h5ad"], "found '../A'"),
    ],
)
def test_a_wrong_samplesheet_is_refused_in_the_command_line_s_words(
    nextflow, root, tmp_path, samplesheet, files_of, rows, message
):
    done = nextflow(tmp_path, "run", root, "--input", samplesheet(*rows))
    assert done.returncode != 0
    said = [line.strip() for line in done.stdout.splitlines() if "stmcdi check-samplesheet: samples.csv" in line]
    assert len(said) == 1 and message in said[0]
    assert files_of(tmp_path / "results") <= {"pipeline_info/versions.yml"}
