"""The default variant: diffusion in the latents of a factor model over the spatial graph.

The model has a branch for each link of the factor model (`factor_model`): expression linear in the latents, and rates
exponential in them. Neither link is exact and their errors differ. Therefore each branch gives a share of the draws,
and the point value is the weighted mean of both; the weights are those with the smallest error on the inner validation
entries. A draw takes the latents from the diffusion of its branch (`latent.diffusion`), decodes the expected expression
from them, and draws an observation around it with the counting noise of its gene and depth.

With a reference (`steps.add_reference`) the loadings come from its cells (`target_model`), a third branch has the
gaussian link, parts of what is expected of a gene that was not measured come from the nearest cells (`nearest_cells`)
and a regression (`gene_regression`), and weights and intervals are chosen on genes left out whole (`validation_cases`).
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stmcdi_cli import anndata_keys as keys
from stmcdi_cli.errors import InputError
from stmcdi_cli.model.base import DrawCallback, DrawOptions, ImputationModel
from stmcdi_cli.model.diffusion import keyed_noise as keyed
from stmcdi_cli.model.diffusion.schedule import Schedule
from stmcdi_cli.model.latent.blocks import BLOCK
from stmcdi_cli.model.latent.count_moments import DISPERSIONS
from stmcdi_cli.model.latent.diffusion import LatentDiffusion
from stmcdi_cli.model.latent.embedding import principal_coordinates, standardised_loadings
from stmcdi_cli.model.latent.factor_model import SpatialFactorModel
from stmcdi_cli.model.latent.gaussian import LatentPosterior
from stmcdi_cli.model.latent.left_out import LeftOut, expected_correlation
from stmcdi_cli.model.latent.masking import Masking
from stmcdi_cli.model.latent.mixture import share_draws
from stmcdi_cli.model.latent.observation import GaussianObserver, Observer, observation_of
from stmcdi_cli.model.latent.own_count import choose_part
from stmcdi_cli.model.latent.reference_predictions import PREDICTORS, ReferencePredictions
from stmcdi_cli.model.latent.target_model import TargetFactorModel
from stmcdi_cli.model.latent.training import train_denoisers
from stmcdi_cli.model.latent.validation_cases import Case, best_shares, interval_tail, left_out_genes, some_spots
from stmcdi_cli.model.tissue import VALIDATION_STREAM, Tissue, validation_entries
from stmcdi_cli.model.training.checkpoint import Checkpoint
from stmcdi_cli.model.training.trainer import Reporter, Training

_OBSERVATION_STREAM = VALIDATION_STREAM + 1
_CALIBRATION_ENTRIES, _CALIBRATION_SPOTS = 20_000, (512, 1024)
"""Entries by which the interval is calibrated; and the fewest and most spots to draw for them."""
_DISPERSION_SPOTS, _DISPERSION_VALUES = 2048, 2**23  # the dispersions are chosen from about as many, at most
_CALIBRATED = ("weights", "dispersion", "tail", "own_part", *PREDICTORS)
_LATER = ("own_part", *PREDICTORS)  # 0 in models of earlier versions


class LatentModel(ImputationModel):
    """Diffusion in the latents of the graph encoder; see `base.ImputationModel`."""

    variant = "latent"
    from_disk = True

    def __init__(self, config: Mapping[str, Any], genes: tuple[str, ...]) -> None:
        super().__init__(config, genes)
        if "smoothing" in config.get("encoder", {}):
            raise InputError("the model was trained by an earlier version, with another spatial prior; train it again")
        try:
            self.schedule = Schedule(**config["diffusion"])
            encoder, masking, training = dict(config["encoder"]), config["masking"], dict(config["training"])
            encoder["rank"] = min(encoder["rank"], max(1, len(genes) - 1))
            self.sweeps = int(encoder.pop("sweeps"))
            links = tuple(encoder.pop("links"))
            # The log link describes rates of counts.
            self.links = links if config.get("scale") else ("linear",)
            if config.get("scale") and config.get("reference"):
                self.links = (*links, "gaussian")
            self.encoder_options = encoder
            low, high = map(float, masking["hidden"])
            self.masking = Masking(hidden=(low, high), whole=float(masking["whole"]))
            self.validation_share = float(masking["validation"])
            training.pop("spots", None)  # they are chosen before the model is built
            self.training, self.updates = Training.read(training)
            self._build(seed=0)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"the configuration does not fit the variant 'latent': {error}") from error
        self.weights = torch.full((len(self.links),), 1 / len(self.links))
        self.dispersion = torch.zeros(len(genes), dtype=torch.int64)
        self.tail = torch.tensor(0.05)
        self.own_part = torch.tensor(0.0)
        self.nearest_part = self.regression_part = torch.tensor(0.0)
        self._predictions: ReferencePredictions | None = None
        self._left_out_dispersion = 0
        self.left_out = LeftOut.none()

    def _build(self, seed: int) -> None:
        with torch.random.fork_rng(devices=[]):  # initial weights use the global generator: restore it afterwards
            torch.manual_seed(seed)
            encoders = [SpatialFactorModel(**self.encoder_options, link=link) for link in self.links]
            self.branches = [LatentDiffusion(each, self.schedule, self.config["network"]) for each in encoders]

    # Training

    def fit(
        self, tissue: Tissue, *, seed: int, device: torch.device, report: Reporter, checkpoint: Checkpoint | None = None
    ) -> None:
        """Fit the encoders, train their denoisers on masked entries, then fit the encoders to all visible entries."""
        checkpoint = checkpoint or Checkpoint()
        self._build(seed)
        reference, tissue = tissue.reference, tissue.target
        validation_mask = validation_entries(tissue, self.validation_share, seed)
        partial = tissue.without(validation_mask)
        sweeps = self.sweeps
        if reference is not None:
            self._learn_loadings(reference, partial, seed, checkpoint)
            sweeps = max(5, sweeps // 2)  # there is less left to fit
        first = None
        for link, branch in zip(self.links, self.branches, strict=True):
            stage = checkpoint.stage(f"{link} encoder")
            branch.encoder.fit(partial, sweeps=sweeps, seed=seed, start=first, stage=stage)
            first = first or branch.encoder
        trained = checkpoint.stage("trained and calibrated")
        if trained.state is None:
            for branch in self.branches:
                branch.encode(partial)
            train_denoisers(
                self.branches,
                partial,
                masking=self.masking,
                training=self.training,
                updates=self.updates,
                seed=seed,
                device=device,
                report=report,
                checkpoint=checkpoint,
            )
            chosen = Case(self.branches, partial, validation_mask, np.arange(tissue.n_spots))
            cases = [chosen]
            if reference is not None:
                cases = list(left_out_genes(self.branches, partial, reference, seed))
            moments = [case.moments(tissue) for case in cases]
            weights, parts = best_shares(cases, moments)
            self.weights = torch.tensor(weights)
            self.nearest_part, self.regression_part = map(torch.tensor, parts or (0.0, 0.0))
            if tissue.count_scale is not None:
                self._fit_dispersion(tissue, chosen, cases, seed)
            expected = self._calibrate(tissue, cases, seed=seed, device=device)
            self.left_out = LeftOut.of(cases, moments, self._shares(cases[0]), expected)
            trained.save(self.state())
        else:
            self.load_state(trained.state)
        for link, branch in zip(self.links, self.branches, strict=True):
            stage = checkpoint.stage(f"{link} encoder, with every entry")
            branch.encoder.fit(tissue, sweeps=max(5, self.sweeps // 3), seed=seed, start=branch.encoder, stage=stage)

    def _learn_loadings(self, reference: Tissue, target: Tissue, seed: int, checkpoint: Checkpoint) -> None:
        """Fit the factor models to a reference, and start those of the target from them."""
        first = None
        for link, branch in zip(self.links, self.branches, strict=True):
            stage = checkpoint.stage(f"{link} encoder of the reference")
            start = None if link == "gaussian" else first
            branch.encoder.fit(reference, sweeps=self.sweeps, seed=seed, start=start, stage=stage)
            first = first or branch.encoder
        for branch in self.branches:
            branch.encoder = TargetFactorModel(branch.encoder, target, reference.n_visible > 0)

    @property
    def parts(self) -> list[float]:
        """Parts of what is expected of genes not measured that come from the `PREDICTORS`."""
        return [float(getattr(self, name)) for name in PREDICTORS]

    def _shares(self, case: Case) -> list[float]:
        return case.shares(self.weights.tolist(), self.parts)

    def _fit_dispersion(self, tissue: Tissue, chosen: Case, cases: Sequence[Case], seed: int) -> None:
        """Choose the dispersion of each gene on the training entries, then shift all on the validation entries.

        The fit is closer to training entries than to others, so their noise looks too small; the shift, common to all
        genes, corrects that. Genes that were not measured have one dispersion, the best for genes that were left out.
        """
        observation = observation_of(tissue, self.branches[0].encoder.rate)
        counts = tissue.counts()

        def likelihood(case: Case, training: bool = False) -> np.ndarray:
            def parts() -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
                for some, means, entries, _ in case.expected(tissue):
                    use = ~case.visible.missing[some].toarray() if training else entries
                    mean = np.average(means, axis=0, weights=self._shares(case))
                    yield tissue.depth[some], mean, counts[some].toarray(), use

            return observation.fit(parts(), tissue.n_genes)

        chosen = chosen._replace(spots=some_spots(tissue, min(_DISPERSION_SPOTS, _DISPERSION_VALUES // tissue.n_genes)))
        n, genes = len(DISPERSIONS), np.arange(tissue.n_genes)
        best = likelihood(chosen, training=True).argmax(0)
        validation = likelihood(chosen)
        shifts = [validation[np.clip(best + shift, 0, n - 1), genes].sum() for shift in range(-2, 3)]
        dispersion = np.clip(best + int(np.argmax(shifts)) - 2, 0, n - 1)
        if cases[0].genes is not None:
            self._left_out_dispersion = int(sum(likelihood(case)[:, case.genes].sum(1) for case in cases).argmax())
            dispersion[tissue.n_visible == 0] = self._left_out_dispersion
        self.dispersion = torch.from_numpy(dispersion)

        def unseen() -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
            for some, means, entries, _ in chosen.expected(tissue):
                observer = Observer(observation, tissue.depth[some], dispersion, entries)
                mean = observer.mean_counts(np.average(means, axis=0, weights=self._shares(chosen)))
                yield mean, observer.dispersion, counts[some].toarray().take(observer.positions)

        self.own_part = torch.tensor(choose_part(unseen(), seed))

    def _calibrate(self, tissue: Tissue, cases: Sequence[Case], *, seed: int, device: torch.device) -> list[np.ndarray]:
        """Choose the largest tail with which the interval still covers 90 % of the entries.

        Counts are discrete: the interval between the 5 % and 95 % quantiles often contains far more than 90 %.

        Returns
        -------
        Of each case of genes that were left out, the correlation that the draws let expect of each [genes].
        """
        drawn, true, of, expected = [], [], [], []
        for case in cases:
            genes, values, samples, means = self._draw_entries(case, tissue, len(cases), seed=seed, device=device)
            drawn.append(samples)
            true.append(values)
            of.append(genes)
            if case.genes is not None:
                expected.append(expected_correlation(genes, means, samples.var(0), tissue.n_genes)[case.genes])
        every = np.concatenate(drawn, axis=1), np.concatenate(true), np.concatenate(of)
        self.tail = torch.tensor(interval_tail(*every, left_out=cases[0].genes is not None))
        return expected

    def _draw_entries(
        self, case: Case, tissue: Tissue, n_cases: int, *, seed: int, device: torch.device
    ) -> tuple[np.ndarray, ...]:
        """Draw a case's entries of some spots: their genes, true values [n], draws [50, n] and expected values [n]."""
        other = self
        if case.genes is not None:
            other = copy.copy(self)
            other.branches, other.dispersion = list(case.branches), self.dispersion.clone()
            other.dispersion[torch.from_numpy(case.genes)] = self._left_out_dispersion
        other._draw_from(case.visible, case.predictions, device)
        per_spot = case.entries.nnz / tissue.n_spots
        enough = int(np.clip(_CALIBRATION_ENTRIES / max(per_spot, 1), *_CALIBRATION_SPOTS))
        spots, parts = some_spots(tissue, enough // n_cases), []
        for i in range(0, len(spots), BLOCK):
            block = spots[i : i + BLOCK]
            entries = case.entries[block].toarray()
            samples = np.empty((50, entries.sum()), dtype=np.float32)

            def keep(
                number: int, rows: slice, values: np.ndarray, out: np.ndarray = samples, of: np.ndarray = entries
            ) -> None:
                out[number] = values[of]

            mean = other.draw_each(block, DrawOptions(n_samples=50, seed=seed, sampler="dpm"), keep)
            parts.append((np.nonzero(entries)[1], tissue.x[block].toarray()[entries], samples, mean[entries]))
        return tuple(np.concatenate(part, axis=-1) for part in zip(*parts, strict=True))

    # Imputation

    def prepare(self, tissue: Tissue, *, device: torch.device, encoded: Mapping[str, Tensor] | None = None) -> None:
        """Encode every spot of a tissue once, in each branch that gives a share of the draws."""
        reference, tissue = tissue.reference, tissue.target
        for link, branch in self._drawing():
            known = None if encoded is None else LatentPosterior(**_part(encoded, f"{link}."))
            branch.encode(tissue, known)
        predictions = None
        if any(self.parts):
            if reference is None:
                raise InputError("the model needs the cells of its reference; add them (add-reference --genes MODEL)")
            predictions = ReferencePredictions(self.branches[-1].encoder, reference, tissue, parts=self.parts)
        self._draw_from(tissue, predictions, device)

    def encoded(self) -> dict[str, Tensor]:
        """Posteriors that `prepare` has computed, by name."""
        latents = {link: branch.encoded() for link, branch in self._drawing()}
        return {f"{link}.{name}": part for link, own in latents.items() for name, part in own._asdict().items()}

    def embedding(self) -> dict[str, np.ndarray]:
        """Latents of the first branch that gives a share of the draws, and their smooth parts."""
        _, branch = self._drawing()[0]
        latents, loadings = branch.encoded(), standardised_loadings(branch.encoder)
        return {
            keys.LATENTS: principal_coordinates(latents.mean, loadings),
            keys.SMOOTH_LATENTS: principal_coordinates(latents.field, loadings),
        }

    def columns(self) -> dict[str, np.ndarray]:
        """What genes achieved that were left out whole; see `LeftOut`."""
        return self.left_out.columns(len(self.genes))

    def _drawing(self) -> list[tuple[str, LatentDiffusion]]:
        """Branches that give a share of the draws, with their links."""
        shares = self.weights.tolist()
        return [
            (link, branch) for link, branch, share in zip(self.links, self.branches, shares, strict=True) if share > 0
        ]

    def _draw_from(self, tissue: Tissue, predictions: ReferencePredictions | None, device: torch.device) -> None:
        """Make the next draws from a tissue that is encoded."""
        self._tissue, self._predictions = tissue, predictions
        for branch in self.branches:
            branch.to(device)
        self._observe = None
        if tissue.count_scale is not None:
            self._observe = observation_of(tissue, self.branches[0].encoder.rate)

    @torch.no_grad()
    def draw_each(self, spots: np.ndarray, options: DrawOptions, on_draw: DrawCallback | None = None) -> np.ndarray:
        """Draw every gene of some spots; the point value is the mean of the expected expression over the samples.

        With `options.denoise`, visible entries are drawn as well; their expected expression depends on all entries,
        and on their own count (`own_count`).
        """
        shares, weight_per_draw = share_draws(self.weights.tolist(), options.n_samples)
        mean = np.empty((len(spots), len(self.genes)), dtype=np.float32)
        for i in range(0, len(spots), BLOCK):
            block = spots[i : i + BLOCK]
            rows = slice(i, i + len(block))
            # Blocks always have the same shape, so that they are always rounded in the same way.
            padded = np.concatenate([block, np.full(BLOCK - len(block), block[-1])])
            wanted = np.zeros((BLOCK, len(self.genes)), dtype=bool)
            wanted[: len(block)] = True if options.denoise else self._tissue.missing[block].toarray()
            observer = self._observer(padded, wanted, options) if on_draw or options.denoise else None
            total = np.zeros((len(self.branches), BLOCK, len(self.genes)), dtype=np.float64)
            predicted = self._predictions.weighted(padded, self.parts) if self._predictions else None
            for m, (branch, pairs) in enumerate(zip(self.branches, shares, strict=True)):
                for pair, *both in branch.draw_expected(padded, pairs, options) if pairs else ():
                    numbers = range(2 * pair, min(2 * pair + 2, options.n_samples))
                    means = [self._with_predictions(expected.numpy(), predicted) for expected in both]
                    for _, expected in zip(numbers, means, strict=False):
                        total[m] += expected
                    if not on_draw or not observer:
                        continue
                    for number, expected, u in zip(numbers, means, self._uniform(padded, pair, options), strict=False):
                        on_draw(number, rows, observer.draw(expected, u)[: len(block)])
            point = np.tensordot(weight_per_draw, total, axes=1)
            mean[rows] = (observer.revise(point) if observer else point)[: len(block)]
        return mean

    def _with_predictions(self, expected: np.ndarray, predicted: np.ndarray | None) -> np.ndarray:
        if self._predictions is None or predicted is None:
            return expected
        return self._predictions.mix(expected, predicted, self.parts)

    def _uniform(self, spots: np.ndarray, pair: int, options: DrawOptions) -> tuple[np.ndarray, np.ndarray]:
        """Keyed uniform numbers [B, G] for the observations of the two draws of a pair, mirror images of each other."""
        u = keyed.uniform(options.seed, spots, np.array([pair]), _OBSERVATION_STREAM, len(self.genes))[0]
        return u, keyed.mirrored(u)

    @property
    def interval_tail(self) -> float:
        """Share of the draws that the 90 % interval excludes at each end, as calibrated."""
        return float(self.tail)

    def _observer(self, spots: np.ndarray, wanted: np.ndarray, options: DrawOptions) -> Observer | GaussianObserver:
        """Make what turns the expected expression of some spots into observations of wanted entries, all [B, G]."""
        tissue, seen = self._tissue, None
        if self._observe is None:
            encoder = self.branches[0].encoder
            return GaussianObserver(encoder.psi.sqrt().numpy() * encoder.scale.numpy())
        depth = tissue.depth[spots]
        if options.denoise:
            seen = np.round(self._observe.count(tissue.x[spots].toarray().astype(np.float64), depth[:, None]))
            seen[tissue.missing[spots].toarray()] = np.nan
        return Observer(self._observe, depth, self.dispersion.numpy(), wanted, seen, float(self.own_part))

    # The model folder

    def state(self) -> dict[str, Tensor]:
        """Everything fitted or trained, by name."""
        state = {name: getattr(self, name) for name in _CALIBRATED}
        for link, branch in zip(self.links, self.branches, strict=True):
            state |= {f"{link}.encoder.{name}": value for name, value in branch.encoder.state().items()}
            state |= {f"{link}.network.{name}": value for name, value in branch.network.state().items()}
        return state | self.left_out.state()

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Load what `state` gave."""
        for name in _CALIBRATED:
            default = getattr(self, name)
            given = state.get(name, default) if name in _LATER else state[name]
            if given.shape != default.shape or given.dtype != default.dtype:
                raise ValueError(f"{name} are not {default.dtype} of shape {tuple(default.shape)}")
            setattr(self, name, given)
        if not 0 <= self.dispersion.min() <= self.dispersion.max() < len(DISPERSIONS):
            raise ValueError(f"dispersion is not among 0 to {len(DISPERSIONS) - 1}")
        for name in _LATER:
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is not from 0 to 1")
        self.left_out = LeftOut.from_state(state, len(self.genes))
        for link, branch in zip(self.links, self.branches, strict=True):
            branch.encoder.load_state(_part(state, f"{link}.encoder."))
            if len(branch.encoder.rate) != len(self.genes):
                raise ValueError(f"the weights are for {len(branch.encoder.rate)} genes, not {len(self.genes)}")
            branch.network.load_state(_part(state, f"{link}.network."))


def _part(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Entries of a state whose names start with a prefix, without that prefix."""
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
