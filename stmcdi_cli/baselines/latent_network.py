"""What the networks of appendix F share: their input, their training data, and when training stops.

The input is what the diffusion model diffuses: a spot's latents from the graph encoder, here together with the spot's
depth. The encoder is fitted once. Then half of its entries are hidden from it, several times, and a network is trained
to predict them from the latents that the other half and the neighbours give. Training stops when the error no longer
falls on validation entries, which neither encoder nor network has seen. In the end the latents given all visible
entries are decoded.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from stmcdi_cli import anndata_keys as keys
from stmcdi_cli.baselines import base
from stmcdi_cli.errors import InputError
from stmcdi_cli.model.gene_scaler import GeneScaler, gene_sd
from stmcdi_cli.model.latent.factor_model import SpatialFactorModel
from stmcdi_cli.model.training.adamw import AdamW

RANK = 15
FULL_DEPTH = 0.25
SWEEPS = 30
"""The encoder's settings, those of the default preset."""
N_MASKS = 6
HIDDEN = 0.5
VALIDATION = 0.1
N_MEMBERS = 3
BATCH_SIZE = 64
MOST_EPOCHS = 300
PATIENCE = 10
PROGRESS = 3e-4
"""Smallest relative fall of the validation error that counts as an improvement."""
LEARNING_RATE = 2e-3
WEIGHT_DECAY = 0.01


@dataclass(frozen=True)
class Batch:
    """Some spots to train on.

    Attributes
    ----------
    latent
        Latents and log depth of each spot, without its targets [B, c].
    z
        Standardised expression, 0 where nothing is visible [B, G].
    target
        1 where an entry is to be predicted, 0 elsewhere [B, G].
    seen
        1 where an entry is visible and not a target [B, G].
    weight
        Variance of each gene over the mean variance, the weight of its squared error [G].
    """

    latent: Tensor
    z: Tensor
    target: Tensor
    seen: Tensor
    weight: Tensor

    def error(self, predicted: Tensor) -> Tensor:
        """Mean squared error of the targets, on X's scale up to a constant."""
        return ((predicted - self.z).square() * self.target * self.weight).sum() / self.target.sum().clamp(min=1)


class LatentNetwork(nn.Module):
    """A network that decodes the latent; subclasses define its loss and its prediction."""

    def loss(self, batch: Batch) -> Tensor:
        """Loss of a batch, which an update lowers."""
        raise NotImplementedError

    def predict(self, latent: Tensor) -> Tensor:
        """Expected standardised expression [B, G]."""
        raise NotImplementedError

    def start(self) -> None:
        """Set up the optimiser."""
        self.optimizer = AdamW(list(self.parameters()), WEIGHT_DECAY)

    def update(self, batch: Batch) -> None:
        """Take one step."""
        self.optimizer.zero_grad()
        self.loss(batch).backward()
        self.optimizer.step(LEARNING_RATE)


class TrainingData:
    """All that a network is trained and validated on.

    Parameters
    ----------
    data
        The visible entries.
    seed
        Seed of the masks and the encoder.

    Raises
    ------
    InputError
        The data have neither a spatial graph nor coordinates to build one from.
    """

    def __init__(self, data: base.DenseTissue, seed: int) -> None:
        if data.xy is None and not data.tissue.graph.nnz:
            raise InputError(
                f"expected spot coordinates in obsm['{keys.SPATIAL}'] or a graph, found neither; add them to the file"
            )
        self.validation_mask = base.choose_entries(data.seen, VALIDATION, seed)
        part = data.without(self.validation_mask)
        self.scaler = GeneScaler.fit(part.x, part.seen)
        self.z = base.masked_tensor(self.scaler, part.x, part.seen)
        variance = torch.from_numpy(self.scaler.scale**2)
        self.weight = variance / variance.mean()
        self._x = data.x

        rank = max(1, min(RANK, data.x.shape[0] - 1, data.x.shape[1] - 1))
        encoder = SpatialFactorModel(rank=rank, full_depth=FULL_DEPTH)
        encoder.fit(part.tissue, sweeps=SWEEPS, seed=seed)
        log_depth = torch.from_numpy(np.log(data.tissue.depth).astype(np.float32))

        def encode(visible: base.DenseTissue) -> Tensor:
            return torch.cat([encoder.encode(visible.tissue)[0], log_depth[:, None]], dim=1)

        hidden = [base.choose_entries(part.seen, HIDDEN, seed + 1 + i) for i in range(N_MASKS)]
        latents = [encode(part.without(mask)) for mask in hidden]
        mean, sd = latents[0].mean(0), latents[0].std(0).clamp(min=1e-3)

        def standard(latent: Tensor) -> Tensor:
            return ((latent - mean) / sd).clamp(-5, 5)

        self.latents = [standard(latent) for latent in latents]
        self.targets = [torch.from_numpy(mask) for mask in hidden]
        self.seen = torch.from_numpy(part.seen)
        self.validation_latent = standard(encode(part))
        self.latent = standard(encode(data))

    def batches(self, epoch: int, generator: torch.Generator) -> "list[Batch]":
        """Give every spot once, in random order, with one of the masks."""
        latent, target = self.latents[epoch % N_MASKS], self.targets[epoch % N_MASKS]
        batches = []
        for spots in torch.randperm(len(self.z), generator=generator).split(BATCH_SIZE):
            hidden = target[spots]
            seen = (self.seen[spots] & ~hidden).float()
            batches.append(Batch(latent[spots], self.z[spots], hidden.float(), seen, self.weight))
        return batches

    @torch.no_grad()
    def predict(self, network: LatentNetwork, latent: Tensor) -> np.ndarray:
        """Expected expression on X's scale [n, G]."""
        network.eval()
        return self.scaler.inverse(torch.cat([network.predict(some) for some in latent.split(base.BLOCK)]).numpy())

    def validation_error(self, predicted: np.ndarray) -> float:
        """Squared error on the validation entries."""
        return float(((predicted - self._x) ** 2 * self.validation_mask).sum(dtype=np.float64))


def impute(data: base.DenseTissue, build: Callable[[int, int], LatentNetwork], *, seed: int) -> base.Estimate:
    """Predict every entry by the mean of a few networks; `build` makes one from the numbers of inputs and genes.

    Raises
    ------
    InputError
        The data have neither a spatial graph nor coordinates to build one from.
    """
    training_data = TrainingData(data, seed)
    n_inputs, n_genes = training_data.latent.shape[1], data.x.shape[1]
    validated, mean = np.zeros_like(data.x), np.zeros_like(data.x)
    for member in range(N_MEMBERS):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(N_MEMBERS * seed + member)
            network = build(n_inputs, n_genes)
            train(network, training_data, torch.Generator().manual_seed(N_MEMBERS * seed + member))
            validated += training_data.predict(network, training_data.validation_latent) / N_MEMBERS
            mean += training_data.predict(network, training_data.latent) / N_MEMBERS
    sd = base.residual_sd(data.x, data.seen, validated, training_data.validation_mask)
    # How well single entries are predicted does not say how well whole spots are, of which nothing is visible.
    gap_sd = np.maximum(sd, gene_sd(data.x, data.seen))
    return base.Estimate(mean, np.where(data.visible[:, None], sd, gap_sd) if not data.visible.all() else sd)


def train(network: LatentNetwork, data: TrainingData, generator: torch.Generator) -> None:
    """Train until validation has not improved for some epochs; the network keeps the best weights."""
    network.start()
    best_error, best = np.inf, network.state_dict()
    last_improvement, last_epoch = np.inf, 0  # the last error that was lower by a relevant amount
    for epoch in range(MOST_EPOCHS):
        network.train()
        for batch in data.batches(epoch, generator):
            network.update(batch)
        error = data.validation_error(data.predict(network, data.validation_latent))
        if error < best_error:
            best_error = error
            best = {name: value.clone() for name, value in network.state_dict().items()}
        if error < last_improvement * (1 - PROGRESS):
            last_improvement, last_epoch = error, epoch
        if epoch - last_epoch >= PATIENCE:
            break
    network.load_state_dict(best)
