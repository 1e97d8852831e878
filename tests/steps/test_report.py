"""What the report says; how it looks is in tests/reporting."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from helpers import dense

import stmcdi_cli as stmcdi
from stmcdi_cli import sparse
from stmcdi_cli.errors import InputError
from stmcdi_cli.io.h5ad import open_h5ad
from stmcdi_cli.reporting.statistics import gather
from stmcdi_cli.reporting.warnings import find_warnings


def words(path):
    return path.read_text(encoding="utf-8")


def test_everything_is_in_it(cli, imputed_run, tmp_path):
    out = tmp_path / "tissue_report.html"
    (tmp_path / "genes.txt").write_text("gene_3\n")
    options = (
        "--model-dir",
        imputed_run.model,
        "--truth",
        imputed_run.files["truth"],
        "--baseline",
        imputed_run.files["baseline"],
    )
    (tmp_path / "sample.json").write_text('{"patient": "P <1>", "age": 61}')
    result = cli(
        *("report", imputed_run.files["imputed"], out, *options, "--genes", tmp_path / "genes.txt"),
        *("--sample-info", tmp_path / "sample.json"),
    )
    assert result.exit_code == 0 and result.output == ""
    text = words(out)
    metrics = stmcdi.evaluate(imputed_run.imputed, imputed_run.truth)
    for expected in (
        "<title>tissue: stmcdi report</title>",
        "patient: P &lt;1&gt; · age: 61",
        f"{metrics['skill']:.3f}",
        f"{stmcdi.evaluate(imputed_run.baseline, imputed_run.truth)['skill']:.3f}",
        "spatial-neighbors",
        "each gene&#39;s mean",
        "gene_3: imputed, section_2",
        "Lowest validation loss",
        "section-key: section",
        "seed of training",
        "device of imputation",
        "preset default · target missing · seed 0 · 20 draws per entry · trained in ",
        "time for imputation",
        f"Made by stmcdi {stmcdi.__version__}",
    ):
        assert expected in text, expected
    names = sorted(path.name for path in tmp_path.iterdir() if path.name.startswith("tissue"))
    parts = [f"tissue_report_{part}_mqc.json" for part in ("scores", "training", "verdicts")]
    assert names == ["tissue_report.html", "tissue_report.tsv", *parts]
    table = pd.read_csv(tmp_path / "tissue_report.tsv", sep="\t", index_col=0)
    assert list(table.index) == list(imputed_run.imputed.var_names)
    assert {"verdict", "reason", "expected_r", "within_r", "measured_r", "seen", "n_filled"} <= set(table)


def test_without_truth_and_model_it_says_what_is_lacking(imputed_run, tmp_path):
    table = stmcdi.report(imputed_run.imputed, tmp_path / "a.html")
    text = words(tmp_path / "a.html")
    assert "No values were hidden in this run" in text and "No model folder was given" in text
    assert "run once more with <code>--evaluate" in text
    assert "measured_r" not in table


def test_mean_and_spread_are_enough(imputed_run, tmp_path):
    """As `impute --layers imputed,imputed_sd` writes it."""
    little = imputed_run.imputed.copy()
    for name in ("imputed_median", "imputed_q05", "imputed_q95"):
        del little.layers[name]
    table = stmcdi.report(little, tmp_path / "a.html", truth=imputed_run.truth)
    whole = stmcdi.report(imputed_run.imputed, tmp_path / "b.html", truth=imputed_run.truth)
    pd.testing.assert_frame_equal(table, whole)
    text = words(tmp_path / "a.html")
    assert "inside the 90% interval" not in text and "mean of the hidden values" in text


def test_the_input_is_left_alone(imputed_run, tmp_path):
    layers, columns = set(imputed_run.imputed.layers), list(imputed_run.imputed.var)
    stmcdi.report(imputed_run.imputed, tmp_path / "a.html", truth=imputed_run.truth)
    assert set(imputed_run.imputed.layers) == layers and list(imputed_run.imputed.var) == columns


def test_the_same_input_gives_the_same_page(imputed_run, tmp_path):
    for name in ("a", "b"):
        stmcdi.report(
            imputed_run.imputed,
            tmp_path / f"{name}.html",
            model_dir=imputed_run.model,
            truth=imputed_run.truth,
            title="t",
        )
    assert words(tmp_path / "a.html") == words(tmp_path / "b.html")


HOSTILE = "</script><b x='&\"{{ 7 * 7 }}$\\frac$"


def test_names_from_the_file_cannot_break_the_page(imputed_run, tmp_path):
    odd, truth, other = imputed_run.imputed.copy(), imputed_run.truth.copy(), imputed_run.baseline.copy()
    for adata in (odd, truth, other):
        adata.var_names = [HOSTILE, *adata.var_names[1:]]
        adata.obs["section"] = adata.obs["section"].cat.rename_categories({"section_1": f"{HOSTILE} section"})
    for adata, step, parameter in ((odd, "impute", "preset"), (other, "baseline", "method")):
        entry = adata.uns["stmcdi"][step]
        entry = {**entry, "parameters": {**entry["parameters"], parameter: HOSTILE}}
        adata.uns["stmcdi"] = {**adata.uns["stmcdi"], step: entry}
    path = tmp_path / "a.html"
    stmcdi.report(odd, path, truth=truth, baseline=[other], genes=[HOSTILE], title=HOSTILE)
    text = words(path)
    assert text.count("&lt;/script&gt;&lt;b x") > 12  # title, sections, map, method, parameters
    assert "<b x" not in text and "{{ 7 * 7 }}" in text
    assert text.count("</script>") == text.count("<script") == 2


def test_metrics_by_section_are_those_of_the_section_alone(imputed_run):
    found = gather(imputed_run.imputed, truth=imputed_run.truth)
    here = (imputed_run.imputed.obs["section"] == "section_2").to_numpy()
    alone = stmcdi.evaluate(imputed_run.imputed[here].copy(), imputed_run.truth[here].copy())
    assert found.section_names == ["section_1", "section_2"]
    assert found.section_metrics[1] == pytest.approx(alone)


def test_calibration_bins_are_means_over_the_hidden_entries(imputed_run):
    bins = gather(imputed_run.imputed, truth=imputed_run.truth).calibration
    assert len(bins.predicted) == 12 and (np.diff(bins.predicted) > 0).all()
    coverage = stmcdi.evaluate(imputed_run.imputed, imputed_run.truth)["coverage_90"]
    assert 1 - (bins.below + bins.above).mean() == pytest.approx(coverage, abs=0.01)  # bins hold equally many


def first_gene_absent(adata):
    adata.X[:, 0] = 0


def column(name, values):
    def change(adata):
        adata.obs[name] = values(adata)

    return change


def swapped_section(adata):
    here = (adata.obs["section"] == "section_1").to_numpy()
    adata.X[here] = adata.X[here][:, ::-1]


def impute_with(**parameters):
    return lambda adata: adata.uns["stmcdi"]["impute"]["parameters"].update(parameters)


def trained_with(**parameters):
    return lambda adata: adata.uns["stmcdi"]["train"]["parameters"].update(parameters)


def by_an_earlier_version(adata):
    """Which noted the preset alone."""
    del adata.uns["stmcdi"]["train"]["parameters"]["variant"]
    impute_with(preset="paper")(adata)


def nothing_missing(adata):
    adata.layers["missing"][:] = False


WARNINGS = {
    "2 of 120 genes are too rare": first_gene_absent,
    "of the median depth": column("size_factor", lambda adata: np.r_[0.1, np.ones(adata.n_obs - 1)]),
    "no counts at all": column("empty_spot", lambda adata: np.arange(adata.n_obs) == 3),
    "times as deep as": column("size_factor", lambda adata: np.where(adata.obs["section"] == "section_1", 1, 5)),
    "differ much": swapped_section,
    "Only 5 draws": impute_with(n_samples=5),
    "does not calibrate": trained_with(variant="attention", preset="mine.yaml"),
    "not calibrate its uncertainty": by_an_earlier_version,
    "Nothing was filled": nothing_missing,
}


@pytest.mark.parametrize("expected", WARNINGS)
def test_what_could_mislead_is_warned_of(expected, imputed_run):
    def said(adata):
        return " ".join(find_warnings(gather(adata)))

    adata = ad.AnnData(
        imputed_run.imputed.X.toarray(),
        obs=imputed_run.imputed.obs.copy(),
        var=imputed_run.imputed.var.copy(),
        layers={name: layer.toarray() for name, layer in sparse.layers_of(imputed_run.imputed).items()},
        obsm={"spatial": imputed_run.imputed.obsm["spatial"]},
    )
    adata.uns["stmcdi"] = {
        step: {**entry, "parameters": dict(entry["parameters"])}
        for step, entry in imputed_run.imputed.uns["stmcdi"].items()
    }
    adata.obs["size_factor"] = 1.0
    assert expected not in said(adata)
    WARNINGS[expected](adata)
    assert expected in said(adata)


def test_a_useless_imputation_and_a_better_baseline_are_named(imputed_run):
    useless = imputed_run.imputed.copy()
    useless.layers["imputed"] = useless.layers["imputed"] * 3
    said = find_warnings(gather(useless, truth=imputed_run.truth, baseline=[imputed_run.baseline]))
    assert "no better than each gene's mean" in said[0] and "spatial-neighbors did better" in said[1]


def test_refusals(refused, imputed_run, h5ad, tmp_path):
    out = tmp_path / "a.html"
    imputed, truth, masked = (imputed_run.files[name] for name in ("imputed", "truth", "masked"))
    assert "run impute (`impute --layers`, where given, must name it), then report" in refused("report", masked, out)
    assert "no model folder at" in refused("report", imputed, out, "--model-dir", tmp_path / "none")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "config.yaml").write_text("config: [")
    assert "is not a complete model" in refused("report", imputed, out, "--model-dir", tmp_path / "bad")
    assert "give --truth" in refused("report", imputed, out, "--baseline", imputed_run.files["baseline"])
    (tmp_path / "genes.txt").write_text("nobody\n")
    line = refused("report", imputed, out, "--genes", tmp_path / "genes.txt")
    assert "expected genes the file has, found nobody; correct the list (--genes)" in line
    other = h5ad(imputed_run.truth[::-1].copy())
    assert "spots were lost or reordered" in refused("report", imputed, out, "--truth", other)
    assert "is also an input" in refused("report", imputed, imputed)


def test_the_function_refuses_as_the_command_does(imputed_run, tmp_path):
    with pytest.raises(InputError, match="expected genes the file has"):
        stmcdi.report(imputed_run.imputed, tmp_path / "a.html", genes=["nobody"])
    assert not list(tmp_path.iterdir())


def test_a_file_on_disk_read_in_small_blocks_gives_the_same_report(imputed_run, tmp_path, monkeypatch):
    truth = imputed_run.truth
    whole = stmcdi.report(imputed_run.imputed, tmp_path / "whole.html", truth=truth, title="tissue", multiqc=False)
    imputed_run.imputed.copy().write_h5ad(tmp_path / "imputed.h5ad")
    truth.copy().write_h5ad(tmp_path / "truth.h5ad")
    monkeypatch.setattr(sparse, "CHUNK_ENTRIES", 50 * truth.n_vars)
    with open_h5ad(tmp_path / "imputed.h5ad") as imputed, open_h5ad(tmp_path / "truth.h5ad") as hidden:
        parts = stmcdi.report(imputed, tmp_path / "parts.html", truth=hidden, title="tissue", multiqc=False)
    pd.testing.assert_frame_equal(parts, whole, rtol=1e-9)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- P1\n", "expected names with values, found list; write `name: value`"),
        ("a: [", "cannot be read as YAML or JSON"),
        (None, "no such file; check the path"),
    ],
)
def test_sample_info_that_is_none_is_refused(refused, imputed_run, tmp_path, text, said):
    info = tmp_path / "sample.yaml"
    if text is not None:
        info.write_text(text)
    line = refused("report", imputed_run.files["imputed"], tmp_path / "a.html", "--sample-info", info)
    assert f"{info}: {said}" in line


def test_sections_are_compared_by_the_genes_that_both_have(imputed_run):
    """A gene that one section lacks is no gene without expression there."""
    lacks = imputed_run.imputed.copy()
    second = (lacks.obs["section"] == lacks.obs["section"].iloc[-1]).to_numpy()
    missing = dense(lacks.layers["missing"]).astype(bool)
    for genes in (slice(0, 40), slice(None)):
        missing[np.ix_(second, np.arange(lacks.n_vars)[genes])] = True
        lacks.X = sp.csr_matrix(np.where(missing, 0, dense(lacks.X)))
        lacks.layers["missing"] = sp.csr_matrix(missing)
        assert not [line for line in find_warnings(gather(lacks)) if "differ much" in line]
    turned = imputed_run.imputed.copy()
    x = dense(turned.X).copy()
    x[second] = x[second][:, ::-1]
    turned.X = sp.csr_matrix(x)
    assert [line for line in find_warnings(gather(turned)) if "differ much" in line]


def test_a_model_of_another_depth_is_said(imputed_run):
    for ratio, is_said in ((1.5, False), (3.0, True), (0.2, True)):
        other = imputed_run.imputed.copy()
        other.uns["stmcdi"]["impute"]["parameters"]["ratio_of_totals"] = ratio
        lines = [line for line in find_warnings(gather(other)) if "a model of its own is better" in line]
        assert bool(lines) == is_said
