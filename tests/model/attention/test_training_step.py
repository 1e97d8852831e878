"""One step of Algorithm 1: the loss by blocks of rows, on any number of cores."""

import pytest
import torch

from stmcdi_cli.model.attention.denoiser import Denoiser
from stmcdi_cli.model.attention.training_step import TrainingStep
from stmcdi_cli.model.device import single_threaded
from stmcdi_cli.model.diffusion.schedule import Schedule

NETWORK = {"layers": 2, "channels": 8, "heads": 4, "step_embedding": 8, "gene_embedding": 4, "hops": 1}
N_SPOTS, N_GENES = 21, 90  # two blocks of 16 and 5 spots


@pytest.fixture
def step():
    torch.manual_seed(0)
    network = Denoiser(N_GENES, **NETWORK, graph_hidden=16, graph_condition=8)
    torch.nn.init.normal_(network.output.weight)
    return TrainingStep(network, Schedule())


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    x_0, eps = torch.randn(2, N_SPOTS, N_GENES, generator=generator)
    target = (torch.rand(N_SPOTS, N_GENES, generator=generator) < 0.4).float()
    target[3] = 0  # a spot without targets
    around = torch.randn(N_SPOTS, 1, N_GENES, generator=generator)
    t = torch.randint(1, 51, (N_SPOTS,), generator=generator)
    return x_0, 1 - target, around, target, torch.zeros_like(x_0), torch.ones_like(x_0), t, eps


def gradients(step, loss):
    step.zero_grad()
    loss.backward()
    return [parameter.grad.clone() for parameter in step.parameters()]


def test_blocks_give_the_loss_of_the_whole_batch(step, batch):
    whole = step.forward(*batch)
    blocks = step(*batch)
    torch.testing.assert_close(blocks, whole)
    for a, b in zip(gradients(step, step(*batch)), gradients(step, whole), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_the_number_of_cores_changes_no_bit(step, batch, monkeypatch):
    found = []
    for cores in (1, 2, 3):
        monkeypatch.setenv("OMP_NUM_THREADS", str(cores))
        with single_threaded():  # as in training
            loss = step(*batch)
            found.append([loss.detach(), *gradients(step, loss)])
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


def test_a_scaled_loss_has_scaled_gradients(step, batch):
    plain, scaled = gradients(step, step(*batch)), gradients(step, 3 * step(*batch))
    for a, b in zip(plain, scaled, strict=True):
        torch.testing.assert_close(3 * a, b)


def test_without_gradients_the_loss_is_the_same(step, batch):
    with torch.no_grad():
        loss = step(*batch)
    assert not loss.requires_grad
    torch.testing.assert_close(loss, step.forward(*batch).detach())


def test_a_batch_without_targets_has_no_loss(step, batch):
    x, visible, around, target, *others = batch
    loss = step(x, visible, around, torch.zeros_like(target), *others)
    assert loss == 0  # not NaN
    assert all((gradient == 0).all() for gradient in gradients(step, loss))


def test_rows_that_fill_a_recorded_batch_change_nothing(step, batch):
    step.n_recorded = N_SPOTS + 3
    filled = step._filled(batch)
    assert {len(part) for part in filled} == {N_SPOTS + 3} and not filled[3][N_SPOTS:].any()
    torch.testing.assert_close(step.forward(*filled), step.forward(*batch))
