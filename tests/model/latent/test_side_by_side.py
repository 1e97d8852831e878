"""Networks side by side do what each does alone, and learn what each would learn."""

import pytest
import torch

from stmcdi_cli.model.latent.diffusion import LatentDenoiser, condition_size
from stmcdi_cli.model.latent.side_by_side import side_by_side, take_apart

RANK, STEPS = 3, 10


def network(seed):
    torch.manual_seed(seed)
    made = LatentDenoiser(RANK, width=8, depth=2, dropout=0.0, steps=STEPS)
    for parameter in made.parameters():  # also the output, which starts at 0, and what starts at 1
        torch.nn.init.normal_(parameter, std=0.5)
    return made


@pytest.fixture
def inputs():
    torch.manual_seed(9)
    t = torch.randint(1, STEPS + 1, (2, 5))
    return torch.randn(2, 5, RANK), t, torch.rand(2, 5, condition_size(RANK))


def test_each_predicts_and_learns_as_alone(inputs):
    alone = [network(0), network(1)]
    joint = side_by_side(alone)
    predicted = joint(*inputs)
    for i, each in enumerate(alone):
        own = each(*(value[i] for value in inputs))
        torch.testing.assert_close(predicted[i], own)
        own.square().sum().backward()
    predicted.square().sum().backward()
    gradients = {name: parameter.grad for name, parameter in joint.named_parameters()}
    for i, each in enumerate(alone):
        for name, parameter in each.named_parameters():
            torch.testing.assert_close(gradients[name][i], parameter.grad)
    assert set(gradients) == {name for name, _ in alone[0].named_parameters()}


def test_taken_apart_they_have_their_weights_again(inputs):
    alone = [network(0), network(1)]
    others = [network(2), network(3)]
    take_apart(side_by_side(alone), others)
    for one, other in zip(alone, others, strict=True):
        for name, value in one.state_dict().items():
            assert torch.equal(value, other.state_dict()[name])
