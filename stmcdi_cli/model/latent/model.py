"""The default variant: diffusion in the latents of a factor model over the spatial graph.

The factor model comes in two links (`factor_model`): expression linear in the scores, and rates exponential in them.
Neither is the truth and they err in different ways. So draws are shared out between them, and the point value is the
weighted mean of both; the weight is what does best on inner validation entries. Each draw takes the scores from the
diffusion of its link (`latent.diffusion`), decodes expected expression from them, and draws an observation around it
with the counting noise of its gene and depth.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from scipy.special import ndtri
from torch import Tensor, nn

from stmcdi_cli.errors import InputError
from stmcdi_cli.model.base import ImputationModel, Keep
from stmcdi_cli.model.diffusion import keyed_noise as keyed
from stmcdi_cli.model.diffusion.schedule import Schedule
from stmcdi_cli.model.latent.count_moments import DISPERSIONS
from stmcdi_cli.model.latent.diffusion import Masking, Pairs, ScoreDiffusion
from stmcdi_cli.model.latent.factor_model import BLOCK, HEADROOM, FactorGraph
from stmcdi_cli.model.latent.gaussian import Scores
from stmcdi_cli.model.latent.observation import Observation, Observer
from stmcdi_cli.model.tissue import VALIDATION_STREAM, Tissue, validation_entries
from stmcdi_cli.model.training.checkpoint import Checkpoint, Stage
from stmcdi_cli.model.training.trainer import Reporter, Row, Trainer, Training

_OBSERVATION_STREAM = VALIDATION_STREAM + 1
_TAILS = (0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08, 0.09, 0.1)
_COVERAGE = 0.92  # a little over 90 %: the entries it is measured on are few
_SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Shares of the draws that the second link may have."""
_TRAINING_SPOTS = 20_000
"""Spots the denoisers learn from, at most: they are small, and what they learn holds for spots in general."""
_VALIDATION_SPOTS = 1024
_VALIDATION_PART = 10  # one spot in
_ROUNDS = 5  # of validation, each with other masks, steps and noise
_DISPERSION_SPOTS = 4096


class LatentModel(ImputationModel):
    """Diffusion in the graph encoder's latent; see `base.ImputationModel`."""

    variant = "latent"
    from_disk = True

    def __init__(self, config: Mapping[str, Any], genes: tuple[str, ...]) -> None:
        super().__init__(config, genes)
        try:
            self.schedule = Schedule(**config["diffusion"])
            self.encoder, masking, training = dict(config["encoder"]), config["masking"], dict(config["training"])
            self.encoder["rank"] = min(self.encoder["rank"], max(1, len(genes) - 1))
            self.sweeps = int(self.encoder.pop("sweeps"))
            links = tuple(self.encoder.pop("links"))
            # Rates are of counts.
            self.links = links if config.get("scale") else ("linear",)
            low, high = map(float, masking["hidden"])
            self.masking = Masking(hidden=(low, high), whole=float(masking["whole"]))
            self.validation_share = float(masking["validation"])
            self.updates = int(training.pop("updates"))
            training.pop("spots", None)  # chosen before there is a model
            self.training = Training(**{"epochs": 0, **training})
            self._build(seed=0)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"the configuration does not fit the variant 'latent': {error}") from error
        self.weights = torch.full((len(self.links),), 1 / len(self.links))
        self.dispersion = torch.zeros(len(genes), dtype=torch.int64)
        self.tail = torch.tensor(0.05)

    def _build(self, seed: int) -> None:
        with torch.random.fork_rng(devices=[]):  # initial weights come from the global generator: lend it one
            torch.manual_seed(seed)
            self.members = [
                ScoreDiffusion(FactorGraph(**self.encoder, link=link), self.schedule, self.config["network"])
                for link in self.links
            ]

    # Training

    def fit(
        self, tissue: Tissue, *, seed: int, device: torch.device, report: Reporter, checkpoint: Checkpoint | None = None
    ) -> None:
        """Fit the encoders, train their denoisers on entries hidden from them, then give the encoders every entry."""
        checkpoint = checkpoint or Checkpoint()
        self._build(seed)
        chosen = validation_entries(tissue, self.validation_share, seed)
        partial = tissue.without(chosen)
        first = None
        for link, member in zip(self.links, self.members, strict=True):
            stage = checkpoint.stage(f"{link} encoder")
            member.graph.fit(partial, sweeps=self.sweeps, seed=seed, start=first, stage=stage)
            first = first or member.graph
        learnt = checkpoint.stage("learnt")
        if learnt.state is None:
            scores = [member.encode(partial) for member in self.members]
            self._train(
                tissue, partial, chosen, seed=seed, device=device, report=report, stage=checkpoint.stage("training")
            )
            self._weigh(tissue, chosen, scores)
            if tissue.scale is not None:
                self._fit_dispersion(tissue, partial, scores)
            self._calibrate(tissue, partial, chosen, seed=seed, device=device)
            learnt.save(self.state())
        else:
            self.load_state(learnt.state)
        for link, member in zip(self.links, self.members, strict=True):
            stage = checkpoint.stage(f"{link} encoder, with every entry")
            sweeps = max(5, self.sweeps // 3)
            member.graph.fit(tissue, sweeps=sweeps, seed=seed, start=member.graph, stage=stage)

    def _train(
        self,
        tissue: Tissue,
        partial: Tissue,
        chosen: sp.csr_matrix,
        *,
        seed: int,
        device: torch.device,
        report: Reporter,
        stage: Stage,
    ) -> None:
        """Train all denoisers together, on most spots; the others tell when to stop.

        What a network would remember of a spot is of no use for another: only what holds for spots in general lasts.
        """
        told = np.diff(partial.missing.indptr) < tissue.n_genes  # spots with nothing visible have nothing to teach
        order = np.random.default_rng(seed).permutation(np.flatnonzero(told))[:_TRAINING_SPOTS]
        if not len(order):
            return
        kept = np.zeros(tissue.n_spots, dtype=bool)
        kept[order[: len(order) // _VALIDATION_PART]] = True
        # A kept spot's scores are drawn from inner validation entries as well.
        sources = tissue.without(sp.csr_matrix(chosen.multiply(~kept[:, None])))
        pairs, kept_pairs = [], []
        for member in self.members:
            generator = torch.Generator().manual_seed(seed + 1)
            of_all, spots = member.pairs(sources, partial, np.sort(order), self.masking, generator)
            judge = torch.from_numpy(kept[spots])
            pairs.append(of_all.of(~judge).to(device))
            kept_pairs.append(of_all.of(judge if judge.any() else ~judge).to(device))
        n_learnt, n_kept = len(pairs[0].offset), len(kept_pairs[0].offset)

        def losses(networks: nn.Module, pairs: list[Pairs], items: Tensor, generator: torch.Generator) -> Tensor:
            """Loss of each member on some pairs."""
            t = torch.randint(1, self.schedule.T + 1, (len(items),), generator=generator)
            out = []
            for member, network, of in zip(self.members, networks.children(), pairs, strict=True):
                noise, eps = torch.randn(2, len(items), member.graph.rank, generator=generator).to(device)
                u, condition = of.draw(items, noise)
                out.append(member.loss(network, u, condition, t.to(device), eps))
            return torch.stack(out)

        def training_loss(networks: nn.Module, items: Tensor, generator: torch.Generator) -> Tensor:
            return losses(networks, pairs, items, generator).mean()

        @torch.no_grad()
        def validation_losses(networks: nn.Module) -> Tensor:
            generator = torch.Generator().manual_seed(seed + 2)  # the same masks, steps and noise every time
            items = torch.arange(n_kept)
            return torch.stack([losses(networks, kept_pairs, items, generator) for _ in range(_ROUNDS)]).mean(0)

        networks = nn.ModuleList(member.network for member in self.members).to(device)
        untrained = validation_losses(networks.eval())
        per_epoch = -(-n_learnt // self.training.batch_size)
        settings = replace(self.training, epochs=self.training.epochs or -(-self.updates // per_epoch))
        report(Row(settings.epochs, epoch=0, validation_loss=untrained.mean().item()))
        trainer = Trainer(
            networks,
            training_loss,
            lambda networks: validation_losses(networks).mean().item(),
            n_learnt,
            settings,
            seed=seed,
        )
        trainer.run(report, stage)
        trained = validation_losses(networks.eval())
        for member, before, after in zip(self.members, untrained, trained, strict=True):
            if after >= before:  # the closed form could not be improved on: stay with it
                member.silence()
        networks.to("cpu").eval()

    def _expected(self, spots: np.ndarray, scores: Sequence[Scores], tissue: Tissue) -> list[np.ndarray]:
        """Each link's expected expression of some spots at the encoder's scores [B, G]."""
        depth = tissue.depth[spots]
        return [
            member.graph.decoder(depth)(known.mean[spots]).numpy()
            for member, known in zip(self.members, scores, strict=True)
        ]

    def _weigh(self, tissue: Tissue, chosen: sp.csr_matrix, scores: Sequence[Scores]) -> None:
        """Share out the draws between the links as predicts the entries kept from learning best."""
        if len(self.members) == 1:
            return
        error = np.zeros(len(_SHARES))
        for i in range(0, tissue.n_spots, BLOCK):
            spots = np.arange(i, min(i + BLOCK, tissue.n_spots))
            kept = chosen[spots].toarray()
            true = tissue.x[spots].toarray()[kept]
            one, other = (expected[kept] for expected in self._expected(spots, scores, tissue))
            error += [np.square((1 - share) * one + share * other - true).sum(dtype=np.float64) for share in _SHARES]
        share = _SHARES[int(error.argmin())]
        self.weights = torch.tensor([1 - share, share])

    def _fit_dispersion(self, tissue: Tissue, partial: Tissue, scores: Sequence[Scores]) -> None:
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
                expected = np.average(self._expected(spots, scores, tissue), axis=0, weights=self.weights.numpy())
                yield depth, expected, counts[spots].toarray(), use

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
        self._draw_from(partial, device)
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
        largest = HEADROOM * tissue.depth.max() * float(self.members[0].graph.rate.max())
        return Observation(tissue.scale, tissue.depth, largest)

    # Imputation

    def prepare(self, tissue: Tissue, *, device: torch.device, encoded: Mapping[str, Tensor] | None = None) -> None:
        """Encode every spot of a tissue once, for each link that has a share of the draws."""
        for link, member in self._drawing():
            known = None if encoded is None else Scores(encoded[f"{link}.mean"], encoded[f"{link}.packed"])
            member.encode(tissue, known)
        self._draw_from(tissue, device)

    def encoded(self) -> dict[str, Tensor]:
        """What `prepare` has worked out, by name."""
        scores = {link: member.encoded() for link, member in self._drawing()}
        return {f"{link}.{name}": part for link, known in scores.items() for name, part in known._asdict().items()}

    def _drawing(self) -> list[tuple[str, ScoreDiffusion]]:
        """Links that have a share of the draws."""
        shares = self.weights.tolist()
        return [
            (link, member) for link, member, share in zip(self.links, self.members, shares, strict=True) if share > 0
        ]

    def _draw_from(self, tissue: Tissue, device: torch.device) -> None:
        """Have draws be of a tissue that is encoded."""
        self._tissue = tissue
        for member in self.members:
            member.to(device)
        self._observe = self._observation(tissue) if tissue.scale is not None else None

    @torch.no_grad()
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
        """Draw every gene of some spots; the point value is the mean of the expected expression over the samples.

        With `denoise` visible entries are drawn as well, around what the encoder makes of them and all others.
        """
        shares, per_draw = self._shares(n_samples)
        mean = np.empty((len(spots), len(self.genes)), dtype=np.float32)
        for i in range(0, len(spots), BLOCK):
            some = spots[i : i + BLOCK]
            rows = slice(i, i + len(some))
            padded = np.concatenate([some, np.full(BLOCK - len(some), some[-1])])  # one shape, one rounding
            wanted = np.zeros((BLOCK, len(self.genes)), dtype=bool)
            wanted[: len(some)] = True if denoise else self._tissue.missing[some].toarray()
            observe = self._observer(self._tissue.depth[padded], wanted) if keep else None
            total = np.zeros((len(self.members), len(some), len(self.genes)), dtype=np.float64)
            for m, (member, pairs) in enumerate(zip(self.members, shares, strict=True)):
                if not pairs:
                    continue
                for pair, *both in member.expect(padded, pairs, seed=seed, sampler=sampler, n_steps=n_steps):
                    for k, expected in zip((2 * pair, 2 * pair + 1), both, strict=True):
                        if k < n_samples:
                            total[m] += expected.numpy()[: len(some)]
                    if not keep or not observe:
                        continue
                    uniform = keyed.uniform(seed, padded, np.array([pair]), _OBSERVATION_STREAM, len(self.genes))[0]
                    chances = uniform, keyed.mirrored(uniform)
                    for k, expected, chance in zip((2 * pair, 2 * pair + 1), both, chances, strict=True):
                        if k < n_samples:
                            keep(k, rows, observe(expected.numpy(), chance)[: len(some)])
            mean[rows] = np.tensordot(per_draw, total, axes=1)
        return mean

    @property
    def interval_tail(self) -> float:
        """Share of the draws that the 90 % interval leaves out on either side, as calibrated."""
        return float(self.tail)

    def _shares(self, n_samples: int) -> tuple[list[list[int]], np.ndarray]:
        """Share pairs of draws out between the links, evenly along the way; and the weight of each link's draw."""
        share, n_pairs = float(self.weights[-1]), -(-n_samples // 2)
        last = [pair for pair in range(n_pairs) if int((pair + 1) * share) > int(pair * share)]
        pairs = [[pair for pair in range(n_pairs) if pair not in last], last][-len(self.members) :]
        n_draws = np.array([sum(min(2, n_samples - 2 * pair) for pair in of) for of in pairs])
        weights = np.where(n_draws > 0, self.weights.numpy().astype(np.float64), 0)
        return pairs, np.where(n_draws > 0, weights / np.maximum(n_draws, 1), 0) / weights.sum()

    def _observer(self, depth: np.ndarray, wanted: np.ndarray) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
        """Give the map from expected expression and uniform numbers to observations, all [B, G]."""
        if self._observe is not None:
            return Observer(self._observe, depth, self.dispersion.numpy(), wanted).draw
        # Counts are not modelled: each gene's noise is Gaussian.
        graph = self.members[0].graph
        spread = graph.psi.sqrt().numpy() * graph.scale.numpy()
        return lambda expected, u: np.maximum(expected + spread * ndtri(np.maximum(u, 2**-25)), 0)

    # The model folder

    def state(self) -> dict[str, Tensor]:
        """Everything learnt, by name."""
        state = {"weights": self.weights, "dispersion": self.dispersion, "tail": self.tail}
        for link, member in zip(self.links, self.members, strict=True):
            state |= {f"{link}.encoder.{name}": value for name, value in member.graph.state().items()}
            state |= {f"{link}.network.{name}": value for name, value in member.network.state_dict().items()}
        return state

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state` gave."""
        for name in ("weights", "dispersion", "tail"):
            given, usual = state[name], getattr(self, name)
            if given.shape != usual.shape or given.dtype != usual.dtype:
                raise ValueError(f"{name} are not {usual.dtype} of shape {tuple(usual.shape)}")
            setattr(self, name, given)
        if not 0 <= self.dispersion.min() <= self.dispersion.max() < len(DISPERSIONS):
            raise ValueError(f"dispersion is not among 0 to {len(DISPERSIONS) - 1}")
        for link, member in zip(self.links, self.members, strict=True):
            member.graph.load_state(_part(state, f"{link}.encoder."))
            if len(member.graph.rate) != len(self.genes):
                raise ValueError(f"it knows {len(member.graph.rate)} genes, and {len(self.genes)} are named")
            member.network.load_state_dict(_part(state, f"{link}.network."))


def _part(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Entries of a state under a prefix, without it."""
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def _some_spots(tissue: Tissue, most: int) -> np.ndarray:
    """Spots to measure something on: all, or `most` of them at random."""
    return np.sort(np.random.default_rng(0).permutation(tissue.n_spots)[:most])
