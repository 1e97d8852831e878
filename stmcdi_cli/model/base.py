"""What every variant of the model offers to the steps ``train`` and ``impute``."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from stmcdi_cli.model.restart import Restart
from stmcdi_cli.model.tissue import Tissue

Reporter = Callable[[Mapping[str, float]], None]
"""Receives one row of the training history (``epoch``, ``loss``, ``validation_loss``, ...) at a time."""


@dataclass(frozen=True)
class Draws:
    """Imputed expression of a block of spots.

    Attributes
    ----------
    samples
        float32, samples x spots x genes, on ``X``'s scale, never negative.
    mean
        float32, spots x genes: the point value where the model knows it better than the mean of the samples, else None.
    tail
        Share of the samples that the 90 % interval leaves out on either side.
    """

    samples: np.ndarray
    mean: np.ndarray | None = None
    tail: float = 0.05


class ImputationModel(ABC):
    """A model that learns from the visible entries of a tissue and draws the others from noise.

    Parameters
    ----------
    config
        Everything needed to build the network again: the preset's values and what the command line changed.
    genes
        Names of the genes the model is for, in order.
    """

    variant: ClassVar[str]

    def __init__(self, config: Mapping[str, Any], genes: tuple[str, ...]) -> None:
        self.config = dict(config)
        self.genes = genes

    @abstractmethod
    def fit(
        self, tissue: Tissue, *, seed: int, device: torch.device, report: Reporter, restart: Restart | None = None
    ) -> None:
        """Learn from the visible entries (Algorithm 1), or go on with that where `restart` says it stands."""

    @abstractmethod
    def prepare(self, tissue: Tissue, *, device: torch.device) -> None:
        """Encode the condition of every spot once, before any sampling."""

    @abstractmethod
    def draw(
        self,
        spots: np.ndarray,
        *,
        n_samples: int,
        seed: int,
        sampler: str,
        n_steps: int | None,
        denoise: bool = False,
    ) -> Draws:
        """Draw the missing entries of some spots of the prepared tissue, starting from pure noise (Algorithm 2).

        Values do not depend on which other spots are asked for: noise is keyed by (seed, spot, sample).

        With `denoise` visible entries are drawn too; without it, what stands in their place means nothing.
        """

    @abstractmethod
    def state(self) -> dict[str, torch.Tensor]:
        """Everything that was learnt, by name."""

    @abstractmethod
    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Take back what ``state`` gave."""
