"""A simulated tissue with a fifth of its entries hidden, as the baselines see it."""

from functools import cache
from types import SimpleNamespace

import pytest
from helpers import dense

import stmcdi_cli as stmcdi
from stmcdi_cli.baselines import METHODS, DenseTissue, latent_network
from stmcdi_cli.model.device import single_threaded


@pytest.fixture(scope="module", autouse=True)
def short_training():
    """One small network in place of three: what is tested here does not depend on how well they are trained."""
    with pytest.MonkeyPatch.context() as patch, single_threaded():
        patch.setattr(latent_network, "N_MEMBERS", 1)
        patch.setattr(latent_network, "MOST_EPOCHS", 60)
        yield


@pytest.fixture(scope="session")
def case():
    whole = stmcdi.normalize(stmcdi.simulate(n_spots=300, n_genes=120, n_sections=2, depth=600, seed=4))
    masked, truth = stmcdi.hold_out(stmcdi.build_graph(whole, section_key="section"), seed=1)
    hidden = dense(masked.layers["missing"]).astype(bool)
    return SimpleNamespace(
        masked=masked, truth=dense(truth.X), hidden=hidden, data=DenseTissue.from_anndata(masked, None)
    )


@pytest.fixture(scope="session")
def estimate(case):
    """Give a method's estimate of the case; each method runs once."""
    return cache(lambda method: METHODS[method](case.data, seed=0))


@pytest.fixture(scope="session")
def skill(case, estimate):
    """Give the skill of a method on the case."""

    def error(method):
        return ((estimate(method).mean - case.truth)[case.hidden] ** 2).mean()

    return lambda method: 1 - error(method) / error("gene-mean")
