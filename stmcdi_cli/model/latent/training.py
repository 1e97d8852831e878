"""Training of the denoisers of all branches together (Algorithm 1), with the loss in v (`diffusion.loss`).

What a network adds to the closed form holds only in part for spots it has not seen. How much is found by
cross-validation (Wolpert 1992, stacked generalization): networks trained on one half of the tissue predict v in the
other, and the part is the least-squares factor between v and their predictions. The network that is kept is trained on
all spots, and its output is multiplied by that part.
"""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from stmcdi_cli.model.diffusion.loss import Predict, v_loss
from stmcdi_cli.model.diffusion.schedule import Schedule
from stmcdi_cli.model.latent.diffusion import LatentDiffusion, TrainingPairs
from stmcdi_cli.model.latent.masking import Masking
from stmcdi_cli.model.latent.spatial_graph import SpatialGraph
from stmcdi_cli.model.tissue import Tissue
from stmcdi_cli.model.training.checkpoint import Checkpoint
from stmcdi_cli.model.training.trainer import Reporter, Row, Trainer, Training

_TRAINING_SPOTS = 20_000
"""Spots to train on, at most: the networks are small and describe spots in general."""
_REGION = 20  # regions of one of so many spots are dealt out to the two halves
_ROUNDS = 5  # draws of steps and noise by which predictions are judged


def train_denoisers(
    branches: Sequence[LatentDiffusion],
    tissue: Tissue,
    *,
    masking: Masking,
    training: Training,
    updates: int,
    seed: int,
    device: torch.device,
    report: Reporter,
    checkpoint: Checkpoint,
) -> None:
    """Train the networks of all branches; of what each adds to the closed form, the part is kept that holds elsewhere.

    Parameters
    ----------
    branches
        Branches whose encoders are fitted to the tissue and have encoded it.
    tissue
        The tissue.
    masking, training
        How to mask spots, and how to train; 0 epochs stand for as many as `updates` need.
    updates
        Optimiser steps for all spots, unless epochs are given; each half takes half as many.
    seed, device, report, checkpoint
        See `base.ImputationModel.fit`.
    """
    spots = _training_spots(tissue, seed)
    if not len(spots):
        return
    pairs, pair_spots = _Pairs.of(branches, tissue, np.sort(spots), masking, seed=seed, device=device)
    networks = nn.ModuleList(branch.network for branch in branches).to(device)
    untrained = copy.deepcopy(networks.state_dict())
    half = halves(branches[0].encoder.graph, spots, seed)[pair_spots]
    settings = training.for_items(len(half), updates)

    def train(name: str, within: np.ndarray, report: Reporter) -> None:
        networks.load_state_dict(untrained)
        some = pairs.select(within)
        if some.n:
            Trainer(networks, some.loss, None, some.n, settings, seed=seed).run(report, checkpoint.stage(name))

    agreement = pairs.agreement(networks.eval())  # with predictions of 0: how large v is
    report(Row(settings.epochs, epoch=0, validation_loss=agreement.loss()))
    for name, within in (("first half", half), ("second half", ~half)):
        train(f"training, {name}", within, lambda row: None)
        agreement.add(pairs.select(~within).agreement(networks.eval()))

    kept = agreement.parts.tolist()

    def with_validation(row: Row) -> None:
        if row["epoch"] == settings.epochs:
            row["validation_loss"] = agreement.loss()
            row |= {f"kept_{branch.encoder.link}": part for branch, part in zip(branches, kept, strict=True)}
        report(row)

    train("training", np.ones_like(half), with_validation)
    for branch, part in zip(branches, kept, strict=True):
        branch.keep_part(part)
    networks.to("cpu").eval()


def _training_spots(tissue: Tissue, seed: int) -> np.ndarray:
    """Spots with visible entries, in random order."""
    has_visible = np.diff(tissue.missing.indptr) < tissue.n_genes
    return np.random.default_rng(seed).permutation(np.flatnonzero(has_visible))[:_TRAINING_SPOTS]


def halves(graph: SpatialGraph, spots: np.ndarray, seed: int) -> np.ndarray:
    """Which spots of a tissue are in the first of two halves, bool [n].

    Regions of neighbouring spots are dealt out: beside a spot of the same half the task would be too easy.
    """
    half, taken = (np.zeros(len(graph.area), dtype=bool) for _ in range(2))
    size, number = -(-len(spots) // _REGION), 0
    for first in np.random.default_rng(seed).permutation(spots):
        if not taken[first]:
            half[graph.neighborhood(int(first), size, taken)] = number % 2 == 0
            number += 1
    return half


class _Agreement:
    """Sums over predictions of v: how far they agree with v, for each branch [branches].

    Attributes
    ----------
    along, size, of_v
        Sums of v times its prediction, of squared predictions, and of v^2; each divided by the number of numbers in v.
    """

    def __init__(self, along: Tensor, size: Tensor, of_v: Tensor) -> None:
        self.along, self.size, self.of_v = along, size, of_v

    def add(self, other: "_Agreement") -> None:
        """Add predictions of other spots, from 0 on."""
        self.along, self.size = self.along + other.along, self.size + other.size

    @property
    def factors(self) -> Tensor:
        """The least-squares factors between v and its predictions, from 0 to 1."""
        return (self.along / self.size.clamp(min=1e-12)).clamp(0, 1)

    @property
    def parts(self) -> Tensor:
        """Part of a network's output that is kept, if it is trained on twice as many spots as those judged here.

        A prediction is what holds, of size S, and what was learnt of the noise in n spots, of size N / n. The factor is
        S / (S + N / n), and with twice as many spots S / (S + N / 2n).
        """
        return 2 * self.factors / (1 + self.factors)

    def loss(self) -> float:
        """Mean squared error of the predictions, multiplied by their factors."""
        return float((self.of_v - 2 * self.factors * self.along + self.factors**2 * self.size).mean())


@dataclass(frozen=True)
class _Pairs:
    """Training pairs of all branches, of the same masked spots, and what is computed with the networks on them.

    Attributes
    ----------
    schedule
        The forward process.
    of_branches
        Pairs of each branch.
    total
        Number of pairs of which these are a part.
    seed
        Seed of the steps and noise by which predictions are judged.
    """

    schedule: Schedule
    of_branches: Sequence[TrainingPairs]
    total: int
    seed: int

    @classmethod
    def of(
        cls,
        branches: Sequence[LatentDiffusion],
        tissue: Tissue,
        spots: np.ndarray,
        masking: Masking,
        *,
        seed: int,
        device: torch.device,
    ) -> "tuple[_Pairs, np.ndarray]":
        """Mask and encode some spots, ascending; gives the pairs on a device, and the spot of each."""
        found, pair_spots = [], spots
        for branch in branches:
            generator = torch.Generator().manual_seed(seed + 1)
            pairs, pair_spots = branch.training_pairs(tissue, spots, masking, generator)
            found.append(pairs.to(device))
        return cls(branches[0].schedule, found, len(pair_spots), seed), pair_spots

    @property
    def n(self) -> int:
        """Number of pairs."""
        return len(self.of_branches[0].offset)

    def select(self, within: np.ndarray) -> "_Pairs":
        """Give some of the pairs, bool [n]."""
        items = torch.from_numpy(np.flatnonzero(within))
        of_branches = [own.select(items.to(own.offset.device)) for own in self.of_branches]
        return _Pairs(self.schedule, of_branches, self.total, self.seed)

    def loss(self, networks: nn.Module, items: Tensor, generator: torch.Generator) -> Tensor:
        """Mean loss of the branches on some pairs."""
        losses = []
        for predict, u_0, t, noise in self._noisy(networks, items, generator):
            losses.append(v_loss(predict, self.schedule, u_0, t, noise))
        return torch.stack(losses).mean()

    @torch.no_grad()
    def agreement(self, networks: nn.Module) -> _Agreement:
        """How far predictions agree with v on all pairs; the steps and noise are the same at every call."""
        generator = torch.Generator().manual_seed(self.seed + 2)
        items, sums = torch.arange(self.n), torch.zeros(3, len(self.of_branches), dtype=torch.float64)
        for _ in range(_ROUNDS):
            for branch, (predict, u_0, t, noise) in enumerate(self._noisy(networks, items, generator)):
                u_t = self.schedule.q_sample(u_0, t, noise)
                v, v_hat = self.schedule.v_from_noise(u_t, noise, t).double(), predict(u_t, t).double()
                sums[:, branch] += torch.stack([(v * v_hat).sum(), v_hat.square().sum(), v.square().sum()]).cpu()
        return _Agreement(*sums / (_ROUNDS * self.total * self.of_branches[0].offset.shape[1]))

    def _noisy(
        self, networks: nn.Module, items: Tensor, generator: torch.Generator
    ) -> Iterator[tuple[Predict, Tensor, Tensor, Tensor]]:
        """Draw t, noise and u_0 of some pairs for each branch; yield its network, given the conditions, and these."""
        t = torch.randint(1, self.schedule.T + 1, (len(items),), generator=generator)
        for network, own in zip(networks.children(), self.of_branches, strict=True):
            draw, noise = torch.randn(2, len(items), own.offset.shape[1], generator=generator).to(own.offset.device)
            u_0, condition = own.draw(items, draw)

            def predict(u_t: Tensor, t: Tensor, network: nn.Module = network, condition: Tensor = condition) -> Tensor:
                return network(u_t, t, condition)

            yield predict, u_0, t.to(noise.device), noise
