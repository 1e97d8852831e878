"""A target whose loadings come from a reference: rates of each platform, and genes that were never measured."""

from types import SimpleNamespace

import numpy as np
import pytest
import scipy.sparse as sp

from stmcdi_cli.model.latent.factor_model import LINKS, SpatialFactorModel
from stmcdi_cli.model.latent.target_model import TargetFactorModel, predict_ratios
from stmcdi_cli.model.latent.validation_cases import N_FOLDS, Case, Moments, best_shares, interval_tail, left_out_genes
from stmcdi_cli.model.tissue import Tissue

RANK, N_TARGET, N_CELLS, N_GENES = 2, 150, 400, 60
UNMEASURED = np.arange(N_GENES) % 5 == 0


@pytest.fixture(scope="module")
def pair() -> tuple[Tissue, Tissue, np.ndarray]:
    """Target and reference of the same two programmes, platforms that catch genes very differently, and the log rates.

    In the target a fifth of the genes are not measured; what it catches of a gene falls with the gene's loading.
    """
    rng = np.random.default_rng(0)
    w = rng.normal(size=(N_GENES, RANK)) * 0.7
    rate = np.exp(rng.normal(0.5, 0.5, N_GENES))
    caught = np.exp(0.8 - 1.5 * w[:, 0])
    side = int(np.sqrt(N_TARGET)) + 1
    xy = np.array([(i, j) for i in range(side) for j in range(side)][:N_TARGET], float)
    smooth = np.column_stack([np.sin(xy[:, 0] / 3), np.cos(xy[:, 1] / 4)]) * 1.4
    latents = {"target": smooth, "reference": rng.normal(size=(N_CELLS, RANK))}
    near = np.linalg.norm(xy[:, None] - xy[None], axis=2)
    graphs = {
        "target": sp.csr_matrix((near > 0) & (near < 1.5), dtype=np.float32),
        "reference": sp.csr_matrix((N_CELLS, N_CELLS), dtype=np.float32),
    }
    out, rates = [], {}
    for name, z in latents.items():
        rates[name] = np.log(rate * (caught if name == "target" else 1)) + z @ w.T
        x = np.log1p(rng.poisson(np.exp(rates[name]))).astype(np.float32)
        missing = np.zeros(x.shape, bool)
        if name == "target":
            missing[:, UNMEASURED] = True
        out.append(
            Tissue(
                x=sp.csr_matrix(np.where(missing, 0, x)),
                missing=sp.csr_matrix(missing),
                graph=graphs[name],
                depth=np.ones(len(x)),
                count_scale="log1p",
                genes=tuple(f"g{k}" for k in range(N_GENES)),
                odd_spots=np.zeros(len(x), bool),
            )
        )
    return out[0], out[1], rates["target"]


def fitted(target: Tissue, reference: Tissue, link: str) -> tuple[TargetFactorModel, SpatialFactorModel]:
    cells = SpatialFactorModel(rank=RANK, full_depth=0.25, link=link)
    cells.fit(reference, sweeps=15, seed=0)
    model = TargetFactorModel(cells, target, reference.n_visible > 0)
    model.fit(target, sweeps=10, seed=0)
    return model, cells


@pytest.mark.parametrize("link", LINKS)
def test_genes_never_measured_are_predicted_with_their_pattern_and_level(pair, link):
    target, reference, log_rate = pair
    model, cells = fitted(target, reference, link)
    expected = model.decoder(target.depth)(model.encode(target).mean).numpy()[:, UNMEASURED]
    true = np.log1p(np.exp(log_rate))[:, UNMEASURED]
    patterns = [np.corrcoef(expected[:, k], true[:, k])[0, 1] for k in range(UNMEASURED.sum())]
    assert np.median(patterns) > 0.85
    # The level of the reference alone would be wrong by what the platform catches.
    level = np.abs(expected.mean(0) - true.mean(0)).mean()
    model.rate[UNMEASURED], model.loadings[UNMEASURED, -1] = cells.rate[UNMEASURED], cells.loadings[UNMEASURED, -1]
    model.scale[UNMEASURED] = cells.scale[UNMEASURED]
    model.use_tissue(target)
    as_in_reference = model.decoder(target.depth)(model.encode(target).mean).numpy()[:, UNMEASURED]
    assert level < 0.5 * np.abs(as_in_reference.mean(0) - true.mean(0)).mean()


@pytest.mark.parametrize("link", LINKS)
def test_loadings_are_the_references_but_for_genes_that_it_lacks(pair, link):
    target, reference, _ = pair
    lacking = np.arange(N_GENES) % 7 == 1
    lacking &= ~UNMEASURED
    hidden = sp.csr_matrix(np.broadcast_to(lacking, (N_CELLS, N_GENES)))
    model, cells = fitted(target, reference.without(hidden), link)
    np.testing.assert_array_equal(model.loadings[~lacking, :-1], cells.loadings[~lacking, :-1])
    assert (model.loadings[lacking, :-1].abs().sum(1) > 0.05).all()
    assert (cells.loadings[lacking, :-1].abs().sum(1) < 1e-3).all()
    expected = model.decoder(target.depth)(model.encode(target).mean).numpy()[:, lacking]
    assert np.isfinite(expected).all()


@pytest.mark.parametrize("link", LINKS)
def test_a_gene_left_out_is_predicted_from_the_others(pair, link):
    """What was fitted to it is changed beyond recognition: what is predicted for it stays the same bit for bit."""
    target, reference, _ = pair
    model, cells = fitted(target, reference, link)
    genes = np.arange(N_GENES) == 1
    without = model.without_genes(genes)
    for name in ("rate", "scale", "psi"):
        getattr(model, name)[1] *= 50
    model.loadings[1, -1] = 7
    again = model.without_genes(genes)
    for name in ("rate", "scale", "psi", "loadings", "loadings_cov"):
        np.testing.assert_array_equal(getattr(without, name)[1], getattr(again, name)[1])
        np.testing.assert_array_equal(getattr(without, name)[2:], getattr(model, name)[2:])
    assert without.loadings[1, -1] == cells.loadings[1, -1]
    assert not without.measured[1] and model.measured[1]


def test_every_shared_gene_is_left_out_once(pair):
    target, reference, _ = pair

    class Branch:
        def __init__(self, encoder):
            self.encoder = encoder

        def with_encoder(self, encoder):
            return Branch(encoder)

        def encode(self, tissue):
            self.tissue = tissue

    shared = ~UNMEASURED
    cases = list(left_out_genes([Branch(fitted(target, reference, "linear")[0])], target, reference, seed=0))
    assert len(cases) == N_FOLDS
    np.testing.assert_array_equal(sum(case.genes.astype(int) for case in cases), shared.astype(int))
    for case in cases:
        assert case.visible.missing.toarray()[:, case.genes].all()
        np.testing.assert_array_equal(
            case.entries.toarray(), np.broadcast_to(case.genes, target.x.shape) & ~target.missing.toarray()
        )
        assert case.branches[0].tissue is case.visible
        np.testing.assert_array_equal(case.predictions.genes, np.flatnonzero(case.genes))


def test_moments_give_error_and_correlation_of_every_mixture():
    rng = np.random.default_rng(0)
    n, n_genes = 300, 4
    true = rng.normal(size=(n, n_genes))
    true[:, 3] = 1  # no variation
    predicted = [true + rng.normal(size=true.shape) * spread for spread in (0.5, 1.0, 2.0)]
    entries = rng.random(true.shape) < 0.6

    class Whole(Case):
        def expected(self, tissue):
            return iter([(np.arange(n), predicted, entries, true)])

    moments = Whole([None] * 3, None, None, None).moments(SimpleNamespace(n_genes=n_genes))
    for shares in ((1, 0, 0), (0.5, 0.25, 0.25), (0, 0, 1)):
        mixed = sum(share * part for share, part in zip(shares, predicted, strict=True))
        assert moments.error(shares) == pytest.approx(np.square(mixed - true)[entries].sum())
        each = [np.corrcoef(mixed[use, k], true[use, k])[0, 1] for k, use in enumerate(entries.T[:3])]
        np.testing.assert_allclose(moments.correlations(shares), [*each, 0], atol=1e-9)


def judged(predicted: np.ndarray, true: np.ndarray, n_branches: int) -> tuple[Case, Moments]:
    """A case of genes left out, all of them, of which these are the predictions [predictions, n, G]."""
    n, n_genes = true.shape

    class Whole(Case):
        n_predictions = len(predicted)

        def expected(self, tissue):
            return iter([(np.arange(n), list(predicted), np.ones_like(true, bool), true)])

    case = Whole([None] * n_branches, None, None, None, genes=np.ones(n_genes, bool))
    return case, case.moments(SimpleNamespace(n_genes=n_genes))


def test_shares_go_to_what_predicts_genes_left_out_best():
    rng = np.random.default_rng(0)
    true = rng.normal(size=(300, 100))
    noise = rng.normal(size=(3, 300, 100))
    case, moments = judged(true + noise * np.array([5, 5, 1])[:, None, None], true, n_branches=2)
    weights, (part,) = best_shares([case], [moments])
    assert sum(weights) == pytest.approx(1) and 0.7 < part < 1  # a branch has a share at least
    case, moments = judged(true + noise * np.array([1, 5, 5])[:, None, None], true, n_branches=2)
    assert best_shares([case], [moments]) == ([1, 0], [0])


def test_few_genes_do_not_tell_shares_apart():
    rng = np.random.default_rng(1)
    true = rng.normal(size=(200, 6))
    predicted = true + rng.normal(size=(3, 200, 6)) * 2 * rng.uniform(0.9, 1.1, (3, 1, 6))
    case, moments = judged(predicted, true, n_branches=2)
    weights, (part,) = best_shares([case], [moments])
    np.testing.assert_allclose([*((1 - part) * np.array(weights)), part], 1 / 3, atol=0.12)


def test_the_interval_covers_what_is_unlike_in_few_genes_more_surely():
    """Where genes are covered unequally well, few of them have to be covered more."""
    rng = np.random.default_rng(0)
    samples, truth = rng.normal(size=(50, 30_000)), rng.normal(size=30_000)
    many, few = np.arange(30_000) % 300, np.arange(30_000) % 6
    assert interval_tail(samples, truth, many, left_out=False) == pytest.approx(0.05, abs=0.011)
    unlike = truth * np.where(few % 2, 0.6, 1)
    surely = interval_tail(samples, unlike, few, left_out=False)
    assert surely < interval_tail(samples, unlike, np.arange(30_000), left_out=False)
    narrow = truth / 2
    assert interval_tail(samples, narrow, many, left_out=False) == 0.12
    assert interval_tail(samples, narrow, many, left_out=True) == 0.15
    assert interval_tail(samples[:, :0], truth[:0], many[:0], left_out=False) == 0.01


def test_ratios_are_learnt_where_features_tell_and_else_their_mean():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(80, 6))
    known = np.arange(80) < 60
    ratio = 1 + 2 * features[:, 0] + 0.1 * rng.normal(size=80)
    found = predict_ratios(ratio[known], features, known)
    np.testing.assert_allclose(found[~known], ratio[~known], atol=0.5)
    noise = rng.normal(size=60) + 3
    np.testing.assert_allclose(predict_ratios(noise, features, known)[~known], noise.mean(), atol=0.5)
    constant = np.ones((80, 1))
    np.testing.assert_allclose(predict_ratios(noise, constant, known), noise.mean())
