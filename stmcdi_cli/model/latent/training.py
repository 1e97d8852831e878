"""Training of the denoisers of all branches together (Algorithm 1), with the loss in v (`diffusion.loss`)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor, nn

from stmcdi_cli.model.diffusion.loss import v_loss
from stmcdi_cli.model.latent.diffusion import LatentDiffusion, TrainingPairs
from stmcdi_cli.model.latent.masking import Masking
from stmcdi_cli.model.tissue import Tissue
from stmcdi_cli.model.training.checkpoint import Stage
from stmcdi_cli.model.training.trainer import Reporter, Row, Trainer, Training

_TRAINING_SPOTS = 20_000
"""Spots to train on, at most: the networks are small and describe spots in general."""
_VALIDATION_PART = 10  # one of so many training spots tells when to stop
_ROUNDS = 5  # draws of steps and noise per validation


def train_denoisers(
    branches: Sequence[LatentDiffusion],
    tissue: Tissue,
    partial: Tissue,
    validation_mask: sp.csr_matrix,
    *,
    masking: Masking,
    training: Training,
    updates: int,
    seed: int,
    device: torch.device,
    report: Reporter,
    stage: Stage,
) -> None:
    """Train the networks of all branches; one that is no better than the closed form is reset to it.

    Parameters
    ----------
    branches
        Branches whose encoders are fitted to `partial` and have encoded it.
    tissue, partial
        The tissue, and the same without the inner validation entries.
    validation_mask
        The inner validation entries, CSR bool, spots x genes.
    masking, training
        How to mask spots, and how to train; 0 epochs stand for as many as `updates` need.
    updates
        Optimiser steps in total, unless epochs are given.
    seed, device, report, stage
        See `base.ImputationModel.fit` and `Trainer.run`.
    """
    spots = _training_spots(partial, seed)
    if not len(spots):
        return
    losses = _Losses.on(branches, tissue, partial, validation_mask, spots, masking, seed=seed, device=device)
    networks = nn.ModuleList(branch.network for branch in branches).to(device)
    untrained = losses.validation(networks.eval())
    settings = training.for_items(losses.n_train, updates)
    report(Row(settings.epochs, epoch=0, validation_loss=untrained.mean().item()))
    trainer = Trainer(
        networks,
        losses.training,
        lambda networks: losses.validation(networks).mean().item(),
        losses.n_train,
        settings,
        seed=seed,
    )
    trainer.run(report, stage)
    trained = losses.validation(networks.eval())
    for branch, before, after in zip(branches, untrained, trained, strict=True):
        if after >= before:
            branch.reset_to_posterior()
    networks.to("cpu").eval()


def _training_spots(partial: Tissue, seed: int) -> np.ndarray:
    """Spots with visible entries, in random order."""
    has_visible = np.diff(partial.missing.indptr) < partial.n_genes
    return np.random.default_rng(seed).permutation(np.flatnonzero(has_visible))[:_TRAINING_SPOTS]


@dataclass(frozen=True)
class _Losses:
    """Losses of the networks of all branches on pairs of each.

    Attributes
    ----------
    branches
        The branches.
    train_pairs, validation_pairs
        Pairs of each branch, from different spots.
    seed
        Seed of the steps and noise of a validation.
    device
        Device of the networks and pairs.
    """

    branches: Sequence[LatentDiffusion]
    train_pairs: Sequence[TrainingPairs]
    validation_pairs: Sequence[TrainingPairs]
    seed: int
    device: torch.device

    @classmethod
    def on(
        cls,
        branches: Sequence[LatentDiffusion],
        tissue: Tissue,
        partial: Tissue,
        validation_mask: sp.csr_matrix,
        spots: np.ndarray,
        masking: Masking,
        *,
        seed: int,
        device: torch.device,
    ) -> "_Losses":
        """Mask and encode some spots, given in random order; the first of them are the validation spots."""
        validation_spots = np.zeros(tissue.n_spots, dtype=bool)
        validation_spots[spots[: len(spots) // _VALIDATION_PART]] = True
        # The latents of a validation spot are drawn given its inner validation entries as well.
        sources = tissue.without(sp.csr_matrix(validation_mask.multiply(~validation_spots[:, None])))
        train, validation = [], []
        for branch in branches:
            generator = torch.Generator().manual_seed(seed + 1)
            pairs, pair_spots = branch.training_pairs(sources, partial, np.sort(spots), masking, generator)
            validates = torch.from_numpy(validation_spots[pair_spots])
            train.append(pairs.select(~validates).to(device))
            validation.append(pairs.select(validates if validates.any() else ~validates).to(device))
        return cls(branches, train, validation, seed, device)

    @property
    def n_train(self) -> int:
        """Number of training pairs."""
        return len(self.train_pairs[0].offset)

    def training(self, networks: nn.Module, items: Tensor, generator: torch.Generator) -> Tensor:
        """Mean loss of the branches on some training pairs."""
        return self._of_branches(networks, self.train_pairs, items, generator).mean()

    @torch.no_grad()
    def validation(self, networks: nn.Module) -> Tensor:
        """Loss of each branch on all validation pairs; the steps and noise are the same at every call."""
        generator = torch.Generator().manual_seed(self.seed + 2)
        items = torch.arange(len(self.validation_pairs[0].offset))
        rounds = [self._of_branches(networks, self.validation_pairs, items, generator) for _ in range(_ROUNDS)]
        return torch.stack(rounds).mean(0)

    def _of_branches(
        self, networks: nn.Module, pairs: Sequence[TrainingPairs], items: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Loss of each branch on some of its pairs [branches]: draw t, noise and u_0, and compare the predicted v."""
        schedule = self.branches[0].schedule
        t = torch.randint(1, schedule.T + 1, (len(items),), generator=generator)
        losses = []
        for network, own in zip(networks.children(), pairs, strict=True):
            draw, noise = torch.randn(2, len(items), own.offset.shape[1], generator=generator).to(self.device)
            u_0, condition = own.draw(items, draw)

            def predict(u_t: Tensor, t: Tensor, network: nn.Module = network, condition: Tensor = condition) -> Tensor:
                return network(u_t, t, condition)

            losses.append(v_loss(predict, schedule, u_0, t.to(self.device), noise))
        return torch.stack(losses)
