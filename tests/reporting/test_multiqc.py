"""The real MultiQC finds the files by their names and shows their numbers."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import stmcdi_cli as stmcdi

MULTIQC = Path(sys.executable).with_name("multiqc")


def test_multiqc_shows_the_numbers_without_configuration(imputed_run, tmp_path):
    if not MULTIQC.exists() and shutil.which("multiqc") is None:
        pytest.skip("MULTIQC NOT TESTED: no multiqc here; pip install 'stmcdi[test]'")
    shutil.copytree(imputed_run.model, tmp_path / "model")
    rows = [f"{epoch}\t{1 / (epoch + 1)}" for epoch in range(13)]
    (tmp_path / "model" / "history.tsv").write_text("\n".join(["epoch\tvalidation_loss", *rows, ""]))
    for sample, truth in (("tumour", imputed_run.truth), ("healthy", None)):
        (tmp_path / sample).mkdir()
        stmcdi.report(
            imputed_run.imputed, tmp_path / sample / f"{sample}_report.html", model_dir=tmp_path / "model", truth=truth
        )
    program = MULTIQC if MULTIQC.exists() else "multiqc"
    command = [program, ".", "--no-version-check", "--strict", "--no-ansi", "--outdir", "out", "--data-format", "json"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "Could not" not in result.stderr and "rror" not in result.stderr, result.stderr
    data = json.loads((tmp_path / "out" / "multiqc_data" / "multiqc_data.json").read_text())
    found = json.dumps(data["report_general_stats_data"])
    metrics = stmcdi.evaluate(imputed_run.imputed, imputed_run.truth)
    assert f"{metrics['skill']:.10f}"[:8] in found and "healthy" in found and "trusted" in found
    curves = data["report_plot_data"]["stmcdi_training_plot"]["datasets"][0]["lines"]
    assert {curve["name"] for curve in curves} == {"tumour", "healthy"}
    for curve in curves:
        assert [float(epoch) for epoch, _ in curve["pairs"]] == list(range(13))  # in the order of numbers: 2 before 10
    page = (tmp_path / "out" / "multiqc_report.html").read_text()
    for text in ("stmcdi: genes by verdict", "stmcdi: training", "Genes to trust", "tumour", "healthy"):
        assert text in page
    verdicts = json.loads((tmp_path / "tumour" / "tumour_report_verdicts_mqc.json").read_text())["data"]["tumour"]
    assert sum(verdicts.values()) == imputed_run.imputed.n_vars


def test_they_can_be_left_out(imputed_run, tmp_path):
    stmcdi.report(imputed_run.imputed, tmp_path / "a.html", multiqc=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.html", "a.tsv"]
