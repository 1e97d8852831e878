import json
import shutil
import subprocess
import sys

import anndata as ad
import numpy as np
import pytest

from benchmarks import cells, methods, report, results, run, scoring
from benchmarks.cells import GENES, Cell

LIMITS = methods.Limits(timeout=120, threads=1)
PLAIN = ("knn-50", "ridge", "pls-10-smooth", "spage")


@pytest.fixture
def pair(tissue, tmp_path):
    """A folder with panel.h5ad, reference.h5ad and truth.h5ad, made of the two sections of the small tissue."""
    folder = tmp_path / "pair"
    folder.mkdir()
    sections = tissue.obs["section"].astype(str)
    panel, reference = (tissue[sections == name].copy() for name in sorted(set(sections)))
    seen = np.logical_and(*(np.asarray(data.X.sum(0)).ravel() > 0 for data in (panel, reference)))
    panel, reference = panel[:, seen].copy(), reference[:, seen].copy()
    hidden = np.arange(panel.n_vars) % 5 == 0
    truth = panel[:, hidden].copy()
    panel = panel[:, ~hidden].copy()
    total = np.asarray(panel.X.sum(1)).ravel()
    truth.obs["size_factor"] = total / np.median(total)
    for name, data in (("panel", panel), ("reference", reference), ("truth", truth)):
        data.write_h5ad(folder / f"{name}.h5ad")
    return folder


@pytest.fixture
def workplace(tmp_path, monkeypatch, pair):
    """Every file the harness writes in a temporary folder, every case the small pair, every peer in our environment."""
    for module in (cells, results):
        monkeypatch.setattr(module, "WORK", tmp_path / "work")
    monkeypatch.setattr(cells, "cut", lambda *_: pair)
    monkeypatch.setattr(methods, "environment", lambda *_: sys.executable)
    for function in (results.save, results.load):
        *others, _ = function.__defaults__
        monkeypatch.setattr(function, "__defaults__", (*others, tmp_path / "results.tsv"))
    return tmp_path


@pytest.mark.parametrize("method", [*PLAIN, "baseline-factor-analysis", "stmcdi"])
def test_hidden_genes_are_predicted_without_the_truth(method, pair, workplace):
    truth = shutil.move(pair / "truth.h5ad", workplace / "truth.h5ad")  # nowhere near what the method is given
    imputed = workplace / "imputed.h5ad"
    row = methods.run(method, pair, imputed, workplace / "log", LIMITS, job=GENES)
    scores = scoring.of_job(GENES, imputed, truth)
    assert scores["gene_pcc"] > 0.1 and scores["spearman"] > 0.1 and row["cpu_s"] > 0 and row["peak_mb"] > 20
    assert ("coverage_90" in scores) == (method not in PLAIN)


def test_a_row_has_the_metrics_of_genes(workplace, capsys):
    run.run(Cell("osmfish_cortex", "genes", 4, "ridge"), LIMITS)
    assert "gene_pcc 0." in capsys.readouterr().out
    (row,) = results.numbers(results.load()).to_dict("records")
    assert row["status"] == "ok" and row["seed"] == "4"
    assert row["gene_pcc"] > 0 and row["mse_over_variance"] < 1.5
    assert np.isnan(row["skill"]) and np.isnan(row["coverage_90"])


def test_negative_and_infinite_predictions_are_mended(pair, workplace):
    code = (
        "import sys, numpy as np, pair\n"
        "def predict(both):\n"
        "    values = np.full((len(both.counts), len(both.hidden)), -1.0)\n"
        "    values[0] = np.nan\n"
        "    return values, values - 1, values + 3\n"
        "pair.run(predict)\n"
    )
    (workplace / "peer.py").write_text(code)
    command = [
        sys.executable,
        workplace / "peer.py",
        pair / "panel.h5ad",
        pair / "reference.h5ad",
        workplace / "out.h5ad",
    ]
    methods.measure(command, workplace / "log", LIMITS)
    out = ad.read_h5ad(workplace / "out.h5ad")
    assert out.obs_names.equals(ad.read_h5ad(pair / "panel.h5ad").obs_names)
    assert set(out.var_names) == set(ad.read_h5ad(pair / "truth.h5ad").var_names)
    assert (out.layers["imputed"][0] > 0).any() and not out.layers["imputed"][1:].any()
    assert (out.layers["imputed_q95"][1:] == 2).all()


@pytest.mark.real_data
def test_scores_agree_with_make_panel_py(pair, tmp_path, benchmark_scripts):
    truth = ad.read_h5ad(pair / "truth.h5ad")
    random = np.random.default_rng(0)
    values = np.log1p(truth.X.toarray() / truth.obs["size_factor"].to_numpy()[:, None])
    guess = np.maximum(values + random.normal(0, 0.5, values.shape), 0)
    guess[:, 2] = 0.5  # a constant gene
    imputed = ad.AnnData(obs=truth.obs[[]], var=truth.var[[]])
    imputed.layers["imputed"] = guess
    imputed.layers["imputed_q05"], imputed.layers["imputed_q95"] = guess - 0.6, guess + 0.8
    imputed[::-1, ::-1].copy().write_h5ad(tmp_path / "imputed.h5ad")  # in any order
    script = [sys.executable, benchmark_scripts / "make_panel.py", "--score", tmp_path / "imputed.h5ad", pair]
    theirs = json.loads(subprocess.run(script, check=True, capture_output=True, text=True).stdout)
    ours = scoring.unmeasured(tmp_path / "imputed.h5ad", pair / "truth.h5ad")
    theirs["gene_pcc"] = theirs.pop("pcc")  # the same figure as gene_pcc of the other jobs
    assert {key: round(value, 4) for key, value in ours.items()} == theirs


@pytest.mark.real_data
def test_folds_hide_each_gene_once(shared_data, tmp_path, monkeypatch):
    monkeypatch.setattr(cells, "WORK", tmp_path)
    hidden = []
    for fold in cells.FOLDS:
        folder = cells.cut("osmfish_cortex", "genes", fold)
        panel, reference, truth = (ad.read_h5ad(folder / f"{n}.h5ad") for n in ("panel", "reference", "truth"))
        assert panel.obs_names.equals(truth.obs_names) and not set(panel.var_names) & set(truth.var_names)
        assert set(reference.var_names) == set(panel.var_names) | set(truth.var_names)
        hidden += list(truth.var_names)
    assert len(hidden) == len(set(hidden)) == reference.n_vars
    folder = cells.cut("visium_prostate_normal_cancer_1255genes", "genes", 0)
    panel, reference = (ad.read_h5ad(folder / f"{name}.h5ad") for name in ("panel", "reference"))
    assert set(panel.obs["section"]) == {"NP"} and set(reference.obs["section"]) == {"CP"}


@pytest.mark.real_data
def test_genes_are_hidden_in_pairs_alone(shared_data):
    of_genes = [cell for cell in run.choose(["method=ridge"]) if cell.hidden == "genes"]
    assert {cell.case for cell in of_genes} == set(cells.PAIRS) and {cell.seed for cell in of_genes} == set(cells.FOLDS)
    assert of_genes == run.choose(["method=ridge"])  # what predicts hidden genes has no other job
    assert run.choose(["case=mob_rep11", "hidden=genes", "method=stmcdi"]) == []
    others = [cell for cell in run.choose(["method=stmcdi"]) if cell.hidden != "genes"]
    assert "breast_xenium" not in {cell.case for cell in others} and {cell.seed for cell in others} == set(cells.SEEDS)


def test_the_page_has_a_section_on_genes(workplace):
    scores = {"spearman": 0.2, "mse_over_variance": 0.9, "cpu_s": 12.0, "wall_s": 2.0, "peak_mb": 300.0}
    for method, correlation in (("stmcdi", 0.4), ("ridge", 0.3), ("spage", 0.35)):
        for fold in cells.FOLDS[: 5 if method != "spage" else 2]:
            row = {"status": "ok", "version": "1", "gene_pcc": correlation, **scores}
            row |= {"coverage_90": 0.9, "coverage_90_tenth_percentile_gene": 0.8} if method == "stmcdi" else {}
            results.save(Cell("osmfish_cortex", "genes", fold, method), row)
    for method, skill in (("stmcdi", 0.2), ("cmfrec", 0.1)):
        of_entries = dict.fromkeys(["rmse", "pcc", "cs", "mae", "gene_pcc", "cpu_s", "wall_s"], 0.5)
        results.save(
            Cell("mob_rep11", "0.2", 0, method), {"status": "ok", "version": "1", "skill": skill, **of_entries}
        )
    report.write(results.load(), workplace / "README.md")
    text = (workplace / "README.md").read_text()
    assert "| osmfish_cortex |  | 0.400 / 0.350* spage |" in text
    assert "| mob_rep11 | 0.200* / 0.100* cmfrec |  |" in text
    genes = text.split("## Genes")[1].split("\n## ")[0]
    assert "| osmfish_cortex <- osmfish_reference_smartseq | spage | 1.14 | 0.400 / 0.350 |" in genes
    assert "| ridge regression | 0.300 |" in genes and "| SpaGE | 0.350* |" in genes
    assert "| **stmcdi** | 12 |" in genes and "mob_rep11" not in genes
    assert "osmfish" not in text.split("## 20 % hidden")[1].split("\n## ")[0]
