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
from stmcdi_cli.model.attention.graph_encoder import Neighbourhood, Scale
from stmcdi_cli.model.base import ImputationModel, Keep
from stmcdi_cli.model.diffusion import keyed_noise
from stmcdi_cli.model.diffusion.loss import diffusion_loss
from stmcdi_cli.model.diffusion.samplers import Predict, sample
from stmcdi_cli.model.diffusion.schedule import Schedule
from stmcdi_cli.model.tissue import Tissue, validation_entries
from stmcdi_cli.model.training.checkpoint import Restart
from stmcdi_cli.model.training.trainer import Reporter, Trainer, Training, ValidationLoss

logger = logging.getLogger(__name__)

BLOCK = 16
"""Spots per network pass in sampling, always: products of one shape round the same way whatever else they hold."""
VALIDATION_SPOTS = 512

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
            self.training = Training(**config["training"])
            self.hops = int(config["network"]["hops"])
            self.hidden_share = tuple(map(float, config["masking"]["hidden"]))
            self.validation_share = float(config["masking"]["validation"])
            self.n_folds = int(config["masking"]["folds"])
            self._build(seed=0)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"the configuration does not fit the variant 'attention': {error}") from error
        self.scale: Scale | None = None

    def _build(self, seed: int) -> None:
        with torch.random.fork_rng(devices=[]):  # initial weights come from the global generator: lend it one
            torch.manual_seed(seed)
            self.network = Denoiser(len(self.genes), **self.config["network"])

    def fit(
        self, tissue: Tissue, *, seed: int, device: torch.device, report: Reporter, restart: Restart | None = None
    ) -> None:
        """Learn from the visible entries (Algorithm 1), or go on with that where `restart` says it stands."""
        self._build(seed)
        self.network.to(device)
        n_parameters = sum(parameter.numel() for parameter in self.network.parameters())
        logger.debug("%d parameters for %d genes (the paper: 826,471)", n_parameters, len(self.genes))
        withheld = validation_entries(tissue, self.validation_share, seed)
        data = Neighbourhood(tissue, self.hops, withheld=withheld)
        self.scale = data.scale

        def training_loss(network: nn.Module, items: Tensor, generator: torch.Generator) -> Tensor:
            spots = items.numpy()
            shape = (len(spots), tissue.n_genes)
            low, high = self.hidden_share
            share = low + (high - low) * torch.rand(len(spots), 1, generator=generator)
            hide = torch.rand(shape, generator=generator) < share
            t = torch.randint(1, self.schedule.T + 1, (len(spots),), generator=generator)
            eps = torch.randn(shape, generator=generator)
            visible = torch.from_numpy(data.visible(spots))
            target = visible * hide
            x_0 = torch.from_numpy(data.own(spots))
            return self._loss(network, data, spots, x_0, visible - target, target, t, eps)

        trainer = Trainer(
            self.network,
            training_loss,
            self._validation(tissue, data, withheld, seed),
            tissue.n_spots,
            self.training,
            seed=seed,
        )
        trainer.run(report, (restart or Restart()).part("training"))

    def _loss(
        self,
        network: nn.Module,
        data: Neighbourhood,
        spots: np.ndarray,
        x_0: Tensor,
        visible: Tensor,
        target: Tensor,
        t: Tensor,
        eps: Tensor,
    ) -> Tensor:
        """Loss of predicting `target` entries from `visible` ones, the only ones of `x_0` that the network is shown."""
        assert isinstance(network, Denoiser)
        device = network.genes.device
        around = torch.from_numpy(data.around(spots))
        x_0, visible, target, t, eps, around = (part.to(device) for part in (x_0, visible, target, t, eps, around))
        x_co = x_0 * visible
        condition = network.encoder(x_co, around)

        def predict(x_t: Tensor, t: Tensor) -> Tensor:
            return self.schedule.noise_from_v(x_t, network(x_t, t, x_co, visible, target, condition), t)

        return diffusion_loss(predict, self.schedule, x_0, target, t, eps)

    def _validation(
        self, tissue: Tissue, data: Neighbourhood, withheld: sp.csr_matrix, seed: int
    ) -> ValidationLoss | None:
        """Loss on the withheld entries of some spots, with the same steps and noise at every call."""
        concerned = np.flatnonzero(np.diff(withheld.indptr))
        if not len(concerned):
            return None
        one = np.zeros(1, dtype=np.int64)
        order = keyed_noise.uniform(seed, concerned, one, _VALIDATION_ORDER, 1)[0, :, 0].argsort()
        chosen = np.sort(concerned[order[:VALIDATION_SPOTS]])

        def validation_loss(network: nn.Module) -> float:
            total, n = 0.0, 0.0
            for start in range(0, len(chosen), self.training.batch_size):
                spots = chosen[start : start + self.training.batch_size]
                t = 1 + (keyed_noise.uniform(seed, spots, one, _VALIDATION_STEP, 1)[0, :, 0] * self.schedule.T).astype(
                    int
                )
                eps = torch.from_numpy(keyed_noise.normal(seed, spots, one, _VALIDATION_NOISE, tissue.n_genes)[0])
                target = withheld[spots].toarray().astype(np.float32)
                truth = data.standardise(tissue.x[spots].toarray()) * target
                loss = self._loss(
                    network,
                    data,
                    spots,
                    torch.from_numpy(data.own(spots) + truth),
                    torch.from_numpy(data.visible(spots)),
                    torch.from_numpy(target),
                    torch.from_numpy(t),
                    eps,
                )
                total += loss.item() * float(target.sum())
                n += float(target.sum())
            return total / n

        return validation_loss

    def prepare(self, tissue: Tissue, *, device: torch.device, encoded: Mapping[str, Tensor] | None = None) -> None:
        """Take the tissue whose spots will be drawn."""
        if self.scale is None:
            raise RuntimeError("`fit` or `load_state` comes before `prepare`.")
        self.network.to(device).eval()
        self._data = Neighbourhood(tissue, self.hops, scale=self.scale)

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
        """Draw every gene of some spots of the prepared tissue; the point value is the mean of the draws."""
        solve = partial(sample, sampler, schedule=self.schedule, n_steps=n_steps)
        mean = np.empty((len(spots), len(self.genes)), dtype=np.float32)
        for start in range(0, len(spots), BLOCK):
            rows = slice(start, min(start + BLOCK, len(spots)))
            block = spots[rows]
            padded = np.concatenate([block, np.repeat(block[-1:], BLOCK - len(block))])
            drawn = self._draw_block(padded, n_samples, seed, solve, denoise)[:, : len(block)]
            mean[rows] = drawn.mean(0)
            for number, values in enumerate(drawn if keep else ()):
                assert keep is not None
                keep(number, rows, values)
        return mean

    @torch.inference_mode()
    def _draw_block(
        self, spots: np.ndarray, n_samples: int, seed: int, solve: Callable[..., Tensor], denoise: bool
    ) -> np.ndarray:
        """Draw `BLOCK` spots: the missing entries given all visible ones, then the visible ones fold by fold."""
        scale = self._data.scale
        visible = self._data.visible(spots)
        own = self._data.own(spots)
        around = torch.from_numpy(self._data.around(spots))
        out = np.repeat(self._data.x[spots].toarray()[None], n_samples, axis=0)
        fold = keyed_noise.uniform(seed, spots, np.zeros(1, dtype=np.int64), _FOLDS, visible.shape[1])[0]
        fold = np.where(visible, (fold * self.n_folds).astype(int), -1)
        # Fold -1 is the missing entries themselves: nothing visible is hidden for them.
        for held in range(-1, self.n_folds if denoise else 0):
            predict, target = self._predictor(own, visible * (fold != held), around)
            stream_0 = _SAMPLING + (held + 1) * _SAMPLER_RANGE
            for s in range(n_samples):
                keyed = partial(self._keyed_noise, seed, spots, s, stream_0)
                drawn = solve(predict=predict, noise=keyed, target=target).cpu().numpy()
                value = np.maximum(drawn * scale.sd + scale.mean, 0)
                np.copyto(out[s], value, where=fold == held)
        return out

    def _predictor(self, own: np.ndarray, visible: np.ndarray, around: Tensor) -> tuple[Predict, Tensor]:
        """The network given the `visible` entries of some spots, and where it is to be asked [B, G]."""
        device = self.network.genes.device
        shown = torch.from_numpy(visible).to(device)
        target = 1 - shown
        x_co = torch.from_numpy(own).to(device) * shown
        condition = self.network.encoder(x_co, around.to(device))  # once, for all samples and steps

        def predict(x_t: Tensor, t: int) -> Tensor:
            steps = torch.full((len(x_t),), t, device=device)
            return self.schedule.noise_from_v(x_t, self.network(x_t, steps, x_co, shown, target, condition), t)

        return predict, target

    def _keyed_noise(self, seed: int, spots: np.ndarray, number: int, stream_0: int, stream: int) -> Tensor:
        drawn = keyed_noise.normal(seed, spots, np.array([number]), stream_0 + stream, len(self.genes))[0]
        return torch.from_numpy(drawn).to(self.network.genes.device)

    def state(self) -> dict[str, Tensor]:
        """Weights of the network, and the scale of the genes."""
        assert self.scale is not None
        weights = {f"network.{name}": value.detach().cpu() for name, value in self.network.state_dict().items()}
        scale = {"scale.mean": torch.from_numpy(self.scale.mean), "scale.sd": torch.from_numpy(self.scale.sd)}
        return weights | scale

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state` gave."""
        weights = {name.removeprefix("network."): value for name, value in state.items() if name.startswith("network.")}
        self.network.load_state_dict(weights)
        self.scale = Scale(state["scale.mean"].numpy(), state["scale.sd"].numpy())
