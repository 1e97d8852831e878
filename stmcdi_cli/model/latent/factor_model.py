"""The graph encoder of the default variant: a factor model over the spatial graph, with its posterior in closed form.

Each gene's expression at a spot follows a few scores the spot shares with its neighbours, eta_ij = w_j . z_i + c_j::

    x_ij = a_ij + b_ij eta_ij + e_ij       (linear link)      e_ij ~ N(0, psi_j v_ij)
    x_ij = a(log mu_ij + eta_ij) + e_ij    (log link)
    z_i  ~ N(smoothing * mean of the neighbours' z, diag q)      w_j ~ N(0, diag 1 / alpha)

a, b and v are the mean, slope and variance of a Poisson count of gene j at the depth of spot i (see `count_moments`): a
shallow spot's zero says little, a deep spot's says much, and the model knows. Fitted by variational Bayes on visible
entries only: every update below is the exact posterior of one block of unknowns given the others, the loadings'
posterior covariance kept (Bishop 1999, variational PCA), the scores' prior a conditional autoregression over the graph
(Besag 1974). The linear link takes a, b and v at each gene's mean rate; the log link takes them anew, every few sweeps,
at the rate the scores then tell (Gauss-Newton, as in fitting a generalised linear model).
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor, nn

from stmcdi_cli.model.device import parallel_map
from stmcdi_cli.model.latent.count_moments import CountTable
from stmcdi_cli.model.latent.gaussian import (
    Scores,
    _even,
    _second_moment,
    _symmetric,
    _unpacked,
    _with_one,
    neighbor_mean,
    packed,
)
from stmcdi_cli.model.scales import SHALLOWEST
from stmcdi_cli.model.tissue import Tissue
from stmcdi_cli.model.training.checkpoint import NO_CHECKPOINT, Stage

BLOCK = 256
"""Spots worked on at a time; fixed, so that no result depends on how much is asked for at once."""

LINKS = ("linear", "log")

_LINEAR_WITHIN = 1.5
"""Log rates, relative to the gene's, at which the log link is linearised: beyond, single counts decide too much."""
_REACH = (-8.0, 4.0)
"""Log rates, relative to the gene's, that the log link can predict."""
HEADROOM = 20
"""Mean counts that are tabulated, over those of the commonest gene in the deepest spot."""
_FEWEST_SPOTS = 10
"""Spots that a factor needs: what sets apart fewer dies out from sweep to sweep."""
_LEAST_ALPHA = 1.0
"""Least precision of the loadings; a factor of a whole tissue that moves most has 2 and more."""
_FEWEST_SIGMAS = 3
"""Standard deviations that a score may always be off by."""
_SWEEPS_PER_LINEARISATION = 5
_LINEARISATIONS = 3
_DATA_LIMIT = 250_000_000
"""Entries up to which responses are kept in memory between sweeps, not made anew."""


class FactorGraph:
    """Fit the factor model to a tissue and encode its spots.

    Parameters
    ----------
    rank
        Number of scores per spot.
    smoothing
        Share of the neighbours' mean score that a spot is expected to have.
    full_depth
        Size factor from which on a spot's entries have their full weight. Below, the weight falls in proportion: a
        single count where a hundredth was expected is a Gaussian's ten standard deviations, but a Poisson's bad luck.
    link
        How expected expression follows the scores, a name in `LINKS`; ``log`` is for counts alone.

    Attributes
    ----------
    rate
        Mean count of each gene at depth 1 (its mean, where counts are not modelled) [G].
    scale
        Standard deviation of each gene, used where counts are not modelled [G].
    loadings, loadings_cov
        Posterior of (w_j, c_j) [G, rank + 1] and [G, rank + 1, rank + 1].
    psi
        Noise over counting noise, per gene [G].
    innovation
        q, the variance of a score around its neighbours' [rank].
    """

    STATE = ("rate", "scale", "loadings", "loadings_cov", "psi", "innovation")

    rate: Tensor
    scale: Tensor
    loadings: Tensor
    loadings_cov: Tensor
    psi: Tensor
    innovation: Tensor

    def __init__(self, *, rank: int, smoothing: float, full_depth: float, link: str = "linear") -> None:
        if link not in LINKS:
            raise ValueError(f"no link '{link}'; there are {', '.join(LINKS)}")
        self.rank = rank
        self.link = link
        self.smoothing = smoothing
        self.full_depth = full_depth
        self._alpha = torch.ones(rank + 1)

    # What a tissue says, entry by entry

    def _start(self, tissue: Tissue) -> None:
        """Take each gene's rate, or its mean and standard deviation, from visible entries."""
        n_visible = np.maximum(tissue.n_visible, 1)
        if tissue.scale is None:
            mean = np.asarray(tissue.x.sum(0)).ravel() / n_visible
            second = np.asarray(tissue.x.multiply(tissue.x).sum(0)).ravel() / n_visible
            rate, scale = mean, np.sqrt(np.maximum(second - mean**2, 1e-6))
        else:
            counts = tissue.counts()
            total_depth = tissue.depth.sum() - tissue.missing.T @ tissue.depth
            # A tenth of a count more than was seen: a gene never seen, or nowhere visible, is rare, not impossible.
            rate = (np.asarray(counts.sum(0)).ravel() + 0.1) / np.maximum(total_depth, 1)
            scale = np.ones(tissue.n_genes)
        self.rate = torch.tensor(rate, dtype=torch.float32)
        self.scale = torch.tensor(scale, dtype=torch.float32)

    def use_table(self, tissue: Tissue) -> None:
        """Tabulate the Poisson moments over the depths of a tissue."""
        self._table = None
        if tissue.scale is not None:
            depth = tissue.depth
            self._table = CountTable(tissue.scale, 0.0, depth, HEADROOM * depth.max() * float(self.rate.max()))

    def _log_mean(self, depth: np.ndarray) -> np.ndarray:
        """Log mean count of every gene at its mean rate [B, G]."""
        log_rate = np.log(self.rate.numpy().astype(np.float64))
        return np.log(np.maximum(depth, SHALLOWEST))[:, None] + log_rate[None, :]

    def moments(self, depth: np.ndarray, log_rate: np.ndarray | float = 0.0) -> tuple[np.ndarray, ...]:
        """a, b and v of spots of some depths at log rates relative to the gene's [B, G]; each float32 [B, G]."""
        if self._table is None:
            shape = (len(depth), len(self.rate))
            scale = np.broadcast_to(self.scale.numpy(), shape)
            return np.broadcast_to(self.rate.numpy(), shape), scale, scale**2
        a, b, v = self._table.moments(depth, self._log_mean(depth) + log_rate)
        return a, np.maximum(b, 1e-9), np.maximum(v, 1e-12)

    def evidence(
        self, tissue: Tissue, spots: np.ndarray, at: Scores | None = None, loadings: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Response and its weight b^2 / v, both [B, G] and 0 where nothing is visible.

        The response is what eta would have to be for x to be as expected, to first order.

        Parameters
        ----------
        tissue
            The data.
        spots
            Which spots [B].
        at
            Scores of these spots at which a log link is linearised; where all are 0 by default.
        loadings
            Loadings to do so with; the present ones by default.
        """
        depth = tissue.depth[spots]
        eta = spread = np.zeros((1, 1))
        if at is not None and self.link == "log":
            loadings = self.loadings if loadings is None else loadings
            eta = (_with_one(at.mean) @ loadings.T).clamp_(-_LINEAR_WITHIN, _LINEAR_WITHIN).numpy()
            w = loadings[:, :-1]
            # E[exp(eta)] = exp(mean + variance / 2): what is not known of the scores adds to the rate expected.
            spread = (at.cov.flatten(1) @ (w[:, :, None] * w[:, None, :]).flatten(1).T).clamp_(0, 2).numpy() / 2
        a, b, v = self.moments(depth, eta + spread)
        visible = ~tissue.missing[spots].toarray()
        response = np.where(visible, (tissue.x[spots].toarray() - a) / b + eta, 0)
        weight = np.where(visible, np.minimum(1, depth / self.full_depth)[:, None] * b * b / v, 0)
        return torch.from_numpy(response.astype(np.float32)), torch.from_numpy(weight.astype(np.float32))

    def _blocks(self, tissue: Tissue, at: Scores | None = None) -> Callable[[], list | Iterator]:
        """Give a function that goes through (spots, response, weight) of every block; in memory where they fit."""
        loadings = None if at is None else self.loadings

        def blocks() -> Iterator:
            for start in range(0, tissue.n_spots, BLOCK):
                spots = np.arange(start, min(start + BLOCK, tissue.n_spots))
                yield spots, *self.evidence(tissue, spots, None if at is None else at.of(spots), loadings)

        if tissue.n_spots * tissue.n_genes > _DATA_LIMIT:
            return blocks
        kept = list(blocks())
        return lambda: kept

    # Variational Bayes

    def fit(
        self,
        tissue: Tissue,
        *,
        sweeps: int,
        seed: int,
        start: "FactorGraph | None" = None,
        stage: Stage = NO_CHECKPOINT,
    ) -> None:
        """Learn everything from the visible entries.

        Parameters
        ----------
        tissue
            The data.
        sweeps
            Passes over all blocks of unknowns.
        seed
            Of the random projection the scores start from.
        start
            A fit to go on from instead, itself for one; the scores then keep their meaning.
        stage
            Saves the state of the fit; where it has a state already, the fit goes on from that.
        """
        mean_of_neighbors = neighbor_mean(tissue.graph)
        scores: Scores | None
        done, at, blocks = 0, None, None
        if stage.state is not None:
            done, scores, at = self._go_on(stage.state)
            self.use_table(tissue)
        elif start is None:
            self._start(tissue)
            self.use_table(tissue)
            blocks = self._blocks(tissue)
            first = self._first_scores(blocks, tissue, seed)
            scores = Scores(first, packed(torch.zeros(1, self.rank, self.rank)).repeat(tissue.n_spots, 1))
        elif start is self:
            self.use_table(tissue)
            at = scores = self.encode(tissue)
        else:
            self.load_state({name: value.clone() for name, value in start.state().items()})
            self._alpha = start._alpha
            self.use_table(tissue)
            scores = self._scores(_one_by_one(self._blocks(tissue)), mean_of_neighbors, tissue.n_spots)
        for sweep in range(done, sweeps):
            assert scores is not None
            if sweep % _SWEEPS_PER_LINEARISATION == 0:
                stage.save(self._standing(sweep, scores, at))
                if self.link == "log":
                    # Half the way: a whole step from far off can overshoot.
                    at = Scores(scores.mean / 2 if at is None else (at.mean + scores.mean) / 2, scores.packed)
                    blocks = None
            blocks = blocks or self._blocks(tissue, at)
            self._update_loadings(blocks(), scores)
            scores = self._scores(_one_by_one(blocks), mean_of_neighbors, tissue.n_spots, start=scores.mean, sweeps=1)
            prior = self.prior(mean_of_neighbors, scores.mean)
            spread = (scores.mean - prior) ** 2 + scores.variances
            # A few odd spots must not make room for themselves: none counts for more than its part of a factor, and no
            # variance is above the scores' own unit.
            most = max(_FEWEST_SIGMAS**2, tissue.n_spots / _FEWEST_SPOTS)
            self.innovation = torch.minimum(spread, most * self.innovation).mean(0).clamp(1e-4, 1.0)
        stage.save(self._standing(sweeps))

    def _standing(self, sweep: int, scores: Scores | None = None, at: Scores | None = None) -> dict[str, Any]:
        """How the fit stands before a sweep; scores are of no use after the last."""
        learnt = {name: getattr(self, name) for name in (*self.STATE, "_alpha")}
        return {"sweep": sweep, "learnt": learnt, "scores": scores, "at": at}

    def _go_on(self, state: dict[str, Any]) -> tuple[int, Scores | None, Scores | None]:
        """Take back what `_standing` gave; give the sweep, the scores, and where they were linearised last."""
        for name, value in state["learnt"].items():
            setattr(self, name, value)
        scores, at = (None if state[name] is None else Scores(*state[name]) for name in ("scores", "at"))
        return state["sweep"], scores, at

    def _first_scores(self, blocks, tissue: Tissue, seed: int) -> Tensor:
        """Leading left singular vectors of the weighted responses, by random projection, in units of 1."""
        generator = torch.Generator().manual_seed(seed)
        width = self.rank + 5
        basis = torch.linalg.qr(torch.randn(tissue.n_genes, width, generator=generator))[0]

        def standard(response: Tensor, weight: Tensor) -> Tensor:
            return (response * weight.sqrt()).clamp(-6, 6)  # one stray count must not be a factor

        for _ in range(5):
            basis = torch.linalg.qr(sum(standard(y, w).T @ (standard(y, w) @ basis) for _, y, w in blocks()))[0]
        projected = torch.cat([standard(y, w) @ basis for _, y, w in blocks()])
        left, _, right = torch.linalg.svd(projected, full_matrices=False)
        signs = torch.sign((basis @ right.T).sum(0))
        self.loadings = torch.zeros(tissue.n_genes, self.rank + 1)
        self.loadings_cov = torch.zeros(tissue.n_genes, self.rank + 1, self.rank + 1)
        self.psi = torch.ones(tissue.n_genes)
        self.innovation = torch.ones(self.rank)
        self._alpha = torch.ones(self.rank + 1)
        return (left * signs)[:, : self.rank] * np.sqrt(tissue.n_spots)

    def _update_loadings(self, blocks, scores: Scores) -> None:
        """Posterior of the loadings given the scores; then alpha and psi that make the data likeliest."""
        rank, n_genes = self.rank + 1, len(self.psi)
        products = torch.zeros(n_genes, rank * rank)
        targets = torch.zeros(n_genes, rank)
        squares, n_seen = torch.zeros(n_genes), torch.zeros(n_genes)
        for spots, response, weight in blocks:
            z = _with_one(scores.mean[spots])
            products += weight.T @ _second_moment(z, scores.of(spots).cov)
            targets += (weight * response).T @ z
            squares += (weight * response**2).sum(0)
            n_seen += (weight > 0).sum(0)
        products = products.reshape(n_genes, rank, rank)
        precision = products / self.psi[:, None, None] + torch.diag(self._alpha)
        self.loadings_cov = _symmetric(torch.linalg.inv(precision))
        self.loadings = torch.einsum("gab,gb->ga", self.loadings_cov, targets / self.psi[:, None])
        second = self.loadings[:, :, None] * self.loadings[:, None, :] + self.loadings_cov
        # Bounded: small scores with large loadings would get around the bound on what one spot counts for.
        self._alpha = (n_genes / torch.diagonal(second, dim1=1, dim2=2).sum(0)).clamp(min=_LEAST_ALPHA)
        residual = squares - 2 * (targets * self.loadings).sum(1) + (products * second).sum((1, 2))
        self.psi = ((residual + 1) / (n_seen + 1)).clamp(min=0.05)

    def _information(self, weight: Tensor, response: Tensor) -> tuple[Tensor, Tensor]:
        """What a spot's own entries say of its scores: precision [B, r, r] and precision-weighted mean [B, r]."""
        rank = self.rank
        second = (self.loadings[:, :, None] * self.loadings[:, None, :] + self.loadings_cov).flatten(1)
        weight = weight / self.psi
        precision = (weight @ second).reshape(-1, rank + 1, rank + 1)
        information = (weight * response) @ self.loadings[:, :rank] - precision[:, :rank, rank]
        return precision[:, :rank, :rank], information

    def prior(self, mean_of_neighbors: sp.csr_matrix, scores: Tensor) -> Tensor:
        """Mean of the scores' prior given the neighbours [n, r]."""
        return torch.from_numpy(self.smoothing * (mean_of_neighbors @ scores.numpy()))

    def _scores(
        self,
        over_blocks: Callable[[Callable[[np.ndarray, Tensor, Tensor], None]], None],
        mean_of_neighbors: sp.csr_matrix,
        n_spots: int,
        start: Tensor | None = None,
        sweeps: int = 30,
    ) -> Scores:
        """Posterior of all scores, neighbours taken from the sweep before.

        `over_blocks` calls a function with (spots, response, weight) of every block, in any order.
        """
        information = torch.zeros(n_spots, self.rank)
        cov = torch.zeros(n_spots, len(packed(torch.zeros(1, self.rank, self.rank))[0]))

        def learn(spots: np.ndarray, response: Tensor, weight: Tensor) -> None:
            precision, information[spots] = self._information(weight, response)
            cov[spots] = packed(_symmetric(torch.linalg.inv(precision + torch.diag(1 / self.innovation))))

        over_blocks(learn)
        scores = torch.zeros(n_spots, self.rank) if start is None else start
        for _ in range(sweeps):
            total = information + self.prior(mean_of_neighbors, scores) / self.innovation
            new = torch.empty_like(total)

            def update(first: int, total: Tensor = total, new: Tensor = new) -> None:
                some = slice(first, first + BLOCK)
                new[some] = torch.einsum("nab,nb->na", _unpacked(cov[some], self.rank), total[some])

            deque(parallel_map(update, range(0, n_spots, BLOCK)), maxlen=0)
            scores = new
        return Scores(scores, cov)

    # Encoding

    def encode(self, tissue: Tissue) -> Scores:
        """Posterior of all scores given the spots' and neighbours' entries."""
        mean_of_neighbors = neighbor_mean(tissue.graph)
        scores: Scores | None = None
        for _ in range(_LINEARISATIONS if self.link == "log" else 1):

            def over_blocks(function: Callable[[np.ndarray, Tensor, Tensor], None], at: Scores | None = scores) -> None:
                def one(first: int) -> None:
                    spots = np.arange(first, min(first + BLOCK, tissue.n_spots))
                    function(spots, *self.evidence(tissue, spots, None if at is None else at.of(spots)))

                deque(parallel_map(one, range(0, tissue.n_spots, BLOCK)), maxlen=0)

            start = None if scores is None else scores.mean
            scores = self._scores(over_blocks, mean_of_neighbors, tissue.n_spots, start=start)
        assert scores is not None
        return scores

    def posterior(self, response: Tensor, weight: Tensor, prior: Tensor) -> tuple[Tensor, Tensor]:
        """Posterior mean [B, r] and Cholesky factor of the precision [B, r, r] of some scores, given the prior mean."""
        precision, information = self._information(weight, response)
        factor = torch.linalg.cholesky(_even(precision + torch.diag(1 / self.innovation)))
        pull = nn.functional.pad(information + prior / self.innovation, (0, factor.shape[1] - self.rank))
        mean = torch.cholesky_solve(pull[..., None], factor)[:, : self.rank, 0]
        return mean, factor[:, : self.rank, : self.rank]

    def decoder(self, depth: np.ndarray) -> Callable[[Tensor], Tensor]:
        """Give the map from scores [B, r] of spots of depths [B] to expected expression on X's scale, >= 0 [B, G]."""
        if self.link == "log":
            assert self._table is not None
            expected, log_mean = self._table.expectation(depth), self._log_mean(depth).astype(np.float32)

            def decode_rate(scores: Tensor) -> Tensor:
                eta = (_with_one(scores) @ self.loadings.T).clamp_(*_REACH).numpy()
                return torch.from_numpy(expected(eta + log_mean))

            return decode_rate
        a, b, _ = (torch.from_numpy(np.ascontiguousarray(m)) for m in self.moments(depth))

        def decode(scores: Tensor) -> Tensor:
            return torch.addcmul(a, b, _with_one(scores) @ self.loadings.T).clamp_(min=0)

        return decode

    def state(self) -> dict[str, Tensor]:
        """What was learnt, by name."""
        return {name: getattr(self, name).contiguous() for name in self.STATE}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take back what `state` gave.

        Raises
        ------
        ValueError
            Its parts do not belong together.
        """
        genes, rank = len(state["rate"]), len(state["innovation"])  # few genes have fewer scores than were asked for
        shapes: dict[str, tuple[int, ...]] = dict.fromkeys(("rate", "scale", "psi"), (genes,))
        shapes |= {"loadings": (genes, rank + 1), "loadings_cov": (genes, rank + 1, rank + 1)}
        shapes["innovation"] = (rank,)
        for name in self.STATE:
            if state[name].shape != shapes[name] or not state[name].is_floating_point():
                raise ValueError(f"{name} are not numbers of shape {shapes[name]}")
            setattr(self, name, state[name])


def _one_by_one(blocks: Callable[[], Iterable]) -> Callable[[Callable[[np.ndarray, Tensor, Tensor], None]], None]:
    """Have a function called with each block, in order."""

    def over_blocks(function: Callable[[np.ndarray, Tensor, Tensor], None]) -> None:
        for block in blocks():
            function(*block)

    return over_blocks
