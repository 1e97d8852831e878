"""Samples with a reference: a column of the samplesheet, or --reference for all."""

import anndata
import numpy as np

import stmcdi_cli


def scripts_of(folder, step: str) -> list[str]:
    """The command lines of a step's tasks."""
    texts = [path.read_text() for path in (folder / "work").glob("*/*/.command.sh")]
    return sorted(line.strip() for text in texts for line in text.splitlines() if line.startswith(f"stmcdi {step} "))


def test_what_the_sheet_says_comes_before_what_is_said_of_all(nextflow, root, tmp_path, samplesheet):
    for name in ("own.h5ad", "all.h5ad", "genes.txt"):
        (tmp_path / name).touch()
    program = tmp_path / "bin/stmcdi"
    program.parent.mkdir()
    program.write_text(STAND_IN)
    program.chmod(0o755)
    sheet = samplesheet(
        "A,a.h5ad,own.h5ad,",
        "B,a.h5ad,,",
        "C,a.h5ad,own.h5ad,g",
        "D,a.h5ad,own.h5ad,g",
        header="sample,h5ad,reference,group",
    )
    options = ["--reference", "all.h5ad", "--reference_genes", "genes.txt", "--layer", "counts", "--seed", 4]
    done = nextflow(tmp_path, "run", root, "--input", sheet, *options, "--save_intermediates", path=program.parent)
    assert done.returncode == 0, done.stdout + done.stderr
    ran = scripts_of(tmp_path, "add-reference")
    expected = "--max-reference-cells 10000 --layer 'counts' --seed 4 --genes 'genes/genes.txt'"
    assert len(ran) == 3 and all(" ".join(expected.split()) in " ".join(line.split()) for line in ran)
    files = [line.split('"')[1::2] for line in ran]
    assert sorted(files) == [
        ["a.h5ad", "reference/all.h5ad", "B_with_reference.h5ad"],
        ["a.h5ad", "reference/own.h5ad", "A_with_reference.h5ad"],
        ["g_joined.h5ad", "reference/own.h5ad", "g_with_reference.h5ad"],
    ]
    assert not any("--layer" in line for line in scripts_of(tmp_path, "normalize"))
    assert (tmp_path / "results/A/A_with_reference.h5ad").exists()
    info = [path.read_text() for path in (tmp_path / "work").glob("*/*/sample_info.json")]
    assert info and not any("reference" in text for text in info)


STAND_IN = """#!/usr/bin/env bash
# Stands in for the command line: empty outputs.
for last; do :; done
case $1 in
    --version) echo stmcdi, version 0 ;;
    check-samplesheet) cp "${@: -2:1}" "$last" ;;
    train) mkdir "$last"; touch "$last/config.yaml" ;;
    report) touch "$last" "${last%.html}.tsv" "${last%.html}_scores_mqc.json" ;;
    *) touch "$last" ;;
esac
"""


def test_an_absent_reference_is_refused_at_once(nextflow, root, tmp_path, samplesheet):
    done = nextflow(tmp_path, "run", root, "--input", samplesheet("A,a.h5ad"), "--reference", "none.h5ad")
    assert done.returncode == 2 and "ERROR: --reference none.h5ad: no such file" in done.stderr


def test_the_workflow_gives_what_run_gives(nextflow, stmcdi, root, tmp_path):
    """For a panel; and for another, with fewer genes in another order, to which its model is applied."""
    tissue = stmcdi_cli.simulate(n_spots=100, n_genes=40, n_sections=2, depth=400, rates=False, seed=6)
    section = tissue.obs["section"] == tissue.obs["section"].iloc[0]
    panel = tissue[section, :28].copy()
    panel.write_h5ad(tmp_path / "A.h5ad")
    panel[5:, panel.var_names[4:26][::-1]].copy().write_h5ad(tmp_path / "B.h5ad")
    tissue[~section].copy().write_h5ad(tmp_path / "cells.h5ad")
    for sample, option, value, n_spots in (
        ("A", "n_reference_genes", "all", 50),
        ("B", "model", "results/A/A_model", 45),
    ):
        (tmp_path / "samples.csv").write_text(f"sample,h5ad,reference\n{sample},{sample}.h5ad,cells.h5ad\n")
        done = nextflow(tmp_path, "run", root, "--input", "samples.csv", "--n_samples", 4, f"--{option}", value)
        assert done.returncode == 0, done.stdout + done.stderr
        options = ["--reference", "cells.h5ad", "--n-samples", "4", f"--{option.replace('_', '-')}", value, "--quiet"]
        stmcdi(tmp_path, "run", f"{sample}.h5ad", "out.h5ad", *options)
        names = ("out.h5ad", f"results/{sample}/{sample}_imputed.h5ad")
        ours, theirs = (anndata.read_h5ad(tmp_path / name) for name in names)
        assert ours.shape == theirs.shape == (n_spots, 40)
        assert ours.obs_names.equals(theirs.obs_names) and ours.var_names.equals(theirs.var_names)
        for layer in ("missing", "imputed", "imputed_sd", "imputed_q95"):
            np.testing.assert_array_equal(ours.layers[layer].toarray(), theirs.layers[layer].toarray())
        (tmp_path / "out.h5ad").unlink()
