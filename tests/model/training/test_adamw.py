"""The optimiser is `torch.optim.AdamW`, without its import of PyTorch's compiler."""

import copy
import subprocess
import sys

import pytest
import torch
from torch import nn

from stmcdi_cli.model.training.adamw import AdamW


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.SiLU(), nn.Linear(3, 2), nn.Linear(2, 2))


def learn(net, x):
    """Set gradients; the last layer has none."""
    net[:3](x).square().sum().backward()


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_it_takes_the_steps_of_pytorch(weight_decay):
    ours, theirs = network(), network()
    optimizer = AdamW(list(ours.parameters()), weight_decay)
    reference = torch.optim.AdamW(theirs.parameters(), weight_decay=weight_decay, fused=optimizer.fused)
    for i in range(5):
        x, lr = torch.randn(8, 4, generator=torch.Generator().manual_seed(i)), 0.1 / (i + 1)
        for group in reference.param_groups:
            group["lr"] = lr
        reference.zero_grad()
        optimizer.zero_grad()
        learn(ours, x)
        learn(theirs, x)
        reference.step()
        optimizer.step(lr)
        for own, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert torch.equal(own, other)
    assert not torch.equal(ours[0].weight, network()[0].weight)
    assert torch.equal(ours[3].weight, network()[3].weight)


def test_it_goes_on_from_its_state_and_from_that_of_pytorch():
    ours, x = network(), torch.ones(8, 4)
    optimizer = AdamW(list(ours.parameters()), 0.1)
    reference = torch.optim.AdamW(ours.parameters(), lr=0.1, weight_decay=0.1)
    learn(ours, x)
    reference.step()
    optimizer.load_state_dict(reference.state_dict())
    assert set(reference.state_dict()["state"][0]) == set(optimizer.state_dict()["state"][0])
    other = copy.deepcopy(ours)
    again = AdamW(list(other.parameters()), 0.1)
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for net, own in ((ours, optimizer), (other, again)):
        own.zero_grad()
        learn(net, x)
        own.step(0.1)
    for one, two in zip(ours.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)
    assert again.steps[0] == 2 and again.steps[-1] == 0


def test_it_does_not_import_the_compiler():
    code = "from torch import nn; from stmcdi_cli.model.training.adamw import AdamW; import sys, torch\n"
    code += (
        "net = nn.Linear(2, 2); net(torch.ones(1, 2)).sum().backward(); AdamW(list(net.parameters()), 0.1).step(0.1)\n"
    )
    code += "nn.utils.clip_grad_norm_(net.parameters(), 1.0)\n"
    code += "sys.exit('torch._dynamo' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
