"""The default variant: diffusion in the latent of a factor model over the spatial graph.

What is diffused are a spot's scores in the coordinates of their own posterior: u = R'(z - m), where m and (R R')^-1 are
the mean and covariance the graph encoder gives z from the visible entries. If the factor model were the whole truth, u
would be standard normal, the best guess of v = sqrt(abar) noise - sqrt(1 - abar) u would be 0 at every step, and the
reverse chain would draw from the exact posterior. The network predicts v and starts at 0: it is at first the strongest
linear method, and training can only add what that method misses. Expected expression is decoded from the scores, and an
observation is drawn around it with the counting noise of its gene and depth.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from scipy.special import ndtri
from torch import Tensor, nn

from stmcdi_cli.errors import InputError
from stmcdi_cli.model import noise as keyed
from stmcdi_cli.model.base import Draws, ImputationModel, Reporter
from stmcdi_cli.model.counts import DISPERSIONS
from stmcdi_cli.model.factor_graph import BLOCK, FactorGraph, neighbor_mean, uncolor, variances
from stmcdi_cli.model.observation import Observation, Observer
from stmcdi_cli.model.samplers import sample
from stmcdi_cli.model.schedule import Schedule
from stmcdi_cli.model.tissue import VALIDATION_STREAM, Tissue, validation_entries
from stmcdi_cli.model.trainer import Trainer, Training

_OBSERVATION_STREAM = VALIDATION_STREAM + 1
_TAILS = (0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08, 0.09, 0.1)
_COVERAGE = 0.92  # a little over 90 %: the entries it is measured on are few
_VALIDATION_SPOTS = 1024
_DISPERSION_SPOTS = 4096


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
        """Predict v [B, r] from u_t [B, r], steps t [B] and conditions [B, c]."""
        h = self.enter(torch.cat([u_t, condition], dim=-1)) + self.step(t)
        for block in self.blocks:
            h = h + block(h)
        return self.leave(nn.functional.silu(h))


def condition_size(rank: int) -> int:
    """Numbers in a spot's condition."""
    return 3 * rank + 1


def make_condition(mean: Tensor, factor: Tensor, prior: Tensor, depth: Tensor) -> Tensor:
    """What the network is told of spots: posterior mean and log variance of their scores, neighbours, depth [B, c]."""
    return torch.cat([mean, prior, variances(factor).log(), depth.log()[:, None]], dim=1)


class LatentModel(ImputationModel):
    """Diffusion in the graph encoder's latent; see `base.ImputationModel`."""

    variant = "latent"

    def __init__(self, config: Mapping[str, Any], genes: tuple[str, ...]) -> None:
        super().__init__(config, genes)
        try:
            self.schedule = Schedule(**config["diffusion"])
            encoder, masking, training = dict(config["encoder"]), config["masking"], dict(config["training"])
            self.rank = min(encoder.pop("rank"), max(1, len(genes) - 1))
            self.sweeps = int(encoder.pop("sweeps"))
            self.graph = FactorGraph(rank=self.rank, **encoder)
            self.hidden_share = tuple(map(float, masking["hidden"]))
            self.validation_share = float(masking["validation"])
            self.updates = int(training.pop("updates"))
            self.training = Training(**{"epochs": 0, **training})
            self._build(seed=0)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"the configuration does not fit the variant 'latent': {error}") from error
        self.dispersion = torch.zeros(len(genes), dtype=torch.int64)
        self.tail = torch.tensor(0.05)

    def _build(self, seed: int) -> None:
        with torch.random.fork_rng(devices=[]):  # initial weights come from the global generator: lend it one
            torch.manual_seed(seed)
            self.network = LatentDenoiser(self.rank, **self.config["network"], steps=self.schedule.T)

    # Training

    def fit(self, tissue: Tissue, *, seed: int, device: torch.device, report: Reporter) -> None:
        """Fit the encoder, train the denoiser on entries hidden from it, then give the encoder every visible entry."""
        chosen = validation_entries(tissue, self.validation_share, seed)
        partial = tissue.without(chosen)
        self.graph.fit(partial, sweeps=self.sweeps, seed=seed)
        scores, _ = self.graph.encode(partial)
        self._train(
            tissue,
            partial,
            self.graph.prior(neighbor_mean(tissue.graph), scores),
            seed=seed,
            device=device,
            report=report,
        )
        if tissue.scale is not None:
            self._fit_dispersion(tissue, partial, scores)
        self._calibrate(tissue, partial, chosen, seed=seed, device=device)
        self.graph.fit(tissue, sweeps=max(5, self.sweeps // 3), seed=seed, warm=True)

    def _train(
        self,
        tissue: Tissue,
        partial: Tissue,
        prior: Tensor,
        *,
        seed: int,
        device: torch.device,
        report: Reporter,
    ) -> None:
        depth = torch.from_numpy(tissue.depth.astype(np.float32))

        def pair(
            spots: np.ndarray, response: Tensor, less: Tensor, more: Tensor, noise: Tensor
        ) -> tuple[Tensor, Tensor]:
            """Condition on the weights `less`; scores drawn given `more`, in the coordinates of that condition."""
            mean, factor = self.graph.posterior(response, less, prior[spots])
            full_mean, full_factor = self.graph.posterior(response, more, prior[spots])
            z = full_mean + uncolor(full_factor, noise)
            u = torch.einsum("nba,nb->na", factor, z - mean)
            return u.to(device), make_condition(mean, factor, prior[spots], depth[spots]).to(device)

        def loss(network: nn.Module, u: Tensor, condition: Tensor, t: Tensor, eps: Tensor) -> Tensor:
            u_t = self.schedule.q_sample(u, t, eps)
            v = self.schedule.v_from_noise(u_t, eps, t)
            return (network(u_t, t.to(device), condition) - v).square().mean()

        def training_loss(network: nn.Module, items: Tensor, generator: torch.Generator) -> Tensor:
            spots = items.numpy()
            response, weight = self.graph.evidence(partial, spots)
            low, high = self.hidden_share
            share = low + (high - low) * torch.rand(len(items), 1, generator=generator)
            kept = weight * (torch.rand(weight.shape, generator=generator) >= share)
            noise = torch.randn(len(items), self.rank, generator=generator)
            t = torch.randint(1, self.schedule.T + 1, (len(items),), generator=generator)
            eps = torch.randn(len(items), self.rank, generator=generator).to(device)
            return loss(network, *pair(spots, response, kept, weight, noise), t, eps)

        generator = torch.Generator().manual_seed(seed + 1)
        spots = _some_spots(tissue, _VALIDATION_SPOTS)
        response, weight = self.graph.evidence(tissue, spots)
        _, kept = self.graph.evidence(partial, spots)
        u, condition = pair(spots, response, kept, weight, torch.randn(len(spots), self.rank, generator=generator))
        steps = range(1, self.schedule.T + 1, max(1, self.schedule.T // 10))
        fixed = [(torch.full((len(spots),), t), torch.randn(u.shape, generator=generator).to(device)) for t in steps]

        def validation_loss(network: nn.Module) -> float:
            return float(np.mean([loss(network, u, condition, t, eps).item() for t, eps in fixed]))

        self._build(seed)
        self.network.to(device)
        untrained = validation_loss(self.network.eval())
        report({"epoch": 0, "validation_loss": untrained})
        per_epoch = -(-tissue.n_spots // self.training.batch_size)
        settings = replace(self.training, epochs=self.training.epochs or -(-self.updates // per_epoch))
        with torch.random.fork_rng(devices=[]):  # so does dropout
            torch.manual_seed(seed)
            trainer = Trainer(self.network, training_loss, validation_loss, tissue.n_spots, settings, seed=seed)
            trainer.run(report)
        if trainer.best_loss >= untrained:  # the linear method could not be improved on: stay with it
            nn.init.zeros_(self.network.leave.weight)
            nn.init.zeros_(self.network.leave.bias)
        self.network.to("cpu").eval()

    def _fit_dispersion(self, tissue: Tissue, partial: Tissue, scores: Tensor) -> None:
        """Choose each gene's dispersion by the entries learnt from, then shift all by the entries kept from learning.

        Entries learnt from look less noisy than they are; the shift, common to all genes, corrects that.
        """
        observation = self._observation(tissue)
        counts = tissue.counts()
        some = _some_spots(tissue, _DISPERSION_SPOTS)

        def parts(kept: bool) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
            for i in range(0, len(some), BLOCK):
                spots = some[i : i + BLOCK]
                learnt = ~partial.missing[spots].toarray()
                use = ~tissue.missing[spots].toarray() & ~learnt if kept else learnt
                depth = tissue.depth[spots]
                yield depth, self.graph.decoder(depth)(scores[spots]).numpy(), counts[spots].toarray(), use

        n = len(DISPERSIONS)
        best = observation.fit(parts(kept=False), tissue.n_genes).argmax(0)
        held_out = observation.fit(parts(kept=True), tissue.n_genes)
        genes = np.arange(tissue.n_genes)
        shifts = [held_out[np.clip(best + shift, 0, n - 1), genes].sum() for shift in range(-2, 3)]
        self.dispersion = torch.from_numpy(np.clip(best + int(np.argmax(shifts)) - 2, 0, n - 1))

    def _calibrate(
        self, tissue: Tissue, partial: Tissue, chosen: sp.csr_matrix, *, seed: int, device: torch.device
    ) -> None:
        """Leave out as much on either side of an interval as lets it cover its share of the entries kept from learning.

        Counts are lumpy: the smallest interval with at most 5 % beyond either end often holds far more than 90 %.
        """
        self.prepare(partial, device=device)
        spots = _some_spots(tissue, _VALIDATION_SPOTS)
        drawn, true = [], []
        for i in range(0, len(spots), BLOCK):
            block = spots[i : i + BLOCK]
            kept = chosen[block].toarray()
            draws = self.draw(block, n_samples=50, seed=seed, sampler="dpm", n_steps=None)
            drawn.append(draws.samples[:, kept])
            true.append(tissue.x[block].toarray()[kept])
        samples, truth = np.concatenate(drawn, axis=1), np.concatenate(true)
        self.tail = torch.tensor(_TAILS[0])
        if not len(truth):
            return
        lows, highs = np.quantile(samples, _TAILS, axis=0), np.quantile(samples, [1 - tail for tail in _TAILS], axis=0)
        for tail, low, high in zip(_TAILS, lows.astype(np.float32), highs.astype(np.float32), strict=True):
            if np.mean((low <= truth) & (truth <= high)) >= _COVERAGE:
                self.tail = torch.tensor(tail)

    def _observation(self, tissue: Tissue) -> Observation:
        assert tissue.scale is not None
        largest = 20 * tissue.depth.max() * float(self.graph.rate.max())
        return Observation(tissue.scale, tissue.depth, largest)

    # Imputation

    def prepare(self, tissue: Tissue, *, device: torch.device) -> None:
        """Encode every spot of a tissue once."""
        self.graph.use_table(tissue)
        self._tissue, self._device = tissue, device
        self.network.to(device).eval()
        scores, _ = self.graph.encode(tissue)
        self._prior_scores = self.graph.prior(neighbor_mean(tissue.graph), scores)
        self._observe = self._observation(tissue) if tissue.scale is not None else None

    @torch.no_grad()
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
        """Draw every gene of some spots; the point value is the mean of the expected expression over the samples.

        With `denoise` visible entries are drawn as well, around what the encoder makes of them and all others.
        """
        samples = np.empty((n_samples, len(spots), len(self.genes)), dtype=np.float32)
        mean = np.empty((len(spots), len(self.genes)), dtype=np.float32)
        for i in range(0, len(spots), BLOCK):
            some = spots[i : i + BLOCK]
            padded = np.concatenate([some, np.full(BLOCK - len(some), some[-1])])  # one shape, one rounding
            wanted = np.zeros((BLOCK, len(self.genes)), dtype=bool)
            wanted[: len(some)] = True if denoise else self._tissue.missing[some].toarray()
            total = np.zeros((BLOCK, len(self.genes)), dtype=np.float64)
            for k, expected, observed in self._draw_block(padded, wanted, n_samples, seed, sampler, n_steps):
                samples[k, i : i + len(some)] = observed[: len(some)]
                total += expected
            mean[i : i + len(some)] = total[: len(some)] / n_samples
        return Draws(samples, mean, float(self.tail))

    def _draw_block(
        self, spots: np.ndarray, wanted: np.ndarray, n_samples: int, seed: int, sampler: str, n_steps: int | None
    ) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Yield (sample, expected expression [B, G], observation of the wanted entries [B, G])."""
        response, weight = self.graph.evidence(self._tissue, spots)
        prior, depth = self._prior_scores[spots], self._tissue.depth[spots]
        centre, factor = self.graph.posterior(response, weight, prior)
        condition = make_condition(centre, factor, prior, torch.from_numpy(depth.astype(np.float32))).to(self._device)
        decode = self.graph.decoder(depth)
        observe = self._observer(depth, wanted)
        for pair in range(-(-n_samples // 2)):
            # Samples come in opposite pairs: what is symmetric around the encoder's mean cancels from theirs at once.
            def noise(stream: int, pair: int = pair) -> Tensor:
                one = torch.from_numpy(keyed.normal(seed, spots, np.array([pair]), stream, self.rank))[0]
                return torch.cat([one, -one]).to(self._device)

            def predict(u_t: Tensor, t: int) -> Tensor:
                v = self.network(u_t, torch.full((len(u_t),), t, device=u_t.device), condition.repeat(2, 1))
                return self.schedule.noise_from_v(u_t, v, t)

            u = sample(sampler, predict, self.schedule, noise, n_steps=n_steps).to("cpu", torch.float32)
            uniform = keyed.uniform(seed, spots, np.array([pair]), _OBSERVATION_STREAM, len(self.genes))[0]
            halves = zip(u.split(len(spots)), (uniform, 1 - uniform), (2 * pair, 2 * pair + 1), strict=True)
            for half, chance, k in halves:
                if k < n_samples:
                    expected = decode(centre + uncolor(factor, half)).numpy()
                    yield k, expected, observe(expected, chance)

    def _observer(self, depth: np.ndarray, wanted: np.ndarray) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
        """Give the map from expected expression and uniform numbers to observations, all [B, G]."""
        if self._observe is not None:
            return Observer(self._observe, depth, self.dispersion.numpy(), wanted).draw
        # Counts are not modelled: each gene's noise is Gaussian.
        spread = self.graph.psi.sqrt().numpy() * self.graph.scale.numpy()
        return lambda expected, u: np.maximum(expected + spread * ndtri(np.maximum(u, 2**-25)), 0)

    # The model folder

    def state(self) -> dict[str, Tensor]:
        """Everything learnt, by name."""
        network = {f"network.{name}": value for name, value in self.network.state_dict().items()}
        return {**self.graph.state(), **network, "dispersion": self.dispersion, "tail": self.tail}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state` gave."""
        self.graph.load_state({name: state[name] for name in FactorGraph.STATE})
        prefix = "network."
        self.network.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
        self.dispersion, self.tail = state["dispersion"], state["tail"]


def _some_spots(tissue: Tissue, most: int) -> np.ndarray:
    """Spots to measure something on: all, or `most` of them at random."""
    return np.sort(np.random.default_rng(0).permutation(tissue.n_spots)[:most])
