"""Tissues of a few spots: every step works from two spots on; one is refused."""

import numpy as np
import pytest
from helpers import dense

import stmcdi_cli as stmcdi
from stmcdi_cli.errors import InputError


@pytest.mark.parametrize("n_spots", [2, 14])
def test_fewer_spots_than_latents(n_spots, tmp_path):
    raw = stmcdi.simulate(n_spots=n_spots, n_genes=20, depth=300, seed=1)
    masked, truth = stmcdi.hold_out(stmcdi.build_graph(stmcdi.select_hvg(stmcdi.normalize(raw))), fraction=0.3)
    model = stmcdi.train(masked, tmp_path / "model", epochs=1, device="cpu", quiet=True)
    imputed = stmcdi.impute(masked, tmp_path / "model", n_samples=2, device="cpu", quiet=True)
    filled = dense(imputed.layers["imputed"])
    measured = ~np.isin(model.genes, model.config.get("unmeasured", ()))
    assert np.isfinite(filled[:, measured]).all() and filled[:, measured].max() < 20
    assert stmcdi.evaluate(imputed, truth)["n_hidden"] > 0


def test_one_spot_is_refused(raw):
    with pytest.raises(InputError, match="at least 2 spots, found 1"):
        stmcdi.normalize(raw[:1].copy())
