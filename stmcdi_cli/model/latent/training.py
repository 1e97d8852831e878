"""Training of the denoisers of all branches together (Algorithm 1), with the loss in v (`diffusion.loss`).

What a network adds to the closed form holds only in part for spots it has not seen. How much is found by
cross-validation (Wolpert 1992, stacked generalization): networks trained on one half of the tissue predict v in the
other, and the part is the least-squares factor between v and their predictions. The network that is kept is trained on
all spots, and its output is multiplied by that part.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from stmcdi_cli.model.diffusion.loss import v_loss
from stmcdi_cli.model.diffusion.schedule import Schedule
from stmcdi_cli.model.latent.diffusion import LatentDiffusion, TrainingPairs
from stmcdi_cli.model.latent.masking import Masking
from stmcdi_cli.model.latent.side_by_side import side_by_side, take_apart
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
    networks = side_by_side([branch.network for branch in branches]).to(device)
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
        train(f"networks of the {name}", within, lambda row: None)
        agreement.add(pairs.select(~within).agreement(networks.eval()))

    kept = agreement.parts.tolist()

    def with_validation(row: Row) -> None:
        if row["epoch"] == settings.epochs:
            row["validation_loss"] = agreement.loss()
            row |= {f"kept_{branch.encoder.link}": part for branch, part in zip(branches, kept, strict=True)}
        report(row)

    train("networks", np.ones_like(half), with_validation)
    take_apart(networks.to("cpu"), [branch.network.eval() for branch in branches])
    for branch, part in zip(branches, kept, strict=True):
        branch.keep_part(part)


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
    pairs
        Pairs of the branches, side by side.
    total
        Number of pairs of which these are a part.
    seed
        Seed of the steps and noise by which predictions are judged.
    """

    schedule: Schedule
    pairs: TrainingPairs
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
            found.append(pairs)
        pairs = TrainingPairs.of_branches(found).to(device)
        return cls(branches[0].schedule, pairs, len(pair_spots), seed), pair_spots

    @property
    def n(self) -> int:
        """Number of pairs."""
        return self.pairs.offset.shape[-2]

    def select(self, within: np.ndarray) -> "_Pairs":
        """Give some of the pairs, bool [n]."""
        return replace(self, pairs=self.pairs.select(torch.from_numpy(np.flatnonzero(within))))

    def loss(self, networks: nn.Module, items: Tensor, generator: torch.Generator) -> Tensor:
        """Mean loss of the branches on some pairs."""
        some = self.pairs.select(items)
        t, draw, noise = self._random(some, generator)

        def predict(u_t: Tensor, t: Tensor) -> Tensor:
            return networks(u_t, t, some.condition)

        return v_loss(predict, self.schedule, some.draw(draw), t, noise)

    @torch.no_grad()
    def agreement(self, networks: nn.Module) -> _Agreement:
        """How far predictions agree with v on all pairs; the steps and noise are the same at every call."""
        generator = torch.Generator().manual_seed(self.seed + 2)
        sums = torch.zeros(3, len(self.pairs.offset), dtype=torch.float64)
        for _ in range(_ROUNDS):
            t, draw, noise = self._random(self.pairs, generator)
            u_t = self.schedule.q_sample(self.pairs.draw(draw), t, noise)
            v = self.schedule.v_from_noise(u_t, noise, t).double()
            v_hat = networks(u_t, t, self.pairs.condition).double()
            sums += torch.stack([v * v_hat, v_hat.square(), v.square()]).sum((2, 3)).cpu()
        return _Agreement(*sums / (_ROUNDS * self.total * self.pairs.offset.shape[-1]))

    def _random(self, pairs: TrainingPairs, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Steps t [branches, n], the same for all branches, and two draws of standard normal noise of each."""
        branches, n, rank = pairs.offset.shape
        t = torch.randint(1, self.schedule.T + 1, (n,), generator=generator)
        noise = torch.randn(branches, 2, n, rank, generator=generator).to(pairs.offset.device)
        return t.to(noise.device).expand(branches, n), noise[:, 0], noise[:, 1]
