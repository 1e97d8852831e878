"""The paper's variant: diffusion over gene tokens with attention, conditioned by the graph encoder (appendix B, C)."""

import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor, nn

from stmcdi_cli.errors import InputError
from stmcdi_cli.model.attention.denoiser import Denoiser
from stmcdi_cli.model.attention.graph_encoder import Neighbourhood
from stmcdi_cli.model.attention.training_step import TrainingStep
from stmcdi_cli.model.base import DrawCallback, DrawOptions, ImputationModel
from stmcdi_cli.model.device import parallel_map
from stmcdi_cli.model.diffusion import keyed_noise
from stmcdi_cli.model.diffusion.samplers import Predict, sample
from stmcdi_cli.model.diffusion.schedule import Schedule
from stmcdi_cli.model.gene_scaler import GeneScaler
from stmcdi_cli.model.tissue import Tissue, validation_entries
from stmcdi_cli.model.training.checkpoint import Checkpoint
from stmcdi_cli.model.training.trainer import Reporter, Trainer, Training, ValidationLoss

logger = logging.getLogger(__name__)

BLOCK = 16
"""Spots per network pass in sampling. The number is fixed: the rounding of products depends on their shape."""
DRAWS = {"cpu": 1, "cuda": 32}
"""Draws of each of these spots in one pass: a CPU has enough work with one, a GPU waits for more."""
MOST_VALIDATION_SPOTS = 512

# Streams of the keyed random numbers. Those of samplers come after: one range for the missing entries, one per fold.
_VALIDATION_ORDER, _VALIDATION_STEP, _VALIDATION_NOISE, _FOLDS, _SAMPLING = range(5)
_SAMPLER_RANGE = 2**16


class AttentionModel(ImputationModel):
    """Diffusion in gene space, one token per gene; attention costs O(genes) here, and the network O(spots x genes)."""

    variant = "attention"

    def __init__(self, config: Mapping[str, Any], genes: tuple[str, ...]) -> None:
        super().__init__(config, genes)
        try:
            self.schedule = Schedule(**config["diffusion"])
            self.training, self.updates = Training.read(config["training"])
            self.hops = int(config["network"]["hops"])
            self.hidden_share = tuple(map(float, config["masking"]["hidden"]))
            self.validation_share = float(config["masking"]["validation"])
            self.n_folds = int(config["masking"]["folds"])
            self._build(seed=0)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"the configuration does not fit the variant 'attention': {error}") from error
        self.scaler: GeneScaler | None = None

    def _build(self, seed: int) -> None:
        with torch.random.fork_rng(devices=[]):  # seed the global generator, then restore it
            torch.manual_seed(seed)
            self.network = Denoiser(len(self.genes), **self.config["network"])

    def fit(
        self, tissue: Tissue, *, seed: int, device: torch.device, report: Reporter, checkpoint: Checkpoint | None = None
    ) -> None:
        """Train on the visible entries (Algorithm 1), from the state in `checkpoint` where it has one."""
        self._build(seed)
        self.network.to(device)
        n_parameters = sum(parameter.numel() for parameter in self.network.parameters())
        logger.debug("%d parameters for %d genes (the paper: 826,471)", n_parameters, len(self.genes))
        validation_mask = validation_entries(tissue, self.validation_share, seed)
        data = Neighbourhood(tissue, self.hops, validation_mask=validation_mask, device=device)
        self.scaler = data.scaler
        step = TrainingStep(self.network, self.schedule)
        if device.type == "cuda" and not torch.distributed.is_initialized():
            step.record(min(self.training.batch_size, tissue.n_spots), len(self.genes), self.hops)
        trainer = Trainer(
            self.network,
            partial(self._training_loss, data, step),
            self._validation(tissue, data, validation_mask, seed),
            tissue.n_spots,
            self.training.for_items(tissue.n_spots, self.updates),
            seed=seed,
        )
        trainer.run(report, (checkpoint or Checkpoint()).stage("training"))

    def _training_loss(
        self, data: Neighbourhood, step: TrainingStep, _: nn.Module, items: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Loss of some spots [B] in one step of Algorithm 1."""
        # Algorithm 1: take x_0 and the mask of its visible entries, both [B, G].
        x_0, visible, around = data.batch(items.numpy())
        # Algorithm 1: hide a random share of each spot's visible entries. They are the targets, the others are x_co.
        low, high = self.hidden_share
        share = low + (high - low) * torch.rand(len(items), 1, generator=generator)
        hidden = (torch.rand(x_0.shape, generator=generator) < share).to(x_0.device)
        # Algorithm 1: draw t ~ Uniform{1, ..., T} and eps ~ N(0, I).
        t = torch.randint(1, self.schedule.T + 1, (len(items),), generator=generator).to(x_0.device)
        eps = torch.randn(x_0.shape, generator=generator).to(x_0.device)
        # Algorithm 1: make x_t, predict eps from x_t, t, x_co and the graph, and compare on the targets (eq. 8).
        target = visible * hidden
        return step(x_0, visible - target, around, target, t, eps)

    def _validation(
        self, tissue: Tissue, data: Neighbourhood, validation_mask: sp.csr_matrix, seed: int
    ) -> ValidationLoss | None:
        """Loss on the validation entries of some spots, with the same steps and noise at every call."""
        candidates = np.flatnonzero(np.diff(validation_mask.indptr))
        if not len(candidates):
            return None
        one = np.zeros(1, dtype=np.int64)
        order = keyed_noise.uniform(seed, candidates, one, _VALIDATION_ORDER, 1)[0, :, 0].argsort()
        validation_spots = np.sort(candidates[order[:MOST_VALIDATION_SPOTS]])

        def validation_loss(network: nn.Module) -> float:
            step = TrainingStep(network, self.schedule)
            total, n = 0.0, 0.0
            for start in range(0, len(validation_spots), self.training.batch_size):
                spots = validation_spots[start : start + self.training.batch_size]
                uniform = keyed_noise.uniform(seed, spots, one, _VALIDATION_STEP, 1)[0, :, 0]
                t = 1 + (uniform * self.schedule.T).astype(int)
                hidden = validation_mask[spots].toarray().astype(np.float32)
                truth = data.scaler.transform(tissue.x[spots].toarray()) * hidden
                noise = keyed_noise.normal(seed, spots, one, _VALIDATION_NOISE, tissue.n_genes)[0]
                given = (torch.from_numpy(part).to(data.device) for part in (hidden, t, noise))
                x_0, visible, around = data.batch(spots)
                x_0 = x_0 + torch.from_numpy(truth).to(data.device)
                loss = step(x_0, visible, around, *given)
                total += loss.item() * float(hidden.sum())
                n += float(hidden.sum())
            return total / n

        return validation_loss

    def prepare(self, tissue: Tissue, *, device: torch.device, encoded: Mapping[str, Tensor] | None = None) -> None:
        """Take the tissue whose spots will be drawn."""
        if self.scaler is None:
            raise RuntimeError("`fit` or `load_state` comes before `prepare`.")
        self.network.to(device).eval()
        self._data = Neighbourhood(tissue, self.hops, scaler=self.scaler)

    def draw_each(self, spots: np.ndarray, options: DrawOptions, on_draw: DrawCallback | None = None) -> np.ndarray:
        """Draw every gene of some spots of the prepared tissue; the point value is the mean of the draws."""
        solve = partial(sample, options.sampler, schedule=self.schedule, n_steps=options.n_steps)
        mean = np.empty((len(spots), len(self.genes)), dtype=np.float32)

        def drawn(start: int) -> tuple[slice, np.ndarray]:
            block = spots[start : start + BLOCK]
            padded = np.concatenate([block, np.repeat(block[-1:], BLOCK - len(block))])
            return slice(start, start + len(block)), self._draw_block(padded, options, solve)[:, : len(block)]

        starts = range(0, len(spots), BLOCK)
        for rows, values in map(drawn, starts) if self._device.type == "cuda" else parallel_map(drawn, starts):
            mean[rows] = values.mean(0)
            for number, one in enumerate(values if on_draw else ()):
                assert on_draw is not None
                on_draw(number, rows, one)
        return mean

    @torch.inference_mode()
    def _draw_block(self, spots: np.ndarray, options: DrawOptions, solve: Callable[..., Tensor]) -> np.ndarray:
        """Draw `BLOCK` spots: the missing entries given all visible ones, then the visible ones fold by fold."""
        scaler = self._data.scaler
        visible = self._data.visible(spots)
        own = self._data.own(spots)
        around = torch.from_numpy(self._data.around(spots))
        out = np.repeat(self._data.x[spots].toarray()[None], options.n_samples, axis=0)
        fold = keyed_noise.uniform(options.seed, spots, np.zeros(1, dtype=np.int64), _FOLDS, visible.shape[1])[0]
        fold = np.where(visible, (fold * self.n_folds).astype(int), -1)
        # Fold -1 is the missing entries themselves: nothing visible is hidden for them.
        for held in range(-1, self.n_folds if options.denoise else 0):
            predict, target = self._predictor(own, visible * (fold != held), around)
            stream_0 = _SAMPLING + (held + 1) * _SAMPLER_RANGE
            for start in range(0, options.n_samples, DRAWS[self._device.type]):
                some = out[start : start + DRAWS[self._device.type]]
                numbers = start + np.arange(len(some))
                keyed = partial(self._keyed_noise, options.seed, spots, numbers, stream_0)
                drawn = solve(predict=predict, noise=keyed, target=target).cpu().numpy()
                np.copyto(some, np.maximum(scaler.inverse(drawn), 0), where=fold == held)
        return out

    def _predictor(self, own: np.ndarray, visible: np.ndarray, around: Tensor) -> tuple[Predict, Tensor]:
        """The network conditioned on the `visible` entries of some spots, and the mask of its targets [B, G]."""
        shown = torch.from_numpy(visible).to(self._device)
        target = 1 - shown
        x_co = torch.from_numpy(own).to(self._device) * shown
        condition = self.network.encoder(x_co, around.to(self._device))  # once, for all samples and steps

        def predict(x_t: Tensor, t: int) -> Tensor:
            """Noise in draws of the spots [draws, B, G]."""
            n = len(x_t)
            given = (part.expand(n, *part.shape).flatten(0, 1) for part in (x_co, shown, target, condition))
            steps = torch.full((n * len(target),), t, device=self._device)
            v = self.network(x_t.flatten(0, 1), steps, *given).view_as(x_t)
            return self.schedule.noise_from_v(x_t, v, t)

        return predict, target

    def _keyed_noise(self, seed: int, spots: np.ndarray, numbers: np.ndarray, stream_0: int, stream: int) -> Tensor:
        drawn = keyed_noise.normal(seed, spots, numbers, stream_0 + stream, len(self.genes))
        return torch.from_numpy(drawn).to(self._device)

    @property
    def _device(self) -> torch.device:
        return self.network.genes.device

    def state(self) -> dict[str, Tensor]:
        """Weights of the network, and the scale of the genes."""
        assert self.scaler is not None
        weights = {f"network.{name}": value.detach().cpu() for name, value in self.network.state_dict().items()}
        mean, sd = torch.from_numpy(self.scaler.mean), torch.from_numpy(self.scaler.scale)
        return weights | {"scale.mean": mean, "scale.sd": sd}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state` gave."""
        weights = {name.removeprefix("network."): value for name, value in state.items() if name.startswith("network.")}
        self.network.load_state_dict(weights)
        self.scaler = GeneScaler(state["scale.mean"].numpy(), state["scale.sd"].numpy())
