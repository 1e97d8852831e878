"""One step of Algorithm 1 as a module: from a batch of spots to the loss. A GPU records it once and replays it."""

import torch
from torch import Tensor, nn

from stmcdi_cli.model.attention.denoiser import Denoiser
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
        """Loss of a batch, filled up to the recorded size by rows without targets."""
        n_more = self.n_recorded - len(batch[0])
        if self.n_recorded and n_more:
            assert n_more > 0
            batch = tuple(torch.cat([part, part.new_ones(n_more, *part.shape[1:])]) for part in batch)
            batch[3][-n_more:] = 0
        return super().__call__(*batch)

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
