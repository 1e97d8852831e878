from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp
import torch

import stmcdi_cli as stmcdi
from stmcdi_cli.model.base import DrawOptions
from stmcdi_cli.model.diffusion.schedule import Schedule
from stmcdi_cli.model.latent.diffusion import LatentDiffusion
from stmcdi_cli.model.latent.factor_model import LINKS, SpatialFactorModel
from stmcdi_cli.model.latent.masking import Masking
from stmcdi_cli.model.latent.spatial_graph import SpatialGraph
from stmcdi_cli.model.tissue import Tissue

ALL_MASKS = True
NETWORK = {"width": 8, "depth": 1, "dropout": 0.0}


@pytest.fixture(scope="module")
def tissue():
    raw = stmcdi.simulate(n_spots=120, n_genes=60, depth=500, seed=0)
    masked, _ = stmcdi.hold_out(stmcdi.build_graph(stmcdi.normalize(raw)), seed=0)
    return Tissue.from_anndata(masked)


@pytest.fixture(scope="module")
def encoders(tissue):
    """One for each link, not to be changed."""
    linear, log = (SpatialFactorModel(rank=4, full_depth=0.25, link=link) for link in LINKS[:2])
    linear.fit(tissue, sweeps=8, seed=0)
    log.fit(tissue, sweeps=8, seed=0, start=linear)
    return dict(zip(LINKS[:2], (linear, log), strict=True))


@pytest.fixture(params=LINKS[:2])
def branch(request, tissue, encoders):
    branch = LatentDiffusion(encoders[request.param], Schedule(T=50, beta_1=1e-4, beta_T=0.5), NETWORK)
    branch.encode(tissue)
    return branch


def paired(branch, tissue, masking, spots=None):
    spots = np.arange(tissue.n_spots) if spots is None else spots
    return branch.training_pairs(tissue, spots, masking, torch.Generator().manual_seed(0))


def changed(tissue, spot):
    """The same tissue with other counts at one spot."""
    x = tissue.x.tolil()
    x[spot] = np.log1p(np.random.default_rng(0).poisson(3, tissue.n_genes) / tissue.depth[spot])
    x = sp.csr_matrix(x, dtype=np.float32)
    return replace(tissue, x=sp.csr_matrix(x - x.multiply(tissue.missing)))


def test_the_condition_does_not_depend_on_masked_entries(branch, tissue):
    """Not even through the latents of the neighbours, which depend on the spot's entries unless these are masked.

    With the log link, only where the neighbours' own entries are linearised does.
    """
    spot, masking = 17, Masking(hidden=(0.5, 0.9), whole=1.0, spot_share=0.01, max_rounds=1)
    other = changed(tissue, spot)
    (before, _), _ = paired(branch, tissue, masking, np.array([spot])), branch.encode(other)
    after, _ = paired(branch, other, masking, np.array([spot]))
    error = 0.02 if branch.encoder.link == "log" else 0
    torch.testing.assert_close(after.condition, before.condition, rtol=0, atol=error)
    assert (after.offset - before.offset).abs().max() > 0.1


def test_the_condition_of_a_fully_masked_spot_comes_from_its_neighbours_only(branch, tissue):
    pairs, _ = paired(branch, tissue, Masking(hidden=(0.5, 0.9), whole=1.0))
    mean, prior, share = pairs.condition[:, :4], pairs.condition[:, 4:8], pairs.condition[:, -1]
    torch.testing.assert_close(mean, prior)
    torch.testing.assert_close(share, torch.ones(len(share)))


def test_the_network_output_shrinks_as_more_is_visible(branch, tissue):
    torch.nn.init.normal_(branch.network.output.weight, generator=torch.Generator().manual_seed(0))
    found = []
    for hidden in (0.05, 0.5, 0.95, 1.0):
        pairs, _ = paired(branch, tissue, Masking(hidden=(hidden, hidden), whole=0.0, max_rounds=1))
        with torch.no_grad():
            v = branch.network.eval()(torch.ones(len(pairs.offset), 4), torch.tensor(10), pairs.condition)
        assert torch.all(pairs.condition[:, -1] > 0) and torch.all(pairs.condition[:, -1] < 1.001)
        found.append((v.square().mean().sqrt().item(), pairs.condition[:, -1].mean().item()))
    outputs, shares = zip(*found, strict=True)
    assert list(outputs) == sorted(outputs) and list(shares) == sorted(shares)
    assert shares[0] < 0.5


@pytest.mark.parametrize(("sampler", "n_steps", "passes"), [("dpm", None, 8), ("dpm", 11, 11), ("ddim", None, 25)])
def test_a_draw_takes_as_many_passes_as_the_pages_say(tissue, encoders, monkeypatch, sampler, n_steps, passes):
    branch = LatentDiffusion(encoders["linear"], Schedule(T=50, beta_1=1e-4, beta_T=0.5), NETWORK)
    branch.encode(tissue)
    branch.to(torch.device("cpu"))
    torch.nn.init.ones_(branch.network.output.bias)
    called = []
    monkeypatch.setattr(branch.network, "forward", lambda u_t, *_: called.append(1) or torch.zeros_like(u_t))
    options = DrawOptions(n_samples=2, seed=0, sampler=sampler, n_steps=n_steps)
    assert len(list(branch.draw_expected(np.arange(20), [0], options))) == 1
    assert len(called) == passes


def test_weights_have_the_names_of_saved_models(branch):
    """Attributes may be renamed; the names in model.safetensors may not, or older models would not load."""
    blocks = [f"blocks.0.{layer}.{part}" for layer in (0, 1, 4) for part in ("weight", "bias")]
    names = ["enter.weight", "enter.bias", "step.weight", *blocks, "leave.weight", "leave.bias"]
    network, generator = branch.network, torch.Generator().manual_seed(0)
    assert list(network.state()) == names
    saved = {name: torch.randn(value.shape, generator=generator) for name, value in network.state().items()}
    network.load_state(saved)
    assert torch.equal(network.input.weight, saved["enter.weight"])
    assert torch.equal(network.output.bias, saved["leave.bias"])
    for name, value in network.state().items():
        assert torch.equal(value, saved[name]), name
    del saved["leave.bias"]
    with pytest.raises(RuntimeError, match="output.bias"):
        network.load_state(saved)


def test_masks_hide_visible_entries_of_the_spots_chosen(tissue):
    spots = np.array([3, 50, 119])
    masking = Masking(hidden=(0.4, 0.6), whole=1 / 2)
    shares = []
    for seed in range(60):
        hidden = masking.draw(tissue, spots, torch.Generator().manual_seed(seed))
        assert hidden.shape == tissue.x.shape and hidden.dtype == bool
        assert not hidden.multiply(tissue.missing).nnz
        counts = np.asarray(hidden.sum(1)).ravel()
        assert counts[np.setdiff1d(np.arange(tissue.n_spots), spots)].sum() == 0
        shares += list(counts[spots] / (tissue.n_genes - np.diff(tissue.missing.indptr)[spots]))
    shares = np.array(shares)
    assert 0.35 < np.mean(shares == 1) < 0.65
    assert np.all(shares > 0.15)
    assert abs(np.mean(shares[shares < 1]) - 0.5) < 0.05


def test_rounds_are_as_many_as_the_pairs_wanted_take():
    masking = Masking(hidden=(0, 1), whole=0.5, spot_share=0.25, n_pairs=1000, max_rounds=16)
    assert [masking.rounds(n) for n in (1, 100, 500, 4000, 10**6)] == [16, 16, 8, 1, 1]


def test_every_second_round_masks_holes(branch, tissue):
    """Every spot of a hole is hidden whole, and its neighbours in the hole too."""
    graph = SpatialGraph(tissue.graph, tissue.lengths)
    masking = Masking(hidden=(0.5, 0.9), whole=0.0, spot_share=0.25, n_pairs=60, max_rounds=2, hole=0.2)
    pairs, spots = paired(branch, tissue, masking)
    single, holes = spots[:30], spots[30:]
    assert len(holes) == 30 and (pairs.condition[30:, -1] > 0.999).all() and (pairs.condition[:30, -1] < 0.999).any()

    def neighbors_within(some):
        return graph.weights[some][:, some].astype(bool).sum() / len(some)

    assert neighbors_within(holes) > 1.5 * neighbors_within(single)


def test_every_round_masks_its_share_of_the_spots(branch, tissue):
    masking = Masking(hidden=(0.5, 0.9), whole=0.5, spot_share=0.25, n_pairs=60, max_rounds=9)
    pairs, spots = paired(branch, tissue, masking)
    assert len(spots) == len(pairs.offset) == 2 * 30
    assert len(set(spots[:30])) == 30  # none twice in a round
