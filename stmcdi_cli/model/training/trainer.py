"""The training loop around Algorithm 1, for every variant of the model."""

import copy
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from stmcdi_cli.errors import InputError
from stmcdi_cli.model.training import distributed
from stmcdi_cli.model.training.adamw import AdamW
from stmcdi_cli.model.training.checkpoint import NO_CHECKPOINT, Stage


class Row(dict[str, float]):
    """A row of the training history (``epoch``, ``loss``, ...); `n_epochs` is the last epoch there can be."""

    def __init__(self, n_epochs: int, **values: float) -> None:
        super().__init__(values)
        self.n_epochs = n_epochs


Reporter = Callable[[Row], None]
"""Receives one row of the training history at a time."""


logger = logging.getLogger(__name__)

TrainingLoss = Callable[[nn.Module, Tensor, torch.Generator], Tensor]
"""Loss of a network on some items [B], every random choice taken from the generator (on the CPU)."""
ValidationLoss = Callable[[nn.Module], float]
"""Loss of a network on the inner validation entries, with the same masks, steps and noise at every call."""


@dataclass(frozen=True)
class Training:
    """How to train.

    Attributes
    ----------
    epochs, batch_size
        Passes over the items, and items per step.
    lr
        Learning rate at the start.
    lr_schedule
        ``"piecewise"`` takes the rates of `lr_drops`; ``"cosine"`` falls to 0 over the epochs.
    lr_drops
        (share of the epochs, rate from there on), in order.
    weight_decay
        Decoupled weight decay (AdamW); 0 is Adam.
    ema_decay
        Decay of the exponential moving average of the weights, which is validated and kept; 0 keeps the weights
        themselves.
    clip_norm
        Largest norm of the gradient; a larger one is scaled down to it. None for no limit.
    patience
        Epochs without a better validation loss after which to stop; None never stops early.
    validate_every
        Epochs between validations.
    """

    epochs: int
    batch_size: int
    lr: float
    lr_schedule: str = "piecewise"
    lr_drops: tuple[tuple[float, float], ...] = ()
    weight_decay: float = 0.0
    ema_decay: float = 0.0
    clip_norm: float | None = None
    patience: int | None = None
    validate_every: int = 1

    @classmethod
    def read(cls, settings: Mapping[str, Any]) -> tuple["Training", int]:
        """Read the training's settings of a preset; gives them and the updates in all, which hold where epochs are 0.

        Raises
        ------
        ValueError
            The settings say nothing of the length of the training.
        """
        rest = {"epochs": 0, **settings}
        updates = int(rest.pop("updates", 0))
        if not rest["epochs"] and updates < 1:
            raise ValueError("neither training.epochs nor training.updates is given")
        return cls(**rest), updates

    def for_items(self, n_items: int, updates: int) -> "Training":
        """The same with as many epochs of `n_items` items as `updates` need, unless epochs are given."""
        return replace(self, epochs=self.epochs or -(-updates // -(-n_items // self.batch_size)))

    def lr_at(self, epoch: int) -> float:
        """Learning rate of an epoch, counted from 0."""
        share = epoch / self.epochs
        if self.lr_schedule == "cosine":
            return self.lr * 0.5 * (1 + math.cos(math.pi * share))
        return next((rate for start, rate in reversed(self.lr_drops) if share >= start), self.lr)


class Trainer:
    """Train a network; the same seed gives the same network on a CPU.

    Parameters
    ----------
    network
        What to train, on its device. After `run` it holds the weights with the least validation loss.
    training_loss, validation_loss
        See `TrainingLoss` and `ValidationLoss`; without the latter the last weights are kept.
    n_items
        Number of training items (spots); each epoch takes all, in random order.
    settings
        How to train.
    seed
        Seed of every random choice of the training.
    """

    def __init__(
        self,
        network: nn.Module,
        training_loss: TrainingLoss,
        validation_loss: ValidationLoss | None,
        n_items: int,
        settings: Training,
        *,
        seed: int,
    ) -> None:
        self.network = network
        self.training_loss = training_loss
        self.validation_loss = validation_loss
        self.n_items = n_items
        self.settings = settings
        self.seed = seed
        # A generator of its own, on the CPU: the same choices on any device, whatever else draws random numbers.
        self.generator = torch.Generator().manual_seed(seed)
        self.parameters: list[Tensor] = list(network.parameters())
        self.optimizer = AdamW(self.parameters, settings.weight_decay)
        self.averaged = copy.deepcopy(network).requires_grad_(False) if settings.ema_decay > 0 else network
        self.means: list[Tensor] = list(self.averaged.parameters())
        self.buffers = list(zip(self.averaged.buffers(), network.buffers(), strict=True))
        self.epoch = 0
        self.order: Tensor | None = None  # of the items, in the current epoch
        self.n_seen = 0  # items of that epoch used so far
        self.total: Tensor | float = 0.0  # their losses; on the device, which would have to be waited for at each step
        self.n_updates = 0
        self.best_loss = math.inf
        self.best_epoch = 0
        self.best_weights: dict[str, Tensor] | None = None

    def run(self, report: Reporter, stage: Stage = NO_CHECKPOINT) -> None:
        """Train until the epochs are over or validation has not improved for `patience` of them.

        Parameters
        ----------
        report
            Receives a row of the history after every epoch.
        stage
            Saves the state of the training; where it has a state already, the training goes on from that.
        """
        settings = self.settings
        with torch.random.fork_rng(devices=[]):  # dropout draws from the global generator: seed it, then restore it
            torch.manual_seed(self.seed)
            if stage.state is not None:
                self.load_state_dict(stage.state)
            while self.epoch < settings.epochs and not self._stale():
                lr = settings.lr_at(self.epoch)
                loss = self._train_epoch(lr, stage)
                self.epoch += 1
                row = Row(settings.epochs, epoch=self.epoch, loss=loss, lr=lr)
                if self.validation_loss and (
                    self.epoch % settings.validate_every == 0 or self.epoch == settings.epochs
                ):
                    row["validation_loss"] = self._validate()
                report(row)
            stage.save(copy.deepcopy(self.state_dict()))
        if self.epoch < settings.epochs:
            logger.debug(
                "stopped early after epoch %d of %d: validation loss has not beaten %.6g (epoch %d) for %d epochs",
                self.epoch,
                settings.epochs,
                self.best_loss,
                self.best_epoch,
                settings.patience,
            )
        self.network.load_state_dict(self.best_weights or self.averaged.state_dict())

    def _stale(self) -> bool:
        """Whether validation has not improved for `patience` epochs."""
        patience = self.settings.patience
        return bool(self.best_weights and patience and self.epoch - self.best_epoch >= patience)

    def _train_epoch(self, lr: float, stage: Stage) -> float:
        if not self.network.training:
            self.network.train()
        if self.order is None:
            self.order = torch.randperm(self.n_items, generator=self.generator)
            self.n_seen, self.total = 0, 0.0
        for items in self.order[self.n_seen :].split(self.settings.batch_size):
            if not len(items):  # the epoch was complete before the training was stopped
                break
            with distributed.split_batch(self.network):
                loss = self.training_loss(self.network, items, self.generator)
            self.optimizer.zero_grad()
            loss.backward()
            distributed.sum_gradients(self.network)
            if self.settings.clip_norm is not None:
                nn.utils.clip_grad_norm_(self.parameters, self.settings.clip_norm)
            self.optimizer.step(lr)
            self._average()
            self.total = self.total + loss.detach().double() * len(items)
            self.n_seen += len(items)
            stage.save(self.state_dict)
        self.order = None
        total = float(self.total)
        if not math.isfinite(total):
            raise InputError(f"training diverged in epoch {self.epoch + 1}: the loss is not finite; lower `lr`")
        return total / self.n_items

    @torch.no_grad()
    def _average(self) -> None:
        self.n_updates += 1
        if self.averaged is self.network:
            return
        # A smaller decay at first, or the random initial weights would stay in the mean for long.
        weight = 1 - min(self.settings.ema_decay, (1 + self.n_updates) / (10 + self.n_updates))
        torch._foreach_lerp_(self.means, self.parameters, weight)
        for copied, current in self.buffers:
            copied.copy_(current)

    def _validate(self) -> float:
        assert self.validation_loss is not None
        self.averaged.eval()
        with torch.no_grad():
            loss = distributed.broadcast(self.validation_loss(self.averaged), self.means[0].device)
        if loss < self.best_loss:
            self.best_loss, self.best_epoch = loss, self.epoch
            self.best_weights = {name: value.clone() for name, value in self.averaged.state_dict().items()}
        return loss

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on after a stop, with the same results as without it."""
        state = {
            "network": self.network.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "dropout": torch.get_rng_state(),
        }
        if self._on_gpu:
            state["dropout_gpu"] = torch.cuda.get_rng_state()
        return state | {name: getattr(self, name) for name in self._PLAIN}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self.network.load_state_dict(state["network"])
        self.averaged.load_state_dict(state["averaged"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
        torch.set_rng_state(state["dropout"])
        if self._on_gpu:
            torch.cuda.set_rng_state(state["dropout_gpu"])
        for name in self._PLAIN:
            setattr(self, name, state[name])

    _PLAIN = ("epoch", "order", "n_seen", "total", "n_updates", "best_loss", "best_epoch", "best_weights")

    @property
    def _on_gpu(self) -> bool:
        return self.parameters[0].is_cuda
