"""Diffusion of the scores of one graph encoder, in the coordinates of their own posterior.

What is diffused is u = R'(z - m), where m and (R R')^-1 are the mean and covariance that the encoder gives the scores
z of a spot from its visible entries. If the encoder's model were the whole truth, u would be standard normal, the best
guess of v = sqrt(abar) noise - sqrt(1 - abar) u would be 0 at every step, and the reverse chain would draw from the
exact posterior. The network predicts v and starts at 0: it is at first the closed form, and training can only add what
that misses.
"""

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor, nn

from stmcdi_cli.model.diffusion import keyed_noise as keyed
from stmcdi_cli.model.diffusion.samplers import sample
from stmcdi_cli.model.diffusion.schedule import Schedule
from stmcdi_cli.model.latent.factor_model import BLOCK, FactorGraph
from stmcdi_cli.model.latent.gaussian import Scores, neighbor_mean, uncolor, variances
from stmcdi_cli.model.tissue import Tissue


class LatentDenoiser(nn.Module):
    """Predict v from the noisy scores, the step and what the encoder knows of the spot: a residual MLP.

    Parameters
    ----------
    rank
        Scores per spot.
    width, depth
        Channels and residual blocks.
    dropout
        Share of channels dropped in training.
    steps
        T of the schedule.
    """

    def __init__(self, rank: int, width: int, depth: int, dropout: float, steps: int) -> None:
        super().__init__()
        self.enter = nn.Linear(rank + condition_size(rank), width)
        self.step = nn.Embedding(steps + 1, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(width), nn.Linear(width, width), nn.SiLU(), nn.Dropout(dropout), nn.Linear(width, width)
            )
            for _ in range(depth)
        )
        self.leave = nn.Linear(width, rank)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, u_t: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        """Predict v [B, r] from u_t [B, r], steps t [B] and conditions [B, c].

        Its say is the prior's part in the posterior: what a spot's own entries tell, the closed form has right.
        """
        h = self.enter(torch.cat([u_t, condition], dim=-1)) + self.step(t)
        for block in self.blocks:
            h = h + block(h)
        return self.leave(nn.functional.silu(h)) * condition[:, -1:]


def condition_size(rank: int) -> int:
    """Numbers in a spot's condition."""
    return 3 * rank + 2


def make_condition(mean: Tensor, factor: Tensor, prior: Tensor, innovation: Tensor, depth: Tensor) -> Tensor:
    """What the network is told of spots [B, c].

    Posterior mean and log variance of their scores, the neighbours' prior, log depth, and last the prior's part in the
    posterior: 1 where nothing of the spot is visible, near 0 where much is.
    """
    variance = variances(factor)
    part = (variance / innovation).mean(1, keepdim=True)
    return torch.cat([mean, prior, variance.log(), depth.log()[:, None], part], dim=1)


@dataclass(frozen=True)
class Masking:
    """How spots are masked in training.

    Attributes
    ----------
    hidden
        Range from which the share of a masked spot's visible entries that is hidden is drawn.
    whole
        Share of the masked spots of which everything is hidden instead.
    part
        Share of the spots that are masked at a time.
    pairs
        Masked spots wanted, in as many rounds as that takes.
    most_rounds
        Never more rounds than these.
    """

    hidden: tuple[float, float]
    whole: float
    part: float = 0.25
    pairs: int = 20_000
    most_rounds: int = 16

    def rounds(self, n_spots: int) -> int:
        """How often to mask some of so many spots."""
        return min(self.most_rounds, math.ceil(self.pairs / max(1.0, self.part * n_spots)))

    def draw(self, tissue: Tissue, spots: np.ndarray, generator: torch.Generator) -> sp.csr_matrix:
        """Choose visible entries to hide from some spots, in ascending order; CSR bool, as large as the tissue."""
        low, high = self.hidden
        share = low + (high - low) * torch.rand(len(spots), 1, generator=generator)
        share[torch.rand(len(spots), generator=generator) < self.whole] = 1.0
        rows = []
        for i in range(0, len(spots), BLOCK):
            some, of = spots[i : i + BLOCK], share[i : i + BLOCK]
            hidden = (torch.rand(len(some), tissue.n_genes, generator=generator) < of).numpy()
            rows.append(sp.csr_matrix(hidden & ~tissue.missing[some].toarray()))
        chosen = sp.vstack([sp.csr_matrix((0, tissue.n_genes), dtype=bool), *rows], format="csr")
        length = np.zeros(tissue.n_spots, np.int64)
        length[spots] = np.diff(chosen.indptr)
        indptr = np.concatenate([[0], length.cumsum()])
        return sp.csr_matrix((chosen.data, chosen.indices, indptr), shape=(tissue.n_spots, tissue.n_genes))


class Pairs(NamedTuple):
    """What to train on: scores given all entries of a spot, in the coordinates of a condition on a part of these.

    Attributes
    ----------
    offset, spread
        u_0 = offset + spread eps is a draw [N, r], [N, r, r].
    condition
        See `make_condition` [N, c].
    """

    offset: Tensor
    spread: Tensor
    condition: Tensor

    def to(self, device: torch.device) -> "Pairs":
        """Move all to a device."""
        return Pairs(*(part.to(device) for part in self))

    def of(self, items: Tensor) -> "Pairs":
        """Some of them."""
        return Pairs(*(part[items] for part in self))

    def draw(self, items: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Draw u_0 [B, r] of some items with standard normal noise [B, r]; and their conditions [B, c]."""
        items = items.to(noise.device)
        return self.offset[items] + torch.einsum("nab,nb->na", self.spread[items], noise), self.condition[items]


class ScoreDiffusion:
    """A graph encoder and the network that draws its scores.

    Parameters
    ----------
    graph
        The encoder.
    schedule
        Of the forward process.
    network
        ``width``, ``depth`` and ``dropout`` of the `LatentDenoiser`.
    """

    def __init__(self, graph: FactorGraph, schedule: Schedule, network: Mapping[str, Any]) -> None:
        self.graph = graph
        self.schedule = schedule
        self.network = LatentDenoiser(graph.rank, **network, steps=schedule.T)

    def silence(self) -> None:
        """Take back all that the network learnt: the encoder's posterior stands."""
        nn.init.zeros_(self.network.leave.weight)
        nn.init.zeros_(self.network.leave.bias)

    def encode(self, tissue: Tissue, known: Scores | None = None) -> Scores:
        """Let the encoder tell of every spot of a tissue what the conditions are made of, unless it is known."""
        self.graph.use_table(tissue)
        self._depth = torch.from_numpy(tissue.depth.astype(np.float32))
        return self._know(tissue, known)

    def _know(self, tissue: Tissue, known: Scores | None = None) -> Scores:
        self._tissue = tissue
        scores = self.graph.encode(tissue) if known is None else known
        self._mean = scores.mean
        self._at = scores if self.graph.link == "log" else None  # else covariances are of no more use
        self._prior = self.graph.prior(neighbor_mean(tissue.graph), scores.mean)
        return scores

    def encoded(self) -> Scores:
        """What `encode` found out, without covariances of no more use."""
        return self._at or Scores(self._mean, torch.empty(0))

    def _evidence(self, tissue: Tissue, spots: np.ndarray) -> tuple[Tensor, Tensor]:
        return self.graph.evidence(tissue, spots, None if self._at is None else self._at.of(spots))

    def _told(self, spots: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        """Mean and factor of the precision of some spots' scores, and what the network is told of them."""
        prior = self._prior[spots]
        mean, factor = self.graph.posterior(*self._evidence(self._tissue, spots), prior)
        return mean, factor, make_condition(mean, factor, prior, self.graph.innovation, self._depth[spots])

    # Training

    def pairs(
        self, tissue: Tissue, visible: Tissue, spots: np.ndarray, masking: "Masking", generator: torch.Generator
    ) -> tuple[Pairs, np.ndarray]:
        """Mask some spots again and again, encode what is left, and pair it with what all entries say.

        Each round is encoded anew, so that neighbours have not seen what is masked either: at imputation they won't.

        Parameters
        ----------
        tissue
            The tissue encoded, or the same with more visible entries: what scores are drawn from.
        visible
            The tissue encoded: what a condition may see, but for the masks.
        spots
            Spots to mask.
        masking
            How.
        generator
            Of the masks.

        Returns
        -------
        The pairs, and the spot of each.
        """
        parts, of = [], []
        for _ in range(masking.rounds(len(spots))):
            some = torch.randperm(len(spots), generator=generator)[: math.ceil(masking.part * len(spots))]
            chosen = spots[np.sort(some.numpy())]
            masked = copy.copy(self)
            masked._know(visible.without(masking.draw(visible, chosen, generator)))
            for i in range(0, len(chosen), BLOCK):
                some = chosen[i : i + BLOCK]
                full_mean, full_factor = self.graph.posterior(*self._evidence(tissue, some), self._prior[some])
                mean, factor, condition = masked._told(some)
                offset = torch.einsum("nba,nb->na", factor, full_mean - mean)
                spread = factor.mT @ torch.linalg.inv(full_factor).mT
                parts.append(Pairs(offset, spread, condition))
                of.append(some)
        return Pairs(*(torch.cat(part) for part in zip(*parts, strict=True))), np.concatenate(of)

    def loss(self, network: nn.Module, u: Tensor, condition: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """Mean squared error of a network's v at steps t [B] with noise eps [B, r] (eq. 8)."""
        u_t = self.schedule.q_sample(u, t, eps)
        v = self.schedule.v_from_noise(u_t, eps, t)
        return (network(u_t, t, condition) - v).square().mean()

    # Imputation

    def to(self, device: torch.device) -> None:
        """Have the network ready on a device."""
        self.network.to(device).eval()
        self._device = device

    def expect(
        self, spots: np.ndarray, pairs: Sequence[int], *, seed: int, sampler: str, n_steps: int | None
    ) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Draw scores of some spots and yield (pair, expected expression [B, G] of the pair's two draws).

        Draws come in opposite pairs: what is symmetric around the encoder's mean cancels from their mean at once.
        """
        centre, factor, condition = self._told(spots)
        condition = condition.to(self._device)
        decode = self.graph.decoder(self._tissue.depth[spots])

        silent = not any(parameter.any() for parameter in self.network.leave.parameters())

        def predict(u_t: Tensor, t: int) -> Tensor:
            if silent:  # it would say 0, after some time
                return self.schedule.noise_from_v(u_t, torch.zeros_like(u_t), t)
            v = self.network(u_t, torch.full((len(u_t),), t, device=u_t.device), condition.repeat(2, 1))
            return self.schedule.noise_from_v(u_t, v, t)

        for pair in pairs:

            def noise(stream: int, pair: int = pair) -> Tensor:
                one = torch.from_numpy(keyed.normal(seed, spots, np.array([pair]), stream, self.graph.rank))[0]
                return torch.cat([one, -one]).to(self._device)

            u = sample(sampler, predict, self.schedule, noise, n_steps=n_steps).to("cpu", torch.float32)
            one, other = (decode(centre + uncolor(factor, half)) for half in u.split(len(spots)))
            yield pair, one, other
