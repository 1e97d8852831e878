"""A simulated tissue with a fifth of its entries hidden, as the baselines see it."""

from types import SimpleNamespace

import pytest
import torch
from helpers import dense

import stmcdi_cli as stmcdi
from stmcdi_cli.baselines import METHODS, Visible


@pytest.fixture(scope="session")
def case():
    whole = stmcdi.normalize(stmcdi.simulate(n_spots=300, n_genes=120, n_sections=2, depth=600, seed=4))
    masked, truth = stmcdi.hold_out(stmcdi.build_graph(whole, section_key="section"), seed=1)
    hidden = dense(masked.layers["missing"]).astype(bool)
    return SimpleNamespace(masked=masked, truth=dense(truth.X), hidden=hidden, data=Visible.from_anndata(masked, None))


@pytest.fixture(scope="session")
def skill(case):
    """Give the skill of a method on the case; each method runs once."""
    torch.set_num_threads(1)
    mean = METHODS["gene-mean"](case.data, seed=0).mean
    known = {}

    def error(predicted):
        return ((predicted - case.truth)[case.hidden] ** 2).mean()

    def of(method):
        if method not in known:
            known[method] = 1 - error(METHODS[method](case.data, seed=0).mean) / error(mean)
        return known[method]

    return of
