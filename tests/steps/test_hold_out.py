import numpy as np
import pytest
import scipy.sparse as sp
from helpers import dense, same

import stmcdi_cli as stmcdi
from stmcdi_cli import sparse
from stmcdi_cli.errors import InputError


@pytest.fixture
def normalized(raw):
    return stmcdi.normalize(raw)


def test_hides_the_fraction_and_keeps_it_in_the_truth(normalized):
    masked, truth = stmcdi.hold_out(normalized, fraction=0.2)
    hidden = dense(masked.layers["missing"])
    assert abs(hidden.mean() - 0.2) < 0.03
    np.testing.assert_array_equal(hidden, dense(truth.layers["missing"]))
    np.testing.assert_array_equal(dense(truth.X), dense(normalized.X))
    np.testing.assert_array_equal(dense(masked.X), np.where(hidden, 0, dense(normalized.X)))
    np.testing.assert_array_equal(
        dense(masked.layers["counts"]), np.where(hidden, 0, dense(normalized.layers["counts"]))
    )
    assert masked.layers["missing"].dtype == bool and masked.layers["missing"].format == "csr"


def test_nothing_that_could_hold_the_hidden_values_stays(tissue):
    adata = tissue.copy()
    adata.raw = adata
    copies = {"copy", "X", "raw"}  # names that are others' too
    for name in copies:
        adata.layers[name] = adata.X.copy()
    masked, truth = stmcdi.hold_out(adata)
    assert set(sparse.layers_of(masked)) == {"missing"} and masked.raw is None
    assert {"rates", *copies} <= set(truth.layers)
    assert adata.raw is not None and copies <= set(adata.layers)


def test_the_input_is_not_changed(normalized):
    before = normalized.copy()
    stmcdi.hold_out(normalized)
    same(normalized, before)
    assert "hold-out" not in normalized.uns["stmcdi"]


def test_seed_alone_decides_and_chunks_do_not_matter(normalized, monkeypatch):
    first, _ = stmcdi.hold_out(normalized, seed=3)
    monkeypatch.setattr(sparse, "CHUNK_ENTRIES", 7 * normalized.n_vars)
    again, _ = stmcdi.hold_out(normalized, seed=3)
    same(first, again)
    other, _ = stmcdi.hold_out(normalized, seed=4)
    assert (dense(first.layers["missing"]) != dense(other.layers["missing"])).any()


def test_missing_entries_are_never_chosen(raw):
    values = dense(raw.X).copy()
    unknown = np.random.default_rng(1).random(values.shape) < 0.5
    values[unknown] = np.nan
    raw.X = sp.csr_matrix(values)
    for adata in (raw, stmcdi.normalize(raw)):
        masked, truth = stmcdi.hold_out(adata, fraction=0.5)
        hidden = dense(truth.layers["missing"])
        assert hidden.any() and not (hidden & unknown).any()
        np.testing.assert_array_equal(dense(masked.layers["missing"]), hidden | unknown)
        assert np.isfinite(dense(masked.X)).all() and np.isfinite(dense(truth.X)).all()


def test_hiding_twice_with_one_seed_hides_others(normalized):
    once, _ = stmcdi.hold_out(normalized, fraction=0.3)
    twice, truth = stmcdi.hold_out(once, fraction=0.3)
    assert truth.layers["missing"].nnz / (once.shape[0] * once.shape[1]) == pytest.approx(0.3 * 0.7, abs=0.03)
    assert not dense(truth.layers["missing"])[dense(once.layers["missing"])].any()


def test_nonzero_hides_values_above_zero_only(normalized):
    masked, truth = stmcdi.hold_out(normalized, of="nonzero", fraction=0.3)
    hidden = dense(masked.layers["missing"])
    values = dense(normalized.X)
    assert (values[hidden] > 0).all()
    assert hidden.sum() / (values > 0).sum() == pytest.approx(0.3, abs=0.04)


@pytest.mark.parametrize(
    "option", [{"fraction": 0}, {"fraction": 1}, {"fraction": np.nan}, {"seed": -1}, {"of": "some"}]
)
def test_options_out_of_range_are_refused(raw, option):
    with pytest.raises(InputError, match="expected"):
        stmcdi.hold_out(raw, **option)


def test_a_fraction_that_hides_nothing_is_refused(raw):
    with pytest.raises(InputError, match="give a larger one"):
        stmcdi.hold_out(raw, fraction=1e-9)


def test_both_files_or_none(h5ad, raw, refused, cli, tmp_path):
    source = h5ad(raw)
    line = refused("hold-out", source, tmp_path / "masked.h5ad", tmp_path / "no" / "truth.h5ad")
    assert "no such folder" in line
    refused("hold-out", source, tmp_path / "same.h5ad", tmp_path / "same.h5ad")
    assert cli("hold-out", source, tmp_path / "masked.h5ad", tmp_path / "truth.h5ad").exit_code == 0


def test_what_could_tell_the_hidden_values_is_left_out_and_named(raw, caplog):
    raw.layers["rates"], raw.raw = raw.X.copy(), raw
    masked, _ = stmcdi.hold_out(raw)
    assert set(sparse.layers_of(masked)) <= {"missing"} and masked.raw is None
    assert caplog.messages == ["hold-out: left out, since it could tell what is hidden: layers['rates'], raw"]


def test_latents_of_an_earlier_imputation_are_left_out(tissue, caplog):
    """They were found with the entries that are hidden now; those of other tools stay, since no step reads them."""
    prepared = stmcdi.normalize(tissue)
    for name in ("X_stmcdi", "X_stmcdi_spatial", "X_pca"):
        prepared.obsm[name] = np.zeros((prepared.n_obs, 2), np.float32)
    masked, _ = stmcdi.hold_out(prepared, seed=0)
    assert set(masked.obsm) == set(prepared.obsm) - {"X_stmcdi", "X_stmcdi_spatial"}
    assert "obsm['X_stmcdi'], obsm['X_stmcdi_spatial']" in caplog.text
