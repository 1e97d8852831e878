"""The optimiser of every training: AdamW (Loshchilov & Hutter 2019), by PyTorch's own function of that name.

`torch.optim.AdamW` imports PyTorch's compiler when it is made, which nothing here uses: 2 s of CPU time in each run of
`train`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw

_HAS_FUSED_ADAM_ON_CPU = tuple(int(part) for part in torch.__version__.split(".")[:2]) >= (2, 4)
"""Whether an update of all parameters is one operation: of small networks it takes a third of the time."""
_BETA_1, _BETA_2, _EPSILON = 0.9, 0.999, 1e-8


class AdamW:
    """Update parameters by their gradients.

    Parameters
    ----------
    parameters
        What to update, each on its device.
    weight_decay
        Decoupled weight decay; 0 is Adam.
    """

    def __init__(self, parameters: Sequence[Tensor], weight_decay: float) -> None:
        self.parameters = list(parameters)
        self.weight_decay = weight_decay
        self.means = [torch.zeros_like(parameter) for parameter in self.parameters]
        self.squares = [torch.zeros_like(parameter) for parameter in self.parameters]
        self.steps = [torch.zeros(()) for _ in self.parameters]  # on the CPU, or every step would wait for a GPU
        self.fused = _HAS_FUSED_ADAM_ON_CPU and not self.parameters[0].is_cuda

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """Update the parameters that have a gradient, at a learning rate."""
        found = [(i, parameter.grad) for i, parameter in enumerate(self.parameters) if parameter.grad is not None]
        parameters, means, squares, steps = (
            [values[i] for i, _ in found] for values in (self.parameters, self.means, self.squares, self.steps)
        )
        adamw(
            parameters,
            [gradient for _, gradient in found],
            means,
            squares,
            [],
            steps,
            foreach=not self.fused,
            fused=self.fused,
            amsgrad=False,
            beta1=_BETA_1,
            beta2=_BETA_2,
            lr=lr,
            weight_decay=self.weight_decay,
            eps=_EPSILON,
            maximize=False,
        )

    def state_dict(self) -> dict[str, Any]:
        """The running means of gradients and of their squares, and the number of steps, in PyTorch's names."""
        values = zip(self.steps, self.means, self.squares, strict=True)
        return {
            "state": {
                i: {"step": step, "exp_avg": mean, "exp_avg_sq": square}
                for i, (step, mean, square) in enumerate(values)
            }
        }

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        for i, values in state["state"].items():
            for name, own in (("step", self.steps), ("exp_avg", self.means), ("exp_avg_sq", self.squares)):
                own[i].copy_(values[name])
