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

Keep = Callable[[int, slice, np.ndarray], None]
"""Receives the number of a draw, which of the spots asked for, and their values in that draw, float32 [spots, G]."""


@dataclass(frozen=True)
class Draws:
    """Imputed expression of a block of spots.

    Attributes
    ----------
    samples
        float32, samples x spots x genes, on ``X``'s scale, never negative.
    mean
        float32, spots x genes: the point value, which may be better than the mean of the samples.
    tail
        Share of the samples that the 90 % interval leaves out on either side.
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
        """Encode the condition of every spot once, before any sampling, or take it from `encoded`."""

    def encoded(self) -> dict[str, torch.Tensor]:
        """What `prepare` has worked out, by name."""
        return {}

    @property
    def interval_tail(self) -> float:
        """Share of the draws that the 90 % interval leaves out on either side."""
        return 0.05

    @abstractmethod
    def draw_each(
        self,
        spots: np.ndarray,
        keep: Keep | None,
        *,
        n_samples: int,
        seed: int,
        sampler: str,
        n_steps: int | None,
        denoise: bool = False,
    ) -> np.ndarray:
        """Draw the missing entries of some spots of the prepared tissue, starting from pure noise (Algorithm 2).

        Values do not depend on which other spots are asked for: noise is keyed by (seed, spot, sample).

        Parameters
        ----------
        spots
            Their positions in the tissue.
        keep
            Receives every draw, a few spots at a time, each spot's draws in an order of their own; None where the
            point value alone is wanted.
        n_samples, seed, sampler, n_steps
            See `impute`.
        denoise
            Draw visible entries too; without, what stands in their place means nothing.

        Returns
        -------
        The point value, float32 [spots, G].
        """

    def draw(self, spots: np.ndarray, *, n_samples: int, **options: Any) -> Draws:
        """Give all draws of some spots; for the options see `draw_each`."""
        samples = np.empty((n_samples, len(spots), len(self.genes)), dtype=np.float32)

        def keep(number: int, rows: slice, values: np.ndarray) -> None:
            samples[number, rows] = values

        mean = self.draw_each(spots, keep, n_samples=n_samples, **options)
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
