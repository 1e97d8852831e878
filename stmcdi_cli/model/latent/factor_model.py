"""The graph encoder of the default variant: a factor model over the spatial graph, with its posterior in closed form.

The expression of every gene at a spot depends on a few latents z_i, which are similar at neighbouring spots. With
eta_ij = w_j . z_i + c_j::

    x_ij = a_ij + b_ij eta_ij + e_ij       (linear link)      e_ij ~ N(0, psi_j v_ij)
    x_ij = a(log mu_ij + eta_ij) + e_ij    (log link)
    x_ij = m_j + sd_j (eta_ij + e_ij)      (gaussian link)    e_ij ~ N(0, psi_j)
    z_ik = s_ik + N(0, nugget_k)           s_k ~ Matern field over the graph      w_j ~ N(0, diag 1 / alpha)

a, b and v are the mean, slope and variance of a Poisson count of gene j at the depth of spot i (see `count_moments`):
a zero is weak evidence in a shallow spot and strong evidence in a deep one. The model is fitted by variational Bayes on
visible entries only. Every update below is the exact posterior of one block of unknowns given the others: the loadings
with their posterior covariance (Bishop 1999, variational PCA), and the latents of all spots together under their
spatial prior (`spatial_field`), whose parameters are fitted to each factor (`field_fit`). The linear link takes a, b
and v at the mean rate of each gene; the log link takes them again, every few sweeps, at the rate that the current
latents give (Gauss-Newton, as for a generalised linear model). The gaussian link knows nothing of counts: it is for
values that vary far more than counts do, such as reads of single cells.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor, nn

from stmcdi_cli.model.latent.blocks import parts_in_cache
from stmcdi_cli.model.latent.counting_noise import CountingNoise, gene_rates
from stmcdi_cli.model.latent.field_fit import FieldFit
from stmcdi_cli.model.latent.gaussian import (
    LatentPosterior,
    inverse,
    pack,
    pad_to_cache_lines,
    products,
    unpack,
    variance_along,
    with_constant,
)
from stmcdi_cli.model.latent.responses import Responses
from stmcdi_cli.model.latent.singular_vectors import singular_vectors, smoothest_first
from stmcdi_cli.model.latent.spatial_field import FieldParameters, SpatialField
from stmcdi_cli.model.latent.spatial_graph import SpatialGraph
from stmcdi_cli.model.tissue import Tissue
from stmcdi_cli.model.training.checkpoint import NO_CHECKPOINT, Stage

LINKS = ("linear", "log", "gaussian")

_MAX_LINEARISED_ETA = 1.5
"""Largest |eta| at which the log link is linearised: beyond it, single counts have too much weight."""
_ETA_RANGE = (-8.0, 4.0)
"""Range of eta that the log link can predict."""
_ALPHAS = (1.0, 1e6)
"""Range of the precision of the loadings: 2 and more even for the largest of whole tissues; that of 0 is infinite."""
_SWEEPS_PER_LINEARISATION = 5
LINEARISATIONS = 3
"""Times that a log link is linearised when a tissue is encoded."""


class SpatialFactorModel:
    """Fit the factor model to a tissue and encode its spots.

    Parameters
    ----------
    rank
        Number of latents per spot.
    full_depth
        Size factor from which on the entries of a spot have full weight. Below, the weight falls in proportion to the
        depth: one count where 0.01 was expected is ten standard deviations under a Gaussian, but not rare under a
        Poisson distribution.
    link
        How expected expression depends on eta, a name in `LINKS`; ``log`` is for counts only. Where there are no
        counts, ``linear`` is ``gaussian``.

    Attributes
    ----------
    rate
        Mean count of each gene at depth 1 (its mean, where counts are not modelled) [G].
    scale
        Standard deviation of each gene, used where counts are not modelled [G].
    loadings, loadings_cov
        Posterior mean and covariance of (w_j, c_j) [G, rank + 1] and [G, rank + 1, rank + 1].
    psi
        Noise variance relative to counting noise, per gene [G].
    field
        Parameters of the spatial prior of each factor.
    """

    STATE = ("rate", "scale", "loadings", "loadings_cov", "psi")

    rate: Tensor
    scale: Tensor
    loadings: Tensor
    loadings_cov: Tensor
    psi: Tensor
    field: FieldParameters

    def __init__(self, *, rank: int, full_depth: float, link: str = "linear") -> None:
        if link not in LINKS:
            raise ValueError(f"no link '{link}'; there are {', '.join(LINKS)}")
        self.rank, self.link, self.full_depth = rank, link, full_depth
        self._alpha = torch.ones(rank + 1)
        self._adjacency: sp.csr_matrix | None = None
        self._known_moments: tuple[Any, tuple[Tensor, Tensor]] | None = None

    # Data: response and weight of every entry

    def use_tissue(self, tissue: Tissue) -> None:
        """Tabulate the moments for the depths of a tissue, before any of its spots is encoded or decoded."""
        self._noise = CountingNoise(tissue, self.rate, self.scale, counts=self.link != "gaussian")
        self._use_graph(tissue)

    def _rates(self, tissue: Tissue) -> tuple[Tensor, Tensor]:
        """Rate and standard deviation of every gene [G]; shallow spots count less where counts are not modelled."""
        return gene_rates(tissue, self.weight_of_depth(tissue.depth) if self.link == "gaussian" else None)

    def weight_of_depth(self, depth: np.ndarray) -> np.ndarray:
        """Weight of the entries of spots of some depths [B]."""
        return np.minimum(1, depth / self.full_depth)

    def _use_graph(self, tissue: Tissue) -> None:
        if self._adjacency is not tissue.graph:
            self._adjacency, self.graph = tissue.graph, SpatialGraph(tissue.graph, tissue.lengths)

    def evidence(
        self, tissue: Tissue, spots: np.ndarray, at: LatentPosterior | None = None, loadings: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Response times its weight, and the weight b^2 / v, both [B, G] and 0 where nothing is visible.

        The response is the eta at which the expected expression would be x, to first order.

        Parameters
        ----------
        tissue
            The data.
        spots
            Positions of the spots [B].
        at
            Latents of these spots at which a log link is linearised; 0 by default.
        loadings
            Loadings for the linearisation; the current ones by default.
        """
        depth, x = tissue.depth[spots], tissue.x[spots].toarray()
        visible = ~tissue.missing[spots].toarray()
        eta = spread = np.zeros((len(spots), 1), np.float32)
        if at is not None and self.link == "log":
            loadings = self.loadings if loadings is None else loadings
            eta = (with_constant(at.mean) @ loadings.T).clamp_(-_MAX_LINEARISED_ETA, _MAX_LINEARISED_ETA).numpy()
            # E[exp(eta)] = exp(mean + variance / 2): the uncertainty of the latents adds to the expected rate.
            spread = (variance_along(at.packed, loadings[:, :-1]).clamp_(0, 2) / 2).numpy()
        weighted, weight = np.zeros((2, *x.shape), np.float32)
        of_depth = self.weight_of_depth(depth).astype(np.float32)[:, None]
        for some in parts_in_cache(*x.shape):
            a, b, v = self._noise.moments(depth[some], eta[some] + spread[some])
            slope = of_depth[some] * b / v
            np.copyto(weighted[some], slope * (x[some] - a + b * eta[some]), where=visible[some])
            np.copyto(weight[some], slope * b, where=visible[some])
        return torch.from_numpy(weighted), torch.from_numpy(weight)

    def _responses(self, tissue: Tissue, at: LatentPosterior | None = None) -> Responses:
        """Weighted response and weight of every entry, linearised at some latents with the present loadings."""
        loadings = None if at is None else self.loadings

        def evidence(spots: np.ndarray) -> tuple[Tensor, Tensor]:
            return self.evidence(tissue, spots, None if at is None else at.select(spots), loadings)

        return Responses(evidence, tissue.n_spots, tissue.n_genes)

    # Variational Bayes

    def fit(
        self,
        tissue: Tissue,
        *,
        sweeps: int,
        seed: int,
        start: "SpatialFactorModel | None" = None,
        stage: Stage = NO_CHECKPOINT,
    ) -> None:
        """Fit all parameters to the visible entries.

        Parameters
        ----------
        tissue
            The data.
        sweeps
            Passes over all blocks of unknowns.
        seed
            Seed of the random projection that gives the first latents.
        start
            A fitted model to continue from, which may be this one; the latents then keep their meaning.
        stage
            Stage of a training that can be stopped; where it has a state, the fit continues from it.
        """
        latents: LatentPosterior | None
        done, at, responses = 0, None, None
        if stage.state is not None:
            done, latents, at = self._restore(stage.state)
            self.use_tissue(tissue)
        elif start is None:
            self.rate, self.scale = self._rates(tissue)
            self.use_tissue(tissue)
            responses = self._responses(tissue)
            latents = self._first_latents(responses, tissue, seed)
        elif start is self:
            self.use_tissue(tissue)
            at = latents = self.encode(tissue)
        else:
            self.load_state({name: value.clone() for name, value in start.state().items()})
            self._alpha, self._adjacency, self.graph = start._alpha, start._adjacency, start.graph
            self.use_tissue(tissue)
            latents = self._posterior_of_all(self._responses(tissue), tissue.n_spots)
        field_fit = self._field_fit()
        if stage.state is None and start is None:
            self.field = field_fit.first(self.rank)
        for sweep in range(done, sweeps):
            assert latents is not None
            if sweep % _SWEEPS_PER_LINEARISATION == 0:
                stage.save(self._checkpoint(sweep, latents, at))
                if self.link == "log":
                    # Half a step: a full step from a distant point can overshoot.
                    halfway = latents.mean / 2 if at is None else (at.mean + latents.mean) / 2
                    at = latents._replace(mean=halfway)
                    responses = None
            responses = responses or self._responses(tissue, at)
            self._update_loadings(responses, latents)
            latents = self._posterior_of_all(responses, tissue.n_spots, start=latents, iterations=10)
            if sweep % _SWEEPS_PER_LINEARISATION == _SWEEPS_PER_LINEARISATION - 1:
                self.field = field_fit.improve(self.field, latents)
        stage.save(self._checkpoint(sweeps))

    def _checkpoint(
        self, sweep: int, latents: LatentPosterior | None = None, at: LatentPosterior | None = None
    ) -> dict[str, Any]:
        """State of the fit before a sweep; after the last sweep the latents are not needed any more."""
        parameters = {name: getattr(self, name) for name in (*self.STATE, "field", "_alpha")}
        return {"sweep": sweep, "parameters": parameters, "latents": latents, "at": at}

    def _restore(self, state: dict[str, Any]) -> tuple[int, LatentPosterior | None, LatentPosterior | None]:
        """Load what `_checkpoint` gave; return the sweep, the latents, and those of the last linearisation."""
        for name, value in state["parameters"].items():
            setattr(self, name, value)
        self.field = FieldParameters(*self.field)
        latents, at = (None if state[name] is None else LatentPosterior(*state[name]) for name in ("latents", "at"))
        return state["sweep"], latents, at

    def _first_latents(self, responses: Responses, tissue: Tissue, seed: int) -> LatentPosterior:
        """Leading singular vectors of the weighted responses, rotated to smooth ones and others, with unit variance."""
        self.loadings = torch.zeros(tissue.n_genes, self.rank + 1)
        self.loadings_cov = torch.zeros(tissue.n_genes, self.rank + 1, self.rank + 1)
        self.psi = torch.ones(tissue.n_genes)
        self._alpha = torch.ones(self.rank + 1)

        def standard(spots: np.ndarray) -> Tensor:
            weighted, weight = responses(spots)
            size = weight.sqrt()
            return (weighted / torch.where(size > 0, size, 1)).clamp(-6, 6)  # an unusual count must not make a factor

        vectors = singular_vectors(standard, tissue.n_spots, tissue.n_genes, self.rank, seed)
        mean = smoothest_first(vectors, self.graph.weights) * np.sqrt(tissue.n_spots)
        packed = torch.zeros(tissue.n_spots, self.rank * (self.rank + 1) // 2)
        return LatentPosterior(mean, packed, torch.zeros_like(mean), torch.zeros_like(mean))

    def _update_loadings(self, responses: Responses, latents: LatentPosterior) -> None:
        """Posterior of the loadings given the latents; then maximum-likelihood alpha and psi."""
        moments, targets = responses.sums(latents)
        precision = unpack(moments, self.rank + 1)
        self._set_loadings(precision / self.psi[:, None, None], targets / self.psi[:, None])
        second = self.loadings[:, :, None] * self.loadings[:, None, :] + self.loadings_cov
        # Bounded below: otherwise loadings would grow while latents shrink.
        self._alpha = (len(self.psi) / torch.diagonal(second, dim1=1, dim2=2).sum(0)).clamp(*_ALPHAS)
        residual = responses.squares - 2 * (targets * self.loadings).sum(1) + (precision * second).sum((1, 2))
        self.psi = ((residual + 1) / (responses.n_seen + 1)).clamp(min=0.05)

    def _set_loadings(self, precision: Tensor, information: Tensor) -> None:
        """Set the loadings given the data: their precision [G, r+1, r+1] and precision-weighted mean [G, r+1]."""
        self.loadings_cov = inverse(precision + torch.diag(self._alpha))
        self.loadings = torch.einsum("gab,gb->ga", self.loadings_cov, information)

    def _field_fit(self) -> FieldFit:
        return FieldFit(self.graph)

    def information(self, weighted: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Evidence of the spots' own entries on their latents: precision [B, r, r], precision-weighted mean [B, r].

        Parameters
        ----------
        weighted, weight
            What `evidence` gives for the spots [B, G].
        """
        rank = self.rank
        second, first = self._moments_per_noise()
        precision = unpack(weight @ second, rank + 1)
        return precision[:, :rank, :rank], weighted @ first - precision[:, :rank, rank]

    def _moments_per_noise(self) -> tuple[Tensor, Tensor]:
        """E[w w'] / psi of the loadings, packed [G, (r + 1) (r + 2) / 2], and w / psi without the intercept [G, r].

        They are kept for the next block of spots; tensors of parameters are replaced, not changed, after their use.
        """
        parameters = (self.loadings, self.loadings_cov, self.psi)
        known = self._known_moments
        if known is None or any(one is not other for one, other in zip(known[0], parameters, strict=True)):
            noise = self.psi[:, None]
            second = (products(self.loadings) + pack(self.loadings_cov)) / noise
            known = self._known_moments = parameters, (second, (self.loadings / noise)[:, : self.rank].contiguous())
        return known[1]

    def _posterior_of_all(
        self, responses: Responses, n_spots: int, *, start: LatentPosterior | None = None, iterations: int | None = None
    ) -> LatentPosterior:
        """Posterior of the latents of all spots together; see `SpatialField.posterior`."""
        return SpatialField(self.graph, self.field).posterior(
            lambda spots: self.information(*responses(spots)), n_spots, start=start, iterations=iterations
        )

    # Encoding

    def encode(self, tissue: Tissue) -> LatentPosterior:
        """Posterior of all latents given the entries of all spots."""
        self._use_graph(tissue)
        field = SpatialField(self.graph, self.field)
        latents: LatentPosterior | None = None
        rounds = LINEARISATIONS if self.link == "log" else 1
        for is_last in [False] * (rounds - 1) + [True]:

            def evidence(spots: np.ndarray, at: LatentPosterior | None = latents) -> tuple[Tensor, Tensor]:
                return self.information(*self.evidence(tissue, spots, at and at.select(spots)))

            packed = None if latents is None else latents.packed
            latents = field.posterior(evidence, tissue.n_spots, start=latents, own_variance=is_last, packed=packed)
        assert latents is not None
        return latents

    def posterior(
        self, weighted: Tensor, weight: Tensor, prior: Tensor, prior_variance: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Posterior mean [B, r] and Cholesky factor of the precision [B, r, r] of latents, given their prior."""
        precision, information = self.information(weighted, weight)
        factor = torch.linalg.cholesky(pad_to_cache_lines(precision + torch.diag_embed(1 / prior_variance)))
        pull = nn.functional.pad(information + prior / prior_variance, (0, factor.shape[1] - self.rank))
        mean = torch.cholesky_solve(pull[..., None], factor)[:, : self.rank, 0]
        return mean, factor[:, : self.rank, : self.rank]

    def decoder(self, depth: np.ndarray) -> Callable[[Tensor], Tensor]:
        """Give the map from latents [B, r] of spots of depths [B] to expected expression on X's scale, >= 0 [B, G]."""
        if self.link == "log":
            assert self._noise.table is not None
            expected = self._noise.table.expectation(depth)
            log_mean = self._noise.log_mean(depth)

            def decode_rate(latents: Tensor) -> Tensor:
                eta = (with_constant(latents) @ self.loadings.T).clamp_(*_ETA_RANGE).numpy()
                return torch.from_numpy(expected(eta + log_mean))

            return decode_rate
        a, b, _ = self.moments(depth)

        def decode(latents: Tensor) -> Tensor:
            return torch.addcmul(a, b, with_constant(latents) @ self.loadings.T).clamp_(min=0)

        return decode

    def moments(self, depth: np.ndarray) -> tuple[Tensor, ...]:
        """a, b and v of the linear link in spots of some depths, each [B, G]."""
        return tuple(torch.from_numpy(np.array(part)) for part in self._noise.moments(depth))

    def state(self) -> dict[str, Tensor]:
        """Everything fitted, by name."""
        field = {f"field_{name}": value for name, value in self.field._asdict().items()}
        return {name: getattr(self, name).contiguous() for name in self.STATE} | field

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Load what `state` gave.

        Raises
        ------
        ValueError
            The tensors do not fit together.
        """
        genes, rank = len(state["rate"]), len(state["field_range"])  # few genes have fewer latents than asked for
        shapes: dict[str, tuple[int, ...]] = dict.fromkeys(("rate", "scale", "psi"), (genes,))
        shapes |= {"loadings": (genes, rank + 1), "loadings_cov": (genes, rank + 1, rank + 1)}
        shapes |= {f"field_{name}": (rank,) for name in FieldParameters._fields}
        for name, shape in shapes.items():
            if state[name].shape != shape or not state[name].is_floating_point():
                raise ValueError(f"{name} are not numbers of shape {shape}")
        for name in self.STATE:
            setattr(self, name, state[name])
        self.field = FieldParameters(*(state[f"field_{name}"] for name in FieldParameters._fields))
        if not all((part > 0).all() for part in self.field):
            raise ValueError("the parameters of the spatial prior are not above 0")
