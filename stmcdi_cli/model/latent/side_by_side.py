"""Several networks of the same shape as one: an operation does the same layer of all, which small networks gain by."""

import copy
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)


class _Linears(nn.Module):
    """Linear layers [n, out, in] of inputs [n, B, in]."""

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        super().__init__()
        self.weight, self.bias = _stacked(layers, "weight"), _stacked(layers, "bias")

    def forward(self, x: Tensor) -> Tensor:
        return torch.baddbmm(self.bias[:, None], x, self.weight.mT)


class _LayerNorms(nn.Module):
    """Layer normalisations of inputs [n, B, channels]."""

    def __init__(self, layers: Sequence[nn.LayerNorm]) -> None:
        super().__init__()
        self.weight, self.bias = _stacked(layers, "weight"), _stacked(layers, "bias")
        self.shape, self.eps = layers[0].normalized_shape, layers[0].eps

    def forward(self, x: Tensor) -> Tensor:
        normal = nn.functional.layer_norm(x, self.shape, eps=self.eps)
        return torch.addcmul(self.bias[:, None], normal, self.weight[:, None])


class _Embeddings(nn.Module):
    """Embeddings of numbers [n, B]."""

    def __init__(self, layers: Sequence[nn.Embedding]) -> None:
        super().__init__()
        self.weight = _stacked(layers, "weight")

    def forward(self, number: Tensor) -> Tensor:
        n, size, _ = self.weight.shape
        first = size * torch.arange(n, device=number.device)[:, None]
        return nn.functional.embedding(number + first, self.weight.flatten(0, 1))


def _stacked(layers: Sequence[nn.Module], name: str) -> nn.Parameter:
    return nn.Parameter(torch.stack([layer.get_parameter(name).detach() for layer in layers]))


_LAYERS: dict[type[nn.Module], Callable[..., nn.Module]] = {
    nn.Linear: _Linears,
    nn.LayerNorm: _LayerNorms,
    nn.Embedding: _Embeddings,
}


def side_by_side(networks: Sequence[Network]) -> Network:
    """Give one network that does what several of the same shape do, each with its own weights and inputs.

    Inputs and outputs have one dimension more, the first, for the network. Their forward passes must leave that to the
    layers: address dimensions from the last.
    """
    joint = copy.deepcopy(networks[0])
    for path, layer in list(joint.named_modules()):
        if type(layer) in _LAYERS:
            parent, _, name = path.rpartition(".")
            same = [network.get_submodule(path) for network in networks]
            setattr(joint.get_submodule(parent), name, _LAYERS[type(layer)](same))
    joint.batch_dim = 1  # type: ignore[assignment]  # `distributed.split_batch` asks for it
    return joint


def take_apart(joint: Network, networks: Sequence[Network]) -> None:
    """Load the weights of the network that `side_by_side` gave back into those that it was made of."""
    state = joint.state_dict()
    for i, network in enumerate(networks):
        network.load_state_dict({name: value[i] for name, value in state.items()})
