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
from stmcdi_cli.model.attention.expectation import Expectation
from stmcdi_cli.model.attention.graph_encoder import Neighbourhood
from stmcdi_cli.model.attention.training_step import TrainingStep
from stmcdi_cli.model.base import DrawCallback, DrawOptions, ImputationModel
from stmcdi_cli.model.device import parallel_map
from stmcdi_cli.model.diffusion import keyed_noise
from stmcdi_cli.model.diffusion.samplers import Predict, sample
from stmcdi_cli.model.diffusion.schedule import Schedule
from stmcdi_cli.model.gene_scaler import GeneScaler
from stmcdi_cli.model.latent.factor_model import SpatialFactorModel
from stmcdi_cli.model.latent.gaussian import LatentPosterior
from stmcdi_cli.model.scales import SCALES
from stmcdi_cli.model.tissue import Tissue, validation_entries
from stmcdi_cli.model.training.checkpoint import Checkpoint
from stmcdi_cli.model.training.trainer import Reporter, Row, Trainer, Training, ValidationLoss

logger = logging.getLogger(__name__)

BLOCK = 16
"""Spots per network pass in sampling. The number is fixed: the rounding of products depends on their shape."""
WIDE_BLOCK = 64
"""The same where the network starts from a factor model: it can be narrower, and a pass then takes half of the time."""
DRAWS = {"cpu": 1, "cuda": 32}
"""Draws of each of these spots in one pass: a CPU has enough work with one, a GPU waits for more."""
MOST_VALIDATION_SPOTS = 512

# Streams of the keyed random numbers. Those of samplers come after: one range for the missing entries, one per fold.
_VALIDATION_ORDER, _VALIDATION_STEP, _VALIDATION_NOISE, _FOLDS, _SAMPLING = range(5)
_SAMPLER_RANGE = 2**16
_ENCODER = "encoder."  # of the names of the encoder's state
_POINT_PARTS = (0.0, 0.25, 0.5, 0.75, 1.0)


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
            self.encoder_options = dict(config.get("encoder", {}))
            self.sweeps = int(self.encoder_options.pop("sweeps", 0))
            self.block = WIDE_BLOCK if self.encoder_options else BLOCK
            self._build(seed=0)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"the configuration does not fit the variant 'attention': {error}") from error
        self.scaler: GeneScaler | None = None
        self.point_part = torch.tensor(0.0)

    def _build(self, seed: int) -> None:
        with torch.random.fork_rng(devices=[]):  # seed the global generator, then restore it
            torch.manual_seed(seed)
            self.encoder: SpatialFactorModel | None = None
            if self.encoder_options:
                rank = min(self.encoder_options["rank"], max(1, len(self.genes) - 1))
                self.encoder = SpatialFactorModel(**self.encoder_options | {"rank": rank})
            self.network = Denoiser(len(self.genes), **self.config["network"], expects=self.encoder is not None)
            if self.encoder:
                self.network.reset_output()

    def fit(
        self, tissue: Tissue, *, seed: int, device: torch.device, report: Reporter, checkpoint: Checkpoint | None = None
    ) -> None:
        """Train on the visible entries (Algorithm 1), from the state in `checkpoint` where it has one."""
        self._build(seed)
        self.network.to(device)
        checkpoint = checkpoint or Checkpoint()
        n_parameters = sum(parameter.numel() for parameter in self.network.parameters())
        logger.debug("%d parameters for %d genes (the paper: 826,471)", n_parameters, len(self.genes))
        validation_mask = validation_entries(tissue, self.validation_share, seed)
        data = Neighbourhood(tissue, self.hops, validation_mask=validation_mask, device=device)
        self.scaler = data.scaler
        expectation = None
        if self.encoder:
            partial_tissue = tissue.without(validation_mask)
            self.encoder.fit(partial_tissue, sweeps=self.sweeps, seed=seed, stage=checkpoint.stage("encoder"))
            expectation = Expectation(self.encoder, partial_tissue, data.scaler)
        step = TrainingStep(self.network, self.schedule)
        if device.type == "cuda" and not torch.distributed.is_initialized():
            step.record(min(self.training.batch_size, tissue.n_spots), len(self.genes), self.hops)
        validation_loss = self._validation(tissue, data, expectation, validation_mask, seed)
        settings = self.training.for_items(tissue.n_spots, self.updates)
        untrained = None
        if self.encoder and validation_loss:
            untrained = validation_loss(self.network)
            report(Row(settings.epochs, epoch=0, validation_loss=untrained))
        trainer = Trainer(
            self.network,
            partial(self._training_loss, data, expectation, step),
            validation_loss,
            tissue.n_spots,
            settings,
            seed=seed,
        )
        trainer.run(report, checkpoint.stage("training"))
        if self.encoder and expectation:
            if untrained is not None and trainer.best_loss >= untrained:
                self.network.reset_output()
            self.point_part = self._choose_point_part(tissue, data, expectation, validation_mask, seed)
            last = checkpoint.stage("encoder, with every entry")
            self.encoder.fit(tissue, sweeps=max(5, self.sweeps // 3), seed=seed, start=self.encoder, stage=last)

    def _training_loss(
        self,
        data: Neighbourhood,
        expectation: Expectation | None,
        step: TrainingStep,
        _: nn.Module,
        items: Tensor,
        generator: torch.Generator,
    ) -> Tensor:
        """Loss of some spots [B] in one step of Algorithm 1."""
        # Algorithm 1: take x_0 and the mask of its visible entries, both [B, G].
        x, visible, around = data.batch(items.numpy())
        # Algorithm 1: hide a random share of each spot's visible entries. They are the targets, the others are x_co.
        low, high = self.hidden_share
        share = low + (high - low) * torch.rand(len(items), 1, generator=generator)
        hidden = (torch.rand(x.shape, generator=generator) < share).to(x.device)
        # Algorithm 1: draw t ~ Uniform{1, ..., T} and eps ~ N(0, I).
        t = torch.randint(1, self.schedule.T + 1, (len(items),), generator=generator).to(x.device)
        eps = torch.randn(x.shape, generator=generator).to(x.device)
        # Algorithm 1: make x_t, predict eps from x_t, t, x_co and the graph, and compare on the targets (eq. 8).
        target = visible * hidden
        start = _start(expectation, items.numpy(), visible - target)
        return step(x, visible - target, around, target, *start, t, eps)

    def _validation(
        self,
        tissue: Tissue,
        data: Neighbourhood,
        expectation: Expectation | None,
        validation_mask: sp.csr_matrix,
        seed: int,
    ) -> ValidationLoss | None:
        """Loss on the validation entries of some spots, with the same steps and noise at every call."""
        validation_spots = _validation_spots(validation_mask, seed)
        if not len(validation_spots):
            return None
        one = np.zeros(1, dtype=np.int64)

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
                target, steps, eps = (torch.from_numpy(part).to(data.device) for part in (hidden, t, noise))
                x, visible, around = data.batch(spots)
                x = x + torch.from_numpy(truth).to(data.device)
                loss = step(x, visible, around, target, *_start(expectation, spots, visible), steps, eps)
                total += loss.item() * float(hidden.sum())
                n += float(hidden.sum())
            return total / n

        return validation_loss

    @torch.inference_mode()
    def _choose_point_part(
        self, tissue: Tissue, data: Neighbourhood, expectation: Expectation, validation_mask: sp.csr_matrix, seed: int
    ) -> Tensor:
        """Choose how much of what the network adds belongs in the point value: the least error on validation entries.

        The network fits the shape of the noise better than the encoder does, but from few spots not always the mean.
        All of it is taken where there are no such entries.
        """
        self.network.eval()
        spots = _validation_spots(validation_mask, seed)
        if not len(spots):
            return torch.tensor(1.0)
        errors = np.zeros(len(_POINT_PARTS))
        for i in range(0, len(spots), self.block):
            some = spots[i : i + self.block]
            shown = torch.from_numpy(data.visible(some)).to(self._device)
            expected, sd = expectation.of(some, shown)
            predict = self._predictor(data.own(some), shown, torch.from_numpy(data.around(some)), expected)
            added = (sd * self._expected_x_0(predict, shown)).cpu().numpy()
            left = tissue.x[some].toarray() - data.scaler.inverse(expected.cpu().numpy())
            use = validation_mask[some].toarray()
            errors += [np.square(left - part * data.scaler.scale * added)[use].sum() for part in _POINT_PARTS]
        return torch.tensor(_POINT_PARTS[int(errors.argmin())])

    def _expected_x_0(self, predict: Predict, like: Tensor) -> Tensor:
        """What the network expects of x_0 at t = T, where x_t is all noise [B, G]."""
        x_T, T = torch.zeros_like(like)[None], self.schedule.T
        return self.schedule.x0_from_noise(x_T, predict(x_T, T), T)[0]

    def prepare(self, tissue: Tissue, *, device: torch.device, encoded: Mapping[str, Tensor] | None = None) -> None:
        """Take the tissue whose spots will be drawn."""
        if self.scaler is None:
            raise RuntimeError("`fit` or `load_state` comes before `prepare`.")
        self.network.to(device).eval()
        self._data = Neighbourhood(tissue, self.hops, scaler=self.scaler)
        self._expectation = None
        self._tissue = tissue
        if self.encoder:
            known = LatentPosterior(**encoded) if encoded else None
            self._expectation = Expectation(self.encoder, tissue, self.scaler, known)

    def encoded(self) -> dict[str, Tensor]:
        """Posterior of the latents that `prepare` has computed, by name; none without an encoder."""
        return self._expectation.latents._asdict() if self._expectation else {}

    def remarks(self) -> list[str]:
        """Say how much the network adds to the factor model that it starts from."""
        if self.encoder is None:
            return []
        part = f"{100 * float(self.point_part):.0f} % of what the network adds to the factor model is in imputed values"
        return [f"{part}, all of it in draws"]

    def draw_each(self, spots: np.ndarray, options: DrawOptions, on_draw: DrawCallback | None = None) -> np.ndarray:
        """Draw every gene of some spots of the prepared tissue; the point value is the mean of the draws."""
        solve = partial(sample, options.sampler, schedule=self.schedule, n_steps=options.n_steps)
        mean = np.empty((len(spots), len(self.genes)), dtype=np.float32)

        def drawn(start: int) -> tuple[slice, np.ndarray, np.ndarray]:
            block = spots[start : start + self.block]
            padded = np.concatenate([block, np.repeat(block[-1:], self.block - len(block))])
            values, point = self._draw_block(padded, options, solve)
            return slice(start, start + len(block)), values[:, : len(block)], point[: len(block)]

        starts = range(0, len(spots), self.block)
        for rows, values, point in map(drawn, starts) if self._device.type == "cuda" else parallel_map(drawn, starts):
            mean[rows] = point
            for number, one in enumerate(values if on_draw else ()):
                assert on_draw is not None
                on_draw(number, rows, one)
        return mean

    @torch.inference_mode()
    def _draw_block(
        self, spots: np.ndarray, options: DrawOptions, solve: Callable[..., Tensor]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Draw a block of spots: the missing entries given all visible ones, then the visible ones fold by fold.

        Returns
        -------
        The draws [draws, B, G], and the point values [B, G]: means of the draws; with an encoder, what is expected of
        x_0 at t = T, where x_t is all noise. That is their mean without the error of few draws.
        """
        visible = self._data.visible(spots)
        own = self._data.own(spots)
        around = torch.from_numpy(self._data.around(spots))
        out = np.repeat(self._data.x[spots].toarray()[None], options.n_samples, axis=0)
        fold = keyed_noise.uniform(options.seed, spots, np.zeros(1, dtype=np.int64), _FOLDS, visible.shape[1])[0]
        fold = np.where(visible, (fold * self.n_folds).astype(int), -1)
        point, inverse = out[0].copy(), self._data.scaler.inverse
        # Fold -1 is the missing entries themselves: nothing visible is hidden for them.
        for held in range(-1, self.n_folds if options.denoise else 0):
            shown = torch.from_numpy(visible * (fold != held)).to(self._device)
            expected, sd = _start(self._expectation, spots, shown)
            predict = self._predictor(own, shown, around, expected)
            if self.encoder:
                x_0 = float(self.point_part) * self._expected_x_0(predict, shown)
                np.copyto(point, inverse((expected + sd * x_0).cpu().numpy()), where=fold == held)
            stream_0 = _SAMPLING + (held + 1) * _SAMPLER_RANGE
            for start in range(0, options.n_samples, DRAWS[self._device.type]):
                some = out[start : start + DRAWS[self._device.type]]
                numbers = start + np.arange(len(some))
                keyed = partial(self._keyed_noise, options.seed, spots, numbers, stream_0)
                drawn = solve(predict=predict, noise=keyed, target=1 - shown)
                np.copyto(some, inverse((expected + sd * drawn).cpu().numpy()), where=fold == held)
        out = np.maximum(out, 0)
        if self.encoder is None:
            return out, out.mean(0)
        return self._as_counts(out, spots), np.maximum(point, 0)

    def _as_counts(self, drawn: np.ndarray, spots: np.ndarray) -> np.ndarray:
        """Values of the whole counts that are nearest to the draws, where the tissue has counts [draws, B, G]."""
        if self._tissue.count_scale is None:
            return drawn
        to_value, to_count = SCALES[self._tissue.count_scale]
        depth = self._tissue.depth[spots][:, None]
        return to_value(np.round(to_count(drawn, depth)), depth).astype(np.float32)

    def _predictor(self, own: np.ndarray, shown: Tensor, around: Tensor, expected: Tensor) -> Predict:
        """The network conditioned on the entries of some spots that are `shown` [B, G]."""
        target = 1 - shown
        x_co = torch.from_numpy(own).to(self._device) * shown
        condition = self.network.encoder(x_co, around.to(self._device))  # once, for all samples and steps

        def predict(x_t: Tensor, t: int) -> Tensor:
            """Noise in draws of the spots [draws, B, G]."""
            n = len(x_t)
            given = (part.expand(n, *part.shape).flatten(0, 1) for part in (x_co, shown, target, expected, condition))
            steps = torch.full((n * len(target),), t, device=self._device)
            v = self.network(x_t.flatten(0, 1), steps, *given).view_as(x_t)
            return self.schedule.noise_from_v(x_t, v, t)

        return predict

    def _keyed_noise(self, seed: int, spots: np.ndarray, numbers: np.ndarray, stream_0: int, stream: int) -> Tensor:
        if self.encoder is None:
            drawn = keyed_noise.normal(seed, spots, numbers, stream_0 + stream, len(self.genes))
        else:  # pairs of opposite sign: what is symmetric around the expected expression cancels in their mean
            drawn = keyed_noise.normal(seed, spots, numbers // 2, stream_0 + stream, len(self.genes))
            drawn[numbers % 2 == 1] *= -1
        return torch.from_numpy(drawn).to(self._device)

    @property
    def _device(self) -> torch.device:
        return self.network.genes.device

    def state(self) -> dict[str, Tensor]:
        """Weights of the network, and the scale of the genes."""
        assert self.scaler is not None
        weights = {f"network.{name}": value.detach().cpu() for name, value in self.network.state_dict().items()}
        mean, sd = torch.from_numpy(self.scaler.mean), torch.from_numpy(self.scaler.scale)
        state = weights | {"scale.mean": mean, "scale.sd": sd}
        if self.encoder:
            state |= {f"{_ENCODER}{name}": value for name, value in self.encoder.state().items()}
            state["point_part"] = self.point_part
        return state

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state` gave."""
        weights = {name.removeprefix("network."): value for name, value in state.items() if name.startswith("network.")}
        self.network.load_state_dict(weights)
        self.scaler = GeneScaler(state["scale.mean"].numpy(), state["scale.sd"].numpy())
        if self.encoder:
            factors = {name.removeprefix(_ENCODER): v for name, v in state.items() if name.startswith(_ENCODER)}
            self.encoder.load_state(factors)
            self.point_part = state["point_part"]


def _start(expectation: Expectation | None, spots: np.ndarray, visible: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation by which the entries of some spots are scaled; 0 and 1 without an encoder [B, G]."""
    if expectation is None:
        return torch.zeros_like(visible), torch.ones_like(visible)
    return expectation.of(spots, visible)


def _validation_spots(validation_mask: sp.csr_matrix, seed: int) -> np.ndarray:
    """Give the spots by which the network is judged, ascending: some of those with validation entries."""
    candidates = np.flatnonzero(np.diff(validation_mask.indptr))
    order = keyed_noise.uniform(seed, candidates, np.zeros(1, np.int64), _VALIDATION_ORDER, 1)[0, :, 0].argsort()
    return np.sort(candidates[order[:MOST_VALIDATION_SPOTS]])
