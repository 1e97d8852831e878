"""Counts where people keep them: in a layer, in .raw, nearly whole, corrected."""

import shlex
from functools import partial

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from helpers import dense, make_raw

import stmcdi_cli as stmcdi
from stmcdi_cli.errors import InputError
from stmcdi_cli.steps._counts import are_logarithms


def logged(counts: ad.AnnData) -> sp.csr_matrix:
    """What scanpy's normalize_total and log1p make of counts."""
    values = dense(counts.X)
    return sp.csr_matrix(np.log1p(values / values.sum(1, keepdims=True) * 1e4).astype(np.float32))


@pytest.fixture
def in_layer(raw) -> ad.AnnData:
    """scanpy's usual layout."""
    raw.layers["counts"] = raw.X.copy()
    raw.X = logged(raw)
    return raw


@pytest.fixture
def in_raw() -> ad.AnnData:
    """CELLxGENE's layout: more genes in .raw than in X, under identifiers."""
    counts = make_raw(n_genes=50)
    counts.var = pd.DataFrame({"feature_name": counts.var_names}, index=[f"ENSG{i:011d}" for i in range(50)])
    chosen = counts[:, 10:45].copy()
    chosen.X, chosen.var["means"], chosen.layers["scaled"] = logged(chosen), 0.5, logged(chosen)
    chosen.raw = counts
    return chosen


def advised(line: str) -> list[str]:
    """The options that a refusal ends with."""
    return shlex.split(line.rsplit(": ", 1)[1])


@pytest.mark.parametrize("command", ["normalize", "import", "run"])
def test_a_refusal_says_where_whole_counts_are(command, in_layer, in_raw, h5ad, refused, tmp_path):
    line = refused(command, h5ad(in_layer), tmp_path / "out.h5ad")
    assert line.endswith("whole counts in X, found 6.06279; layers['counts'] holds whole counts: --layer counts")
    line = refused(command, h5ad(in_raw), tmp_path / "out.h5ad")
    assert line.endswith("; .raw holds whole counts: --layer raw")
    del in_raw.raw
    line = refused(command, h5ad(in_raw), tmp_path / "out.h5ad")
    assert line.endswith("; give raw counts (these look log1p-normalised), or use values as they are (--skip)")
    in_layer.X, in_layer.layers["counts"] = in_layer.layers["counts"], in_layer.X
    line = refused(command, h5ad(in_layer), tmp_path / "out.h5ad", "--layer", "counts")
    assert line.endswith("; X holds whole counts: leave out --layer")
    in_layer.layers["my counts"] = in_layer.X.copy()
    in_layer.X = None
    line = refused(command, h5ad(in_layer), tmp_path / "out.h5ad")
    assert line.endswith("found no X; layers['my counts'] holds whole counts: --layer 'my counts'")
    in_layer.layers["my counts"] = in_layer.layers["counts"]
    assert refused(command, h5ad(in_layer), tmp_path / "out.h5ad").endswith(
        "no X; write the file again, with counts in X"
    )


def test_scaled_values_and_nothing_but_zeros_say_it_as_well(in_layer, h5ad, refused, tmp_path):
    for values, said in ((dense(in_layer.X) - 1, "no negative value in X, found -1"), (0 * in_layer.X, "found none")):
        in_layer.X = values
        line = refused("normalize", h5ad(in_layer), tmp_path / "out.h5ad")
        assert said in line and line.endswith("; layers['counts'] holds whole counts: --layer counts")


def test_from_a_file_in_scanpys_layout_to_a_report(in_layer, h5ad, cli, refused, monkeypatch, tmp_path):
    """One command, which the first refusal spells out."""
    monkeypatch.setattr("stmcdi_cli.steps.train.train", partial(stmcdi.train, epochs=1))
    words = ["run", h5ad(in_layer), tmp_path / "imputed.h5ad", "--n-samples", 2, "--device", "cpu"]
    assert cli(*words, *advised(refused(*words))).exit_code == 0
    imputed = ad.read_h5ad(tmp_path / "imputed.h5ad")
    np.testing.assert_array_equal(
        dense(imputed.layers["counts"]), dense(in_layer[:, imputed.var_names].layers["counts"])
    )
    assert imputed.uns["stmcdi"]["normalize"]["parameters"] == {
        "layer": "counts",
        "log": True,
        "skip": False,
        "median_total": np.median(dense(in_layer.layers["counts"]).sum(1)),
        "n_genes": in_layer.n_vars,
    }
    done = cli("report", tmp_path / "imputed.h5ad", tmp_path / "report.html", "--model-dir", tmp_path / "imputed.model")
    assert done.exit_code == 0 and "imputed" in (tmp_path / "report.html").read_text()


def test_raw_brings_its_own_genes(in_raw, h5ad, cli, caplog, tmp_path):
    result = stmcdi.normalize(in_raw, layer="raw")
    assert caplog.messages == [
        "normalize: 50 genes of .raw, where X has 35; left out, since they are for the genes of X: "
        "X, var['means'], layers['scaled'], varm['loading']"
    ]
    np.testing.assert_array_equal(dense(result.layers["counts"]), dense(in_raw.raw.X))
    assert result.var_names.equals(in_raw.raw.var_names) and list(result.var) == ["feature_name"]
    assert result.raw is None and "scaled" not in result.layers and result.obs_names.equals(in_raw.obs_names)
    np.testing.assert_array_equal(dense(result.X), dense(stmcdi.normalize(counts_of(in_raw)).X))
    assert cli("normalize", h5ad(in_raw), tmp_path / "out.h5ad", "--layer", "raw").exit_code == 0
    np.testing.assert_array_equal(dense(ad.read_h5ad(tmp_path / "out.h5ad").X), dense(result.X))
    assert cli("import", h5ad(in_raw), tmp_path / "in.h5ad", "--layer", "raw").exit_code == 0
    np.testing.assert_array_equal(dense(ad.read_h5ad(tmp_path / "in.h5ad").X), dense(in_raw.raw.X))


def counts_of(in_raw: ad.AnnData) -> ad.AnnData:
    return ad.AnnData(in_raw.raw.X, obs=in_raw.obs, var=in_raw.raw.var, obsm=dict(in_raw.obsm))


def test_raw_with_the_genes_of_x_leaves_nothing_out(raw, caplog):
    raw.raw = raw.copy()
    raw.X, raw.var["means"], raw.layers["missing"] = logged(raw), 0.5, sp.csr_matrix(raw.shape, dtype=bool)
    result = stmcdi.normalize(raw, layer="raw")
    assert not caplog.messages and list(result.var) == ["symbol", "means"] and "loading" in result.varm
    np.testing.assert_array_equal(dense(result.layers["counts"]), dense(raw.raw.X))


def test_a_layer_called_raw_comes_first(in_raw):
    in_raw.layers["raw"] = sp.csr_matrix(np.ones(in_raw.shape, np.float32))
    assert (dense(stmcdi.normalize(in_raw, layer="raw").layers["counts"]) == 1).all()


def test_missing_entries_of_x_say_nothing_of_raw(in_raw):
    in_raw.layers["missing"] = sp.csr_matrix(in_raw.shape, dtype=bool)
    with pytest.raises(InputError, match=r"is for the 35 genes of X, and .raw has 50; mark missing entries of .raw"):
        stmcdi.normalize(in_raw, layer="raw")
    with pytest.raises(InputError, match=r"layers\['no'\], found only scaled, missing, .raw; correct --layer"):
        stmcdi.normalize(in_raw, layer="no")


def test_values_a_rounding_away_are_rounded_and_it_is_said(raw, h5ad, cli, caplog, tmp_path):
    counts = dense(raw.X).copy()
    raw.X = sp.csr_matrix((counts * (1 + 1e-5)).astype(np.float32))
    n = np.count_nonzero(dense(raw.X) != counts)
    result = stmcdi.normalize(raw)
    np.testing.assert_array_equal(dense(result.layers["counts"]), counts)
    assert caplog.messages == [f"normalize: {n} values in X were within 0.001 of whole counts, and were rounded"]
    assert cli("import", h5ad(raw), tmp_path / "in.h5ad").exit_code == 0
    np.testing.assert_array_equal(dense(ad.read_h5ad(tmp_path / "in.h5ad").X), counts)
    np.testing.assert_array_equal(dense(stmcdi.normalize(raw, skip=True).X), dense(raw.X))


def test_corrected_counts_are_rounded_at_random_with_their_expected_value(h5ad, cli, refused, caplog, tmp_path):
    raw = make_raw(n_spots=200, n_genes=50)
    corrected = np.maximum(dense(raw.X) - np.linspace(0.1, 0.9, 50), 0).astype(np.float32)
    corrected[:, 0] = 0.3
    corrected[5, 5] = np.nan
    raw.X = sp.csr_matrix(corrected)
    line = refused("normalize", h5ad(raw), tmp_path / "out.h5ad")
    assert "--round" in line
    assert cli("normalize", h5ad(raw), tmp_path / "out.h5ad", "--round").exit_code == 0
    caplog.clear()
    result = stmcdi.normalize(raw, round=True)
    assert len(caplog.messages) == 1 and "values in X were not whole, and were rounded up or down" in caplog.text
    counts, known = dense(result.layers["counts"]), np.isfinite(corrected)
    np.testing.assert_array_equal(counts, dense(ad.read_h5ad(tmp_path / "out.h5ad").layers["counts"]))
    assert (np.abs(counts - corrected)[known] < 1).all() and (counts == np.rint(counts)).all()
    noise = 4 * np.sqrt(0.25 * 200)  # of a sum over the spots, at most
    assert (np.abs(counts.sum(0) - np.nansum(corrected, 0)) < noise).all()
    assert 30 < counts[:, 0].sum() < 90
    assert result.uns["stmcdi"]["normalize"]["parameters"]["round"] is True
    one = stmcdi.normalize(raw[:100].copy(), round=True)  # spots are rounded one by one
    np.testing.assert_array_equal(dense(one.layers["counts"]), counts[:100])
    with pytest.raises(InputError, match="either `skip` or `round`, found both"):
        stmcdi.normalize(raw, round=True, skip=True)


def test_a_samplesheet_is_checked_for_the_same_counts(in_layer, h5ad, cli, refused, tmp_path):
    h5ad(in_layer)
    (tmp_path / "sheet.csv").write_text("sample,h5ad\na,input.h5ad\n")
    words = ["check-samplesheet", tmp_path / "sheet.csv", tmp_path / "out.csv", "--content"]
    assert cli(*words, *advised(refused(*words))).exit_code == 0


@pytest.mark.parametrize("stored", ["dense", "csr", "csc"])
def test_logarithms_of_counts_are_known_by_their_steps(raw, stored):
    counts = dense(raw.X)
    of = {"csr": sp.csr_matrix, "csc": sp.csc_matrix}.get(stored, lambda values: np.asarray(values, np.float64))
    assert are_logarithms(of(logged(raw).toarray()))
    assert are_logarithms(of(np.log1p(counts * 0.31)))
    assert not are_logarithms(of(counts)) and not are_logarithms(of(counts * 0.31))
    random = np.random.default_rng(0)
    assert not are_logarithms(of(np.where(counts > 0, random.gamma(2, 1, counts.shape), 0)))
    assert not are_logarithms(of(np.zeros((5, 4))))


def test_logarithms_are_not_rounded(raw):
    raw.X = logged(raw)
    with pytest.raises(InputError, match="log1p-normalised ones, which cannot be rounded"):
        stmcdi.normalize(raw, round=True)
