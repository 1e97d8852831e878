"""What an imputation left in a file does not outlive it (`steps/_results.py`)."""

import numpy as np
import pytest
from helpers import dense

import stmcdi_cli as stmcdi
from stmcdi_cli.reporting.sections.provenance import summary
from stmcdi_cli.reporting.statistics import gather

LAYERS = ("imputed", "imputed_sd", "imputed_median", "imputed_q05", "imputed_q95")


def records(adata):
    return {"train", "impute", "baseline"} & set(adata.uns["stmcdi"])


def test_values_on_a_new_scale_are_without_results_of_the_old_one(imputed_run, caplog):
    few = imputed_run.imputed[:, :60].copy()  # then totals are others
    again = stmcdi.normalize(few, layer="counts")
    assert not np.allclose(again.obs["size_factor"], few.obs["size_factor"])
    assert not set(LAYERS) & set(again.layers) and not {"X_stmcdi", "X_stmcdi_spatial"} & set(again.obsm)
    assert not records(again) and "spatial_connectivities" in again.obsp and "counts" in again.layers
    assert "normalize: left out, since they are on the scale of the values before: layers['imputed'], " in caplog.text
    assert set(LAYERS) <= set(few.layers) and records(few) == {"train", "impute"}  # the input is as it was
    same = stmcdi.normalize(few, skip=True)  # the scale is that of before
    np.testing.assert_array_equal(dense(same.layers["imputed"]), dense(few.layers["imputed"]))


def test_a_baseline_takes_the_place_of_an_imputation(imputed_run):
    filled = stmcdi.baseline(imputed_run.imputed, method="gene-mean")
    fresh = stmcdi.baseline(imputed_run.masked, method="gene-mean")
    assert set(filled.layers) == set(fresh.layers) and set(filled.obsm) == set(fresh.obsm)
    assert records(filled) == {"baseline"}
    assert stmcdi.evaluate(filled, imputed_run.truth) == stmcdi.evaluate(fresh, imputed_run.truth)
    found = gather(filled, truth=imputed_run.truth)
    assert found.methods[0][0] == "gene-mean" and "baseline gene-mean" in summary(found)


def test_an_imputation_takes_the_place_of_a_baseline(imputed_run):
    again = stmcdi.impute(imputed_run.baseline, imputed_run.model, n_samples=20, device="cpu", quiet=True)
    assert records(again) == {"train", "impute"}
    for name in LAYERS:
        np.testing.assert_array_equal(dense(again.layers[name]), dense(imputed_run.imputed.layers[name]))
    assert gather(again, truth=imputed_run.truth).methods[0][0] == "stmcdi"


@pytest.mark.parametrize("number", [0, 1])
def test_what_is_hidden_anew_is_without_results(imputed_run, number):
    hidden = stmcdi.hold_out(imputed_run.imputed, fraction=0.1, seed=5)[number]
    assert records(hidden) == (set() if number == 0 else {"train", "impute"})
