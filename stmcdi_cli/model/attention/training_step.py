"""One step of Algorithm 1 as a module: from a batch of spots to the loss, on all cores or as a recording of a GPU."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from stmcdi_cli.model.attention.denoiser import Denoiser
from stmcdi_cli.model.device import parallel_map
from stmcdi_cli.model.diffusion.loss import noise_loss, v_loss
from stmcdi_cli.model.diffusion.schedule import Schedule


class TrainingStep(nn.Module):
    """Loss of predicting the noise in hidden entries of some spots (eq. 8).

    A network that starts from a factor model is trained with the weights of `v_loss`: what is expected of an entry is
    learnt at the steps with the most noise, which hardly count in eq. 8.

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
        start = rows.clone(), rows + 1
        torch.cuda.make_graphed_callables(self, (rows, rows + 1, around, rows + 1, *start, t, rows.clone()))
        self.n_recorded = n_spots
        # A recording is made on a stream of its own, and gradients are added up on another. PyTorch waits for the one
        # before the other, and newer versions warn of it.
        if warn := getattr(torch.autograd.graph, "set_warn_on_accumulate_grad_stream_mismatch", None):
            warn(False)

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
        more = [torch.cat([part, part.new_ones(n_more, *part.shape[1:])]) for part in batch]
        more[3][-n_more:] = 0
        return tuple(more)

    def forward(
        self,
        x: Tensor,
        visible: Tensor,
        around: Tensor,
        target: Tensor,
        expected: Tensor,
        sd: Tensor,
        t: Tensor,
        eps: Tensor,
    ) -> Tensor:
        """Loss on the `target` entries of `x`; the network sees the `visible` ones alone.

        Parameters
        ----------
        x, eps
            Standardised expression, and the noise to add to x_0 [B, G].
        visible, target
            1 for the entries that the network sees, and for those it predicts [B, G].
        around
            Expression of the rings around each spot [B, hops, G].
        expected, sd
            Mean and standard deviation of the entries by which x_0 is scaled (`Expectation`); else 0 and 1 [B, G].
        t
            The diffusion step of each spot [B].
        """
        x_co = x * visible
        condition = self.network.encoder(x_co, around)

        def predict_v(x_t: Tensor, t: Tensor) -> Tensor:
            return self.network(x_t, t, x_co, visible, target, expected, condition)

        def predict(x_t: Tensor, t: Tensor) -> Tensor:
            return self.schedule.noise_from_v(x_t, predict_v(x_t, t), t)

        if self.network.expects:
            return v_loss(predict_v, self.schedule, (x - expected) / sd, t, eps, target)
        return noise_loss(predict, self.schedule, x, target, t, eps)


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
