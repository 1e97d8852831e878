from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp
import torch

import stmcdi_cli as stmcdi
from stmcdi_cli.model.diffusion.schedule import Schedule
from stmcdi_cli.model.latent.diffusion import Masking, ScoreDiffusion
from stmcdi_cli.model.latent.factor_model import LINKS, FactorGraph
from stmcdi_cli.model.tissue import Tissue

NETWORK = {"width": 8, "depth": 1, "dropout": 0.0}


@pytest.fixture(scope="module")
def tissue():
    raw = stmcdi.simulate(n_spots=120, n_genes=60, depth=500, seed=0)
    masked, _ = stmcdi.hold_out(stmcdi.build_graph(stmcdi.normalize(raw)), seed=0)
    return Tissue.from_anndata(masked)


@pytest.fixture(params=LINKS)
def member(request, tissue):
    graph = FactorGraph(rank=4, smoothing=0.9, full_depth=0.25, link=request.param)
    linear = FactorGraph(rank=4, smoothing=0.9, full_depth=0.25)
    linear.fit(tissue, sweeps=8, seed=0)
    graph.fit(tissue, sweeps=8, seed=0, start=linear)
    member = ScoreDiffusion(graph, Schedule(T=50, beta_1=1e-4, beta_T=0.5), NETWORK)
    member.encode(tissue)
    return member


def paired(member, tissue, masking, spots=None):
    spots = np.arange(tissue.n_spots) if spots is None else spots
    return member.pairs(tissue, tissue, spots, masking, torch.Generator().manual_seed(0))


def changed(tissue, spot):
    """The same tissue with other counts at one spot."""
    x = tissue.x.tolil()
    x[spot] = np.log1p(np.random.default_rng(0).poisson(3, tissue.n_genes) / tissue.depth[spot])
    x = sp.csr_matrix(x, dtype=np.float32)
    return replace(tissue, x=sp.csr_matrix(x - x.multiply(tissue.missing)))


def test_what_is_masked_reaches_the_condition_on_no_way(member, tissue):
    """Not even through the neighbours, whose scores depend on the spot's entries unless these are masked."""
    spot, masking = 17, Masking(hidden=(0.5, 0.9), whole=1.0, part=0.01, most_rounds=1)
    other = changed(tissue, spot)
    (before, _), _ = paired(member, tissue, masking, np.array([spot])), member.encode(other)
    after, _ = paired(member, other, masking, np.array([spot]))
    torch.testing.assert_close(after.condition, before.condition, rtol=0, atol=0)
    assert (after.offset - before.offset).abs().max() > 0.1


def test_a_spot_wholly_masked_is_told_its_neighbours_alone(member, tissue):
    pairs, _ = paired(member, tissue, Masking(hidden=(0.5, 0.9), whole=1.0))
    mean, prior, share = pairs.condition[:, :4], pairs.condition[:, 4:8], pairs.condition[:, -1]
    torch.testing.assert_close(mean, prior)
    torch.testing.assert_close(share, torch.ones(len(share)))


def test_the_more_is_visible_the_less_the_network_says(member, tissue):
    torch.nn.init.normal_(member.network.leave.weight, generator=torch.Generator().manual_seed(0))
    said = []
    for hidden in (0.05, 0.5, 0.95, 1.0):
        pairs, _ = paired(member, tissue, Masking(hidden=(hidden, hidden), whole=0.0))
        with torch.no_grad():
            v = member.network.eval()(torch.ones(len(pairs.offset), 4), torch.tensor(10), pairs.condition)
        assert torch.all(pairs.condition[:, -1] > 0) and torch.all(pairs.condition[:, -1] < 1.001)
        said.append((v.square().mean().sqrt().item(), pairs.condition[:, -1].mean().item()))
    loudness, shares = zip(*said, strict=True)
    assert list(loudness) == sorted(loudness) and list(shares) == sorted(shares)
    assert shares[0] < 0.5


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
    masking = Masking(hidden=(0, 1), whole=0.5, part=0.25, pairs=1000, most_rounds=16)
    assert [masking.rounds(n) for n in (1, 100, 500, 4000, 10**6)] == [16, 16, 8, 1, 1]


def test_every_round_masks_its_part_of_the_spots(member, tissue):
    masking = Masking(hidden=(0.5, 0.9), whole=0.5, part=0.25, pairs=60, most_rounds=9)
    pairs, spots = paired(member, tissue, masking)
    assert len(spots) == len(pairs.offset) == 2 * 30
    assert len(set(spots[:30])) == 30  # none twice in a round
