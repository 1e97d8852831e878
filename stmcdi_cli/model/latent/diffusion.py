"""Diffusion of the latents of one graph encoder, in the whitened coordinates of their posterior.

The variable of the diffusion is u = R'(z - m), where m and (R R')^-1 are the mean and covariance that the encoder gives
the latents z of a spot from its visible entries. If the data followed the encoder's model, u would be standard normal,
the best prediction of v = sqrt(abar) noise - sqrt(1 - abar) u would be 0 at every step, and the reverse process would
draw from the exact posterior. The network predicts v, and its output starts at 0: before training it gives the closed
form, and training adds only what the closed form misses.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from stmcdi_cli.model.base import DrawOptions
from stmcdi_cli.model.device import parallel_map
from stmcdi_cli.model.diffusion import keyed_noise as keyed
from stmcdi_cli.model.diffusion.samplers import sample
from stmcdi_cli.model.diffusion.schedule import Schedule
from stmcdi_cli.model.latent.blocks import split
from stmcdi_cli.model.latent.factor_model import SpatialFactorModel
from stmcdi_cli.model.latent.gaussian import LatentPosterior, unwhiten, variances
from stmcdi_cli.model.latent.masking import MaskedEncoding, Masking
from stmcdi_cli.model.tissue import Tissue

_PASSES = {"dpm": 8}
"""Network passes per draw, where the sampler's own number is more than is of use: the network predicts a correction of
the encoder's posterior, not all of it."""
_SAVED_LAYERS = {"input": "enter", "output": "leave"}
"""Names of layers of the `LatentDenoiser` in model.safetensors, where they differ from the attributes."""


class LatentDenoiser(nn.Module):
    """Predict v from the noisy latents, the step and the encoder's posterior of the spot: a residual MLP.

    Parameters
    ----------
    rank
        Latents per spot.
    width, depth
        Channels and residual blocks.
    dropout
        Share of channels dropped in training.
    steps
        T of the schedule.
    """

    def __init__(self, rank: int, width: int, depth: int, dropout: float, steps: int) -> None:
        super().__init__()
        self.input = nn.Linear(rank + condition_size(rank), width)
        self.step = nn.Embedding(steps + 1, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(width), nn.Linear(width, width), nn.SiLU(), nn.Dropout(dropout), nn.Linear(width, width)
            )
            for _ in range(depth)
        )
        self.output = nn.Linear(width, rank)
        self.reset_output()

    def reset_output(self) -> None:
        """Set the output layer to 0, so that v is 0 for every input."""
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(self, u_t: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        """Predict v [..., B, r] from u_t [..., B, r], steps t [..., B] and conditions [..., B, c].

        The result is multiplied by the prior's share of the posterior, the last number of the condition: the network
        corrects the prior, and the closed form is right about the evidence of the spot's own entries.
        """
        h = self.input(torch.cat([u_t, condition], dim=-1)) + self.step(t)
        for block in self.blocks:
            h = h + block(h)
        return self.output(nn.functional.silu(h)) * condition[..., -1:]

    def state(self) -> dict[str, Tensor]:
        """All weights, on the CPU, under their names in model.safetensors."""
        return {_rename(name, _SAVED_LAYERS): value.cpu() for name, value in self.state_dict().items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Load what `state` gave."""
        attributes = {saved: name for name, saved in _SAVED_LAYERS.items()}
        self.load_state_dict({_rename(name, attributes): value for name, value in state.items()})


def _rename(name: str, layers: Mapping[str, str]) -> str:
    """Replace the layer in a name such as ``input.weight``."""
    layer, _, rest = name.partition(".")
    return f"{layers.get(layer, layer)}.{rest}"


def condition_size(rank: int) -> int:
    """Numbers in a spot's condition."""
    return 3 * rank + 2


def make_condition(mean: Tensor, factor: Tensor, prior: Tensor, prior_variance: Tensor, depth: Tensor) -> Tensor:
    """Input of the network that describes the spots [B, c].

    Posterior mean of their latents, the prior mean from the other spots, log posterior variance, log depth, and last
    the prior's share of the posterior: 1 where no entry of the spot is visible, near 0 where many are.
    """
    variance = variances(factor)
    prior_share = (variance / prior_variance).mean(1, keepdim=True)
    return torch.cat([mean, prior, variance.log(), depth.log()[:, None], prior_share], dim=1)


class TrainingPairs(NamedTuple):
    """Training data: the posterior of u_0 given all entries of a spot, and a condition made from a part of them.

    Attributes
    ----------
    offset, spread
        u_0 = offset + spread eps, with eps standard normal, is a draw [..., N, r], [..., N, r, r].
    condition
        See `make_condition` [..., N, c].
    """

    offset: Tensor
    spread: Tensor
    condition: Tensor

    def to(self, device: torch.device) -> "TrainingPairs":
        """Move all to a device."""
        return TrainingPairs(*(part.to(device) for part in self))

    @classmethod
    def of_branches(cls, pairs: Sequence["TrainingPairs"]) -> "TrainingPairs":
        """Lay the pairs of several branches side by side, in a first dimension."""
        return cls(*(torch.stack(parts) for parts in zip(*pairs, strict=True)))

    def select(self, items: Tensor) -> "TrainingPairs":
        """Give some of the pairs."""
        items = items.to(self.offset.device)
        offset, spread, condition = self
        return TrainingPairs(
            offset.index_select(-2, items), spread.index_select(-3, items), condition.index_select(-2, items)
        )

    def draw(self, noise: Tensor) -> Tensor:
        """Draw u_0 of all pairs, with standard normal noise; both [..., N, r]."""
        return self.offset + (self.spread @ noise[..., None])[..., 0]


class LatentDiffusion:
    """A graph encoder and the network that draws its latents: one branch of the model.

    Parameters
    ----------
    encoder
        The factor model.
    schedule
        The forward process.
    network
        ``width``, ``depth`` and ``dropout`` of the `LatentDenoiser`.
    """

    def __init__(self, encoder: SpatialFactorModel, schedule: Schedule, network: Mapping[str, Any]) -> None:
        self.encoder = encoder
        self.schedule = schedule
        self.network = LatentDenoiser(encoder.rank, **network, steps=schedule.T)

    @torch.no_grad()
    def keep_part(self, part: float) -> None:
        """Keep a part of what the network adds to the closed form; 0: draws come from the encoder's posterior."""
        for parameter in self.network.output.parameters():
            parameter.mul_(part)

    def with_encoder(self, encoder: SpatialFactorModel) -> "LatentDiffusion":
        """Give a branch with the same network and another encoder."""
        other = copy.copy(self)
        other.encoder = encoder
        return other

    def encode(self, tissue: Tissue, known: LatentPosterior | None = None) -> LatentPosterior:
        """Compute the posterior of every spot of a tissue, unless it is `known`, and keep it for the conditions."""
        self.encoder.use_tissue(tissue)
        self._depth = torch.from_numpy(tissue.depth.astype(np.float32))
        latents = self.encoder.encode(tissue) if known is None else known
        return self._set_posterior(tissue, latents)

    def _set_posterior(self, tissue: Tissue, latents: LatentPosterior) -> LatentPosterior:
        self._tissue = tissue
        # The linear link does not need the covariances any more.
        self._latents = latents if self._is_log else latents._replace(packed=torch.empty(len(latents.mean), 0))
        return latents

    @property
    def _is_log(self) -> bool:
        return self.encoder.link == "log"

    def encoded(self) -> LatentPosterior:
        """Posterior found by `encode`; without covariances where they are not needed any more."""
        return self._latents

    def _evidence(self, tissue: Tissue, spots: np.ndarray) -> tuple[Tensor, Tensor]:
        """Weighted response and weight of the entries of some spots, at the latents that `encode` found."""
        return self.encoder.evidence(tissue, spots, self._latents.select(spots) if self._is_log else None)

    def _prior(self, spots: np.ndarray) -> tuple[Tensor, Tensor]:
        """Mean and variance of the latents of some spots, given the other spots."""
        latents = self._latents.select(spots)
        return latents.prior_mean(self.encoder.field.nugget), latents.prior_variance

    def _condition(self, spots: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        """Posterior mean and precision factor of the latents of some spots, and the network's condition."""
        prior = self._prior(spots)
        mean, factor = self.encoder.posterior(*self._evidence(self._tissue, spots), *prior)
        return mean, factor, make_condition(mean, factor, *prior, self._depth[spots])

    # Training

    def training_pairs(
        self, tissue: Tissue, spots: np.ndarray, masking: Masking, generator: torch.Generator
    ) -> tuple[TrainingPairs, np.ndarray]:
        """Mask some spots in several rounds, encode the rest, and pair it with the posterior given all entries.

        The tissue is encoded again in each round, so that the latents of the neighbours do not depend on masked entries
        either, as in imputation.

        Parameters
        ----------
        tissue
            The tissue that was encoded: u_0 is drawn given all its entries, the conditions are without those masked.
        spots
            Spots to mask.
        masking
            How to mask them.
        generator
            Source of the masks.

        Returns
        -------
        The pairs, and the spot of each.
        """
        pairs: list[TrainingPairs] = []
        pair_spots: list[np.ndarray] = []
        encoding = MaskedEncoding(self.encoder, tissue, self._latents)
        for number in range(masking.rounds(len(spots))):
            holes = number % 2 == 1
            masked_spots = masking.spots(self.encoder.graph, spots, holes, generator)
            masked = copy.copy(self)
            mask = masking.draw(tissue, masked_spots, generator, everything=holes)
            rest = tissue.without(mask)
            masked._set_posterior(rest, encoding.without(rest, masked_spots))
            pair = partial(self._pairs_of, tissue, masked)
            pairs.extend(parallel_map(pair, (masked_spots[block] for block in split(len(masked_spots)))))
            pair_spots.append(masked_spots)
        return TrainingPairs(*(torch.cat(part) for part in zip(*pairs, strict=True))), np.concatenate(pair_spots)

    def _pairs_of(self, tissue: Tissue, masked: "LatentDiffusion", spots: np.ndarray) -> TrainingPairs:
        """Pair the posterior of some spots given all entries of the tissue with their conditions given what is left."""
        full_mean, full_factor = self.encoder.posterior(*self._evidence(tissue, spots), *self._prior(spots))
        mean, factor, condition = masked._condition(spots)
        offset = torch.einsum("nba,nb->na", factor, full_mean - mean)
        spread = factor.mT @ torch.linalg.inv(full_factor).mT
        return TrainingPairs(offset, spread, condition)

    # Imputation

    def to(self, device: torch.device) -> None:
        """Move the network to a device, ready to draw."""
        self.network.to(device).eval()
        self._device = device

    def draw_expected(
        self, spots: np.ndarray, pairs: Sequence[int], options: DrawOptions
    ) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Draw latents of some spots; yield (pair, expected expression [B, G] of its first and second draw).

        The two draws of a pair start from noise of opposite sign, so that what is symmetric around the encoder's mean
        cancels in their mean.
        """
        mean, factor, condition = self._condition(spots)
        condition = condition.to(self._device)
        decode = self.encoder.decoder(self._tissue.depth[spots])
        is_closed_form = not any(parameter.any() for parameter in self.network.output.parameters())

        def predict(u_t: Tensor, t: int) -> Tensor:
            if is_closed_form:  # the network would give 0
                return self.schedule.noise_from_v(u_t, torch.zeros_like(u_t), t)
            v = self.network(u_t, torch.full((len(u_t),), t, device=u_t.device), condition.repeat(2, 1))
            return self.schedule.noise_from_v(u_t, v, t)

        n_steps = options.n_steps or _PASSES.get(options.sampler)
        for pair in pairs:

            def noise(stream: int, pair: int = pair) -> Tensor:
                drawn = keyed.normal(options.seed, spots, np.array([pair]), stream, self.encoder.rank)
                first = torch.from_numpy(drawn)[0]
                return torch.cat([first, -first]).to(self._device)

            u = sample(options.sampler, predict, self.schedule, noise, n_steps=n_steps).to("cpu", torch.float32)
            first, second = (decode(mean + unwhiten(factor, half)) for half in u.split(len(spots)))
            yield pair, first, second
