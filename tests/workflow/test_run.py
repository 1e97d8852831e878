"""A real run on a small simulated tissue, shared by all tests here."""

import csv
import html
import json
from pathlib import Path

import anndata
import numpy as np
import pytest
import yaml

from stmcdi_cli import __version__

PATIENT = r"P '1' $(touch x) `y` ${z} \n é"
"""A cell that a shell must not read."""
ARGUMENTS = ["-profile", "test", "--input", "samples.csv", "--n_genes", "60", "--seed", "3"]


@pytest.fixture(scope="module")
def folder(nextflow, stmcdi, root, tmp_path_factory) -> Path:
    """Where the workflow has run, with evaluation."""
    folder = tmp_path_factory.mktemp("run")
    stmcdi(folder, "simulate", "raw.h5ad", "--n-spots", 150, "--n-genes", 100, "--n-sections", 2, "--depth", 800)
    (folder / "samples.csv").write_text(
        f"sample,h5ad,section_key,patient\ntissue,raw.h5ad,section,{PATIENT}\n", "utf-8"
    )
    done = nextflow(folder, "run", root, *ARGUMENTS)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def results(folder: Path) -> Path:
    return folder / "results"


def _dense(matrix) -> np.ndarray:
    return np.asarray(matrix.toarray() if hasattr(matrix, "toarray") else matrix, dtype=np.float64)


def test_outputs_are_there(results, files_of):
    model = {f"tissue/tissue_model/{name}" for name in ("model.safetensors", "config.yaml", "history.tsv")}
    files = {f"tissue/tissue_{name}" for name in ("imputed.h5ad", "truth.h5ad", "metrics.json", "metrics.tsv")}
    parts = ("report.html", "report.tsv", *(f"report_{name}_mqc.json" for name in ("scores", "training", "verdicts")))
    files |= {f"tissue/tissue_{name}" for name in parts}
    assert files_of(results) == model | files | {"metrics.tsv", "pipeline_info/versions.yml"}


def test_further_columns_of_the_sheet_are_in_the_report(results):
    text = (results / "tissue/tissue_report.html").read_text("utf-8")
    assert f"patient: {html.escape(PATIENT).replace('&#x27;', '&#39;')}</p>" in text


def test_imputed_file_keeps_the_contract(results):
    imputed = anndata.read_h5ad(results / "tissue/tissue_imputed.h5ad")
    truth = anndata.read_h5ad(results / "tissue/tissue_truth.h5ad")
    assert imputed.shape == (150, 60)
    assert imputed.obs_names.equals(truth.obs_names) and imputed.var_names.equals(truth.var_names)
    values = _dense(imputed.layers["imputed"])
    assert np.isfinite(values).all() and (values >= 0).all()
    visible = ~imputed.layers["missing"].toarray()
    np.testing.assert_array_equal(values[visible], _dense(imputed.X)[visible])
    assert set(imputed.uns["stmcdi"]) >= {"normalize", "select-hvg", "build-graph", "hold-out", "impute"}
    assert imputed.uns["spatial_neighbors"]["params"]["section_key"] == "section"


def test_imputation_beats_the_gene_means(results):
    assert json.loads((results / "tissue/tissue_metrics.json").read_text())["skill"] > 0


def test_table_of_all_samples(results):
    scores = json.loads((results / "tissue/tissue_metrics.json").read_text())
    with open(results / "metrics.tsv", newline="") as file:
        (row,) = csv.DictReader(file, delimiter="\t")
    assert row.pop("sample") == "tissue"
    assert row.keys() == scores.keys()
    assert {name: float(row[name]) for name in ("pcc", "skill", "rmse")} == {
        name: pytest.approx(scores[name]) for name in ("pcc", "skill", "rmse")
    }


def test_versions(results):
    versions = yaml.safe_load((results / "pipeline_info/versions.yml").read_text())
    steps = ["NORMALIZE", "SELECT_HVG", "BUILD_GRAPH", "HOLD_OUT", "TRAIN", "IMPUTE", "EVALUATE", "REPORT"]
    assert versions == {
        name: {"stmcdi": __version__}
        for name in ["STMCDI_CHECK_SAMPLESHEET", *(f"STMCDI:STMCDI_{step}" for step in steps)]
    }


def test_the_same_by_hand(results, stmcdi, folder, tmp_path):
    seed = ["--seed", "3"]
    stmcdi(tmp_path, "normalize", folder / "raw.h5ad", "normalized.h5ad")
    stmcdi(tmp_path, "select-hvg", "normalized.h5ad", "hvg.h5ad", "--n-genes", "60")
    stmcdi(tmp_path, "build-graph", "hvg.h5ad", "graph.h5ad", "--section-key", "section")
    stmcdi(tmp_path, "hold-out", "graph.h5ad", "held_out.h5ad", "truth.h5ad", *seed)
    stmcdi(tmp_path, "train", "held_out.h5ad", "model", *seed)
    stmcdi(tmp_path, "impute", "held_out.h5ad", "model", "imputed.h5ad", "--n-samples", "5", *seed)
    stmcdi(tmp_path, "evaluate", "imputed.h5ad", "truth.h5ad", "metrics.json")

    ours, theirs = (
        anndata.read_h5ad(path) for path in (tmp_path / "imputed.h5ad", results / "tissue/tissue_imputed.h5ad")
    )
    assert ours.var_names.equals(theirs.var_names)
    for layer in ("missing", "imputed", "imputed_sd"):
        np.testing.assert_allclose(*(_dense(adata.layers[layer]) for adata in (ours, theirs)), rtol=1e-5, err_msg=layer)
    by_hand = json.loads((tmp_path / "metrics.json").read_text())
    assert by_hand == pytest.approx(json.loads((results / "tissue/tissue_metrics.json").read_text()), rel=1e-6)
