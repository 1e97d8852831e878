"""A GPU that computes no values: code for `cuda` runs on a machine without one, and a mixture of devices raises.

Tensors on it are `FakeTensor`s of PyTorch, which have a shape, a type and a device. What lies on the CPU is computed as
ever. What comes from the GPU to the CPU is 0, and a number taken from it is 1. What does not work with such tensors is
replaced: `Module.to`, `Tensor.backward`, which gives every parameter a gradient without values, and CUDA graphs.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

CUDA = torch.device("cuda")


class FakeGpu(TorchDispatchMode):
    """Within, tensors on `cuda` are fake; `syncs` counts what makes the program wait for the GPU, by its name."""

    def __init__(self) -> None:
        super().__init__()
        self.fake = FakeTensorMode(allow_non_fake_inputs=True)
        self.n_calls = 0
        self.syncs: dict[str, int] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None) -> Any:
        kwargs = kwargs or {}
        parts = tree_flatten((args, kwargs))[0]
        tensors = [part for part in parts if isinstance(part, Tensor)]
        fakes = [part for part in tensors if isinstance(part, FakeTensor)]
        to_gpu = any(isinstance(part, torch.device) and part.type == "cuda" for part in parts)
        if not fakes and not to_gpu:
            with unset_fake_temporarily():
                return func(*args, **kwargs)
        self.n_calls += 1
        name = func.overloadpacket.__name__
        if name == "_local_scalar_dense":  # `item`, `bool`, `float`
            self._sync("item")
            return {torch.bool: True}.get(fakes[0].dtype, 1.0 if fakes[0].is_floating_point() else 1)
        if name == "index" and args[0].device.type == "cpu":  # which the fake mode lets pass
            raise RuntimeError("indices should be on the same device as the indexed tensor (cpu)")
        with self.fake:
            if not fakes and tensors:
                self._sync("to the GPU")
                moved = torch.empty(tensors[0].shape, dtype=tensors[0].dtype, device=CUDA)
                return moved if kwargs.get("dtype") is None else moved.to(kwargs["dtype"])
            result = func(*args, **kwargs)
        with unset_fake_temporarily():
            return tree_map(self._back, result)

    def _back(self, value: Any) -> Any:
        if not isinstance(value, FakeTensor) or value.device.type == "cuda":
            return value
        self._sync("to the CPU")
        return torch.zeros(value.shape, dtype=value.dtype)

    def _sync(self, kind: str) -> None:
        self.syncs[kind] = self.syncs.get(kind, 0) + 1


def _to(module: nn.Module, device: torch.device | str) -> nn.Module:
    for part in module.modules():
        for name, value in part._parameters.items():
            if value is not None:
                part._parameters[name] = nn.Parameter(value.detach().to(device), value.requires_grad)
        for name, value in part._buffers.items():
            if value is not None:
                part._buffers[name] = value.to(device)
    return module


def _backward(loss: Tensor) -> None:
    """Give each parameter that a loss depends on a gradient."""
    left, seen = [loss.grad_fn], set()
    while left:
        node = left.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        left += [following for following, _ in node.next_functions]
        if hasattr(node, "variable"):
            node.variable.grad = torch.zeros_like(node.variable)


def _set_rng_state(state: Tensor) -> None:
    assert state.device.type == "cpu" and state.dtype == torch.uint8


@contextmanager
def fake_gpu() -> Iterator[FakeGpu]:
    """Within, ``cuda`` is a `FakeGpu`, and work is done in one thread, as the mode is known to one only."""
    gpu = FakeGpu()
    try:
        with gpu.fake:
            torch.ones(1, device=CUDA)
    except RuntimeError as error:
        pytest.skip(f"NO DEVICE TESTED: this version of torch makes no fake tensors for a GPU ({error})")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.Module, "to", _to)
        patch.setattr(Tensor, "backward", _backward)
        patch.setattr(torch.cuda, "get_rng_state", torch.get_rng_state)
        patch.setattr(torch.cuda, "set_rng_state", _set_rng_state)
        patch.setattr(torch.cuda, "device_count", lambda: 1)
        patch.setattr(torch.cuda, "mem_get_info", lambda device: (2**30, 2**30))
        patch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
        patch.setattr(torch.cuda, "make_graphed_callables", lambda module, batch: module(*batch))
        patch.setattr("stmcdi_cli.model.device.choose_device", torch.device)
        patch.setattr("stmcdi_cli.model.device.n_workers", lambda: 1)
        gpu.syncs.clear()
        gpu.n_calls = 0
        with gpu.fake, gpu:  # `gpu` is asked first; under it the mode keeps torch from looking for a driver
            yield gpu
