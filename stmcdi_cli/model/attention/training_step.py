"""One step of Algorithm 1 as a module: from a batch of spots to the loss, on all cores or as a recording of a GPU."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from stmcdi_cli.model.attention.denoiser import Denoiser
from stmcdi_cli.model.device import parallel_map
from stmcdi_cli.model.diffusion.loss import noise_loss
from stmcdi_cli.model.diffusion.schedule import Schedule


class TrainingStep(nn.Module):
    """Loss of predicting the noise in hidden entries of some spots (eq. 8).

    Parameters
    ----------
    network
        The network to train or to validate.
    schedule
        The forward process.
    """

    def __init__(self, network: nn.Module, schedule: Schedule) -> None:
        super().__init__()
        assert isinstance(network, Denoiser)
        self.network = network
        self.schedule = schedule
        self.n_recorded = 0  # rows of a recorded step

    def record(self, n_spots: int, n_genes: int, hops: int) -> None:
        """Record the forward and backward pass of `n_spots` spots as CUDA graphs, which smaller batches use too.

        A step is hundreds of small operations. To start them one by one takes the CPU longer than the GPU needs to
        compute them: with 200 genes, 24 ms instead of 9 (`benchmarks/gpu_step.py`).
        """
        device = self.network.genes.device
        rows = torch.zeros(n_spots, n_genes, device=device)
        t = torch.ones(n_spots, dtype=torch.int64, device=device)
        around = torch.zeros(n_spots, hops, n_genes, device=device)
        torch.cuda.make_graphed_callables(self, (rows, rows + 1, around, rows + 1, t, rows.clone()))
        self.n_recorded = n_spots

    def __call__(self, *batch: Tensor) -> Tensor:
        """Loss of a batch: see `forward`."""
        if batch[0].is_cuda:
            return super().__call__(*self._filled(batch))
        if torch.distributed.is_initialized():  # the processes exchange rows within the network
            return super().__call__(*batch)
        parameters = tuple(self.parameters()) if torch.is_grad_enabled() else ()
        return _InBlocks.apply(self, batch, *parameters)

    def _filled(self, batch: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The batch with the recorded number of rows, the last of which have no target."""
        n_more = self.n_recorded - len(batch[0])
        if not self.n_recorded or not n_more:
            return batch
        x_0, visible, around, target, t, eps = (
            torch.cat([part, part.new_ones(n_more, *part.shape[1:])]) for part in batch
        )
        target[-n_more:] = 0
        return x_0, visible, around, target, t, eps

    def forward(self, x_0: Tensor, visible: Tensor, around: Tensor, target: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """Loss on the `target` entries of `x_0`; the network sees the `visible` ones alone.

        Parameters
        ----------
        x_0, eps
            Standardised expression, and the noise to add to it [B, G].
        visible, target
            1 for the entries that the network sees, and for those it predicts [B, G].
        around
            Expression of the rings around each spot [B, hops, G].
        t
            The diffusion step of each spot [B].
        """
        x_co = x_0 * visible
        condition = self.network.encoder(x_co, around)

        def predict(x_t: Tensor, t: Tensor) -> Tensor:
            return self.schedule.noise_from_v(x_t, self.network(x_t, t, x_co, visible, target, condition), t)

        return noise_loss(predict, self.schedule, x_0, target, t, eps)


class _InBlocks(torch.autograd.Function):
    """Loss of a batch by blocks of its rows, forward and backward pass of a block at a time on each core.

    The blocks are the same for any number of cores, and their sums are added in order: so is every bit of the result.
    """

    @staticmethod
    def forward(ctx, step: TrainingStep, batch: Sequence[Tensor], *parameters: Tensor) -> Tensor:
        target = batch[3]
        n_targets = target.sum().clamp(min=1)

        def one(rows: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            with torch.set_grad_enabled(bool(parameters)):
                loss = step.forward(*rows) * (rows[3].sum() / n_targets)
            return loss.detach(), *(torch.autograd.grad(loss, parameters) if parameters else ())

        n_rows = max(2, min(16, _ENTRIES // target.shape[1]))
        blocks = zip(*(part.split(n_rows) for part in batch), strict=True)
        loss, *gradients = (sum(parts) for parts in zip(*parallel_map(one, blocks), strict=True))
        ctx.gradients = gradients
        return loss

    @staticmethod
    def backward(ctx, gradient: Tensor):
        return None, None, *(gradient * part for part in ctx.gradients)


_ENTRIES = 1600
"""Entries of the expression matrix in a block."""
