"""The interface of every variant of the model, as the steps ``train`` and ``impute`` use it."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from stmcdi_cli.model.tissue import Tissue
from stmcdi_cli.model.training.checkpoint import Checkpoint
from stmcdi_cli.model.training.trainer import Reporter

DrawCallback = Callable[[int, slice, np.ndarray], None]
"""Receives the number of a draw, the rows of the requested spots, and their values in it, float32 [rows, G]."""


@dataclass(frozen=True)
class DrawOptions:
    """How to draw.

    Attributes
    ----------
    n_samples
        Draws per entry.
    seed
        Seed of the draws.
    sampler
        A name in `samplers.SAMPLERS`.
    n_steps
        Network passes per draw; None for the sampler's and the model's own number.
    denoise
        Draw visible entries too. Otherwise the values of draws at visible entries have no meaning.
    """

    n_samples: int
    seed: int
    sampler: str
    n_steps: int | None = None
    denoise: bool = False


@dataclass(frozen=True)
class Draws:
    """Imputed expression of a block of spots.

    Attributes
    ----------
    samples
        float32, samples x spots x genes, on ``X``'s scale, never negative.
    mean
        float32, spots x genes: the point value, which can be more accurate than the mean of the samples.
    tail
        Share of the samples that the 90 % interval excludes at each end.
    """

    samples: np.ndarray
    mean: np.ndarray
    tail: float = 0.05


class ImputationModel(ABC):
    """A model that is trained on the visible entries of a tissue and draws the others from noise.

    Parameters
    ----------
    config
        Everything needed to build the network: the preset's values and the changes by options.
    genes
        Names of the genes the model is for, in order.
    """

    variant: ClassVar[str]
    from_disk: ClassVar[bool] = False
    """Whether a tissue may stay on disk while it is imputed."""

    def __init__(self, config: Mapping[str, Any], genes: tuple[str, ...]) -> None:
        self.config = dict(config)
        self.genes = genes

    @abstractmethod
    def fit(
        self, tissue: Tissue, *, seed: int, device: torch.device, report: Reporter, checkpoint: Checkpoint | None = None
    ) -> None:
        """Train on the visible entries (Algorithm 1), from the state in `checkpoint` where it has one."""

    @abstractmethod
    def prepare(
        self, tissue: Tissue, *, device: torch.device, encoded: Mapping[str, torch.Tensor] | None = None
    ) -> None:
        """Encode the condition of every spot once, before any draw; with `encoded`, use these results instead."""

    def encoded(self) -> dict[str, torch.Tensor]:
        """Results of `prepare` that take time to compute, by name."""
        return {}

    def embedding(self) -> dict[str, np.ndarray]:
        """Coordinates of the spots of the prepared tissue, float32 [n, r], by their keys in ``obsm``."""
        return {}

    def columns(self) -> dict[str, np.ndarray]:
        """What is known of the genes, float32 [G], by columns of ``var``."""
        return {}

    def remarks(self) -> list[str]:
        """What a user should know of the training: sentences for its log."""
        return []

    @property
    def interval_tail(self) -> float:
        """Share of the draws that the 90 % interval excludes at each end."""
        return 0.05

    @abstractmethod
    def draw_each(self, spots: np.ndarray, options: DrawOptions, on_draw: DrawCallback | None = None) -> np.ndarray:
        """Draw the missing entries of some spots of the prepared tissue, starting from pure noise (Algorithm 2).

        Values do not depend on which other spots are asked for: noise is keyed by (seed, spot, sample).

        Parameters
        ----------
        spots
            Positions of the spots in the tissue.
        options
            How to draw.
        on_draw
            Receives every draw, some spots at a time; the order of the draws may differ between spots. None where only
            the point value is wanted.

        Returns
        -------
        The point value, float32 [spots, G].
        """

    def draw(self, spots: np.ndarray, options: DrawOptions) -> Draws:
        """Give all draws of some spots."""
        samples = np.empty((options.n_samples, len(spots), len(self.genes)), dtype=np.float32)

        def store(number: int, rows: slice, values: np.ndarray) -> None:
            samples[number, rows] = values

        mean = self.draw_each(spots, options, store)
        return Draws(samples, mean, self.interval_tail)

    @abstractmethod
    def state(self) -> dict[str, torch.Tensor]:
        """All trained values, by name."""

    def digest(self) -> str:
        """Digest of the trained values and the settings; other models have another one."""
        no_settings = ("seconds", "device", "cpu_fallback")
        settings = {name: value for name, value in self.config.items() if name not in no_settings}
        digest = hashlib.blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=16)
        for name, value in sorted(self.state().items()):
            digest.update(name.encode())
            digest.update(value.contiguous().numpy().tobytes())
        return digest.hexdigest()

    @abstractmethod
    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Restore what ``state`` gave."""
