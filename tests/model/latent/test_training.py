"""Of what a network adds to the closed form, the part is kept that holds in the other half of the tissue."""

import numpy as np
import pytest
import torch

import stmcdi_cli as stmcdi
from stmcdi_cli.model.diffusion.schedule import Schedule
from stmcdi_cli.model.latent import training as module
from stmcdi_cli.model.latent.diffusion import LatentDiffusion, TrainingPairs, condition_size
from stmcdi_cli.model.latent.factor_model import SpatialFactorModel
from stmcdi_cli.model.latent.masking import Masking
from stmcdi_cli.model.latent.training import halves, train_denoisers
from stmcdi_cli.model.tissue import Tissue
from stmcdi_cli.model.training.checkpoint import Checkpoint
from stmcdi_cli.model.training.trainer import Training

SETTINGS = Training(epochs=40, batch_size=64, lr=5e-3, lr_schedule="cosine")


@pytest.fixture(scope="module")
def tissue():
    raw = stmcdi.simulate(n_spots=150, n_genes=40, depth=400, seed=0)
    return Tissue.from_anndata(stmcdi.build_graph(stmcdi.normalize(raw)))


@pytest.fixture
def branch(tissue):
    encoder = SpatialFactorModel(rank=3, full_depth=0.25)
    encoder.fit(tissue, sweeps=10, seed=0)
    branch = LatentDiffusion(encoder, Schedule(T=50, beta_1=1e-4, beta_T=0.5), {"width": 16, "depth": 1, "dropout": 0})
    branch.encode(tissue)
    return branch


def train(branch, tissue, monkeypatch, shift):
    """Train on pairs of which u_0 lies around a shift of each spot's own [n, rank]; gives part and history."""
    spots, rank = np.repeat(np.arange(tissue.n_spots), 4), branch.encoder.rank
    random = torch.Generator().manual_seed(0)
    place = torch.randn(tissue.n_spots, condition_size(rank), generator=random)
    place[:, -1] = 1  # the prior's share

    def pairs(self, tissue, spots_to_mask, masking, generator):
        spread = torch.eye(rank).expand(len(spots), rank, rank) * 0.5
        return TrainingPairs(shift[spots], spread, place[spots]), spots

    monkeypatch.setattr(LatentDiffusion, "training_pairs", pairs)
    kept, history = [], []
    monkeypatch.setattr(LatentDiffusion, "keep_part", lambda self, part: kept.append(part))
    train_denoisers(
        [branch],
        tissue,
        masking=Masking(hidden=(0.1, 1.0), whole=0.5),
        training=SETTINGS,
        updates=0,
        seed=0,
        device=torch.device("cpu"),
        report=lambda row: history.append(dict(row)),
        checkpoint=Checkpoint(),
    )
    return kept[0], history


def test_what_holds_everywhere_is_kept(branch, tissue, monkeypatch):
    part, history = train(branch, tissue, monkeypatch, torch.full((tissue.n_spots, 3), 1.5))
    assert part > 0.9 and history[-1]["kept_linear"] == part
    assert history[-1]["validation_loss"] < 0.8 * history[0]["validation_loss"]
    assert [row["epoch"] for row in history] == list(range(SETTINGS.epochs + 1))


def test_what_each_spot_has_of_its_own_is_not(branch, tissue, monkeypatch):
    """The network can learn it by heart, from conditions that no other spot has: elsewhere that is of no use."""
    own = torch.randn(tissue.n_spots, 3, generator=torch.Generator().manual_seed(1))
    part, history = train(branch, tissue, monkeypatch, 1.5 * own)
    assert history[-1]["loss"] < 0.95 * history[1]["loss"]
    assert part < 0.35
    assert history[-1]["validation_loss"] <= history[0]["validation_loss"]


def test_a_part_of_the_output_is_that_part_of_every_prediction(branch):
    torch.nn.init.normal_(branch.network.output.weight, generator=torch.Generator().manual_seed(0))
    torch.nn.init.normal_(branch.network.output.bias, generator=torch.Generator().manual_seed(1))
    u, condition = torch.randn(2, 5, 3)[0], torch.rand(5, condition_size(3))
    with torch.no_grad():
        before = branch.network(u, torch.tensor([3] * 5), condition)
        branch.keep_part(0.25)
        torch.testing.assert_close(branch.network(u, torch.tensor([3] * 5), condition), before / 4)
        branch.keep_part(0.0)
        assert not branch.network(u, torch.tensor([3] * 5), condition).any()


@pytest.mark.parametrize(
    ("along", "size", "part"),
    [(0.2, 0.2, 1.0), (0.1, 0.2, 2 / 3), (0.3, 0.2, 1.0), (-0.1, 0.2, 0.0), (0.0, 0.0, 0.0)],
)
def test_a_network_of_all_spots_is_trusted_more_than_those_of_half(along, size, part):
    found = module._Agreement(*(torch.tensor([value]) for value in (along, size, 1.0)))
    assert found.parts.item() == pytest.approx(part)
    assert found.loss() <= 1.0


def test_halves_are_of_regions(branch, tissue):
    graph, spots = branch.encoder.graph, np.arange(0, tissue.n_spots)
    half = halves(graph, spots, seed=0)
    assert 0.35 < half.mean() < 0.65
    row, column = tissue.graph.nonzero()
    assert np.mean(half[row] == half[column]) > 0.6  # dealt out spot by spot, half of the neighbours would be
    np.testing.assert_array_equal(half, halves(graph, spots, seed=0))
    assert (half != halves(graph, spots, seed=1)).any()
