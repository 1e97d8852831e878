"""What the networks of appendix F share: the latent they read, the entries they learn from, and when they stop.

They read what the diffusion model diffuses: a spot's latents in the graph encoder, here with the spot's depth. The
encoder is fitted once. Then half of its entries are hidden from it, several times over, and a network learns to
predict them from the latents that the other half and the neighbours give; it stops when entries that neither encoder
nor network has seen are predicted no better. At last the latents of all visible entries are decoded.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from stmcdi_cli import anndata_keys as keys
from stmcdi_cli.baselines import base
from stmcdi_cli.errors import InputError
from stmcdi_cli.model.latent.factor_model import SpatialFactorModel

RANK = 15
SMOOTHING = 0.9
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
"""Least relative fall of the validation error that is worth going on for."""
LEARNING_RATE = 2e-3
WEIGHT_DECAY = 0.01


@dataclass(frozen=True)
class Batch:
    """Some spots to learn from.

    Attributes
    ----------
    latent
        What is known of each spot once its targets are hidden [B, c].
    z
        Standardised expression, 0 where nothing is visible [B, G].
    target
        1 where an entry is to be predicted, 0 elsewhere [B, G].
    seen
        1 where an entry is visible and no target [B, G].
    weight
        Variance of each gene over the mean one: what an error in its unit counts [G].
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
    """A network that decodes the latent; says how it learns from a batch and what it expects."""

    def loss(self, batch: Batch) -> Tensor:
        """What an update makes less."""
        raise NotImplementedError

    def predict(self, latent: Tensor) -> Tensor:
        """Expected standardised expression [B, G]."""
        raise NotImplementedError

    def start(self) -> None:
        """Set up what updates need."""
        self.optimizer = torch.optim.AdamW(self.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)

    def update(self, batch: Batch) -> None:
        """Take one step."""
        self.optimizer.zero_grad()
        self.loss(batch).backward()
        self.optimizer.step()


class Lessons:
    """All a network learns from.

    Parameters
    ----------
    data
        What is visible.
    seed
        Of the masks and the encoder.

    Raises
    ------
    InputError
        The data have neither a spatial graph nor coordinates to build one from.
    """

    def __init__(self, data: base.Visible, seed: int) -> None:
        if data.xy is None and not data.tissue.graph.nnz:
            raise InputError(
                f"expected spot coordinates in obsm['{keys.SPATIAL}'] or a graph, found neither; add them to the file"
            )
        self.chosen = base.choose_validation(data.seen, VALIDATION, seed)
        part = data.without(self.chosen)
        self.units = base.Units.of(part.x, part.seen, power=1)
        self.z = self.units.apply(part.x, part.seen)
        variance = torch.from_numpy(self.units.scale**2)
        self.weight = variance / variance.mean()
        self._x = data.x

        rank = max(1, min(RANK, data.x.shape[0] - 1, data.x.shape[1] - 1))
        encoder = SpatialFactorModel(rank=rank, smoothing=SMOOTHING, full_depth=FULL_DEPTH)
        encoder.fit(part.tissue, sweeps=SWEEPS, seed=seed)
        log_depth = torch.from_numpy(np.log(data.tissue.depth).astype(np.float32))

        def encode(visible: base.Visible) -> Tensor:
            return torch.cat([encoder.encode(visible.tissue)[0], log_depth[:, None]], dim=1)

        hidden = [base.choose_validation(part.seen, HIDDEN, seed + 1 + i) for i in range(N_MASKS)]
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
        """Give every spot once, in random order, under one of the masks."""
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
        return self.units.undo(torch.cat([network.predict(some) for some in latent.split(base.BLOCK)]))

    def validation_error(self, predicted: np.ndarray) -> float:
        """Squared error on the entries kept from encoder and network."""
        return float(((predicted - self._x) ** 2 * self.chosen).sum(dtype=np.float64))


def impute(data: base.Visible, build: Callable[[int, int], LatentNetwork], *, seed: int) -> base.Estimate:
    """Predict every entry by the mean of a few networks; `build` makes one for so many inputs and genes.

    Raises
    ------
    InputError
        The data have neither a spatial graph nor coordinates to build one from.
    """
    lessons = Lessons(data, seed)
    n_inputs, n_genes = lessons.latent.shape[1], data.x.shape[1]
    validated, mean = np.zeros_like(data.x), np.zeros_like(data.x)
    for member in range(N_MEMBERS):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(N_MEMBERS * seed + member)
            network = build(n_inputs, n_genes)
            train(network, lessons, torch.Generator().manual_seed(N_MEMBERS * seed + member))
            validated += lessons.predict(network, lessons.validation_latent) / N_MEMBERS
            mean += lessons.predict(network, lessons.latent) / N_MEMBERS
    return base.Estimate(mean, base.residual_sd(data.x, data.seen, validated, lessons.chosen))


def train(network: LatentNetwork, lessons: Lessons, generator: torch.Generator) -> None:
    """Update until validation has not improved for some epochs; leave the best weights in the network."""
    network.start()
    best_error, best = np.inf, network.state_dict()
    worth_error, worth_epoch = np.inf, 0
    for epoch in range(MOST_EPOCHS):
        network.train()
        for batch in lessons.batches(epoch, generator):
            network.update(batch)
        error = lessons.validation_error(lessons.predict(network, lessons.validation_latent))
        if error < best_error:
            best_error = error
            best = {name: value.clone() for name, value in network.state_dict().items()}
        if error < worth_error * (1 - PROGRESS):
            worth_error, worth_epoch = error, epoch
        if epoch - worth_epoch >= PATIENCE:
            break
    network.load_state_dict(best)
