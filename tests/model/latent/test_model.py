from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import dense

import stmcdi_cli as stmcdi
from stmcdi_cli.errors import InputError
from stmcdi_cli.model import save_load
from stmcdi_cli.model.base import DrawOptions
from stmcdi_cli.model.diffusion.samplers import SAMPLERS
from stmcdi_cli.model.latent.blocks import BLOCK
from stmcdi_cli.model.latent.factor_model import LINKS
from stmcdi_cli.model.tissue import Tissue

CPU = torch.device("cpu")
OPTIONS = DrawOptions(n_samples=4, seed=3, sampler="dpm")


def simulated(**options):
    raw = stmcdi.simulate(**{"n_spots": 300, "n_genes": 120, "depth": 500, "n_sections": 2, "seed": 0, **options})
    return stmcdi.hold_out(stmcdi.build_graph(stmcdi.normalize(raw), section_key="section"), seed=0)


def trained(masked, path, seed=0):
    return stmcdi.train(masked, path, epochs=2, seed=seed, device="cpu", quiet=True)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    masked, truth = simulated()
    path = tmp_path_factory.mktemp("model") / "model"
    model = trained(masked, path)
    data = Tissue.from_anndata(masked)
    model.prepare(data, device=CPU)
    return SimpleNamespace(
        model=model, path=path, data=data, masked=masked, truth=truth, hidden=dense(masked.layers["missing"])
    )


@pytest.fixture(scope="module")
def networked(fitted):
    """The same model with networks whose output is not 0, as it may be after training."""
    model = save_load.load(fitted.path)
    for branch in model.branches:
        torch.nn.init.normal_(branch.network.output.weight, std=0.1, generator=torch.Generator().manual_seed(0))
    model.prepare(fitted.data, device=CPU)
    return model


def closed_form(path):
    model = save_load.load(path)
    for branch in model.branches:
        branch.keep_part(0.0)
    return model


def decoded_latents(model, draw):
    """Latents [spots, rank] that each branch decodes during some draws: a list for each branch."""
    decoded = []
    for branch in model.branches:

        def spy(depth, *, decoder=branch.encoder.decoder, seen):
            decode = decoder(depth)
            return lambda latents: seen.append(latents.clone()) or decode(latents)

        decoded.append([])
        branch.encoder.decoder = partial(spy, seen=decoded[-1])
    draws = draw()
    for branch in model.branches:
        del branch.encoder.decoder
    return draws, decoded


@pytest.mark.parametrize("link", [0, 1], ids=LINKS[:2])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_network_with_output_0_draws_the_encoders_exact_posterior(fitted, sampler, link):
    """Whitened by a posterior computed here in double precision, the latents drawn are standard normal."""
    model, data = closed_form(fitted.path), fitted.data
    model.weights = torch.tensor([1.0 - link, float(link)])  # all draws from one branch
    model.prepare(data, device=CPU)
    spots = np.arange(BLOCK)
    encoder = model.branches[link].encoder
    _, decoded = decoded_latents(model, lambda: model.draw(spots, replace(OPTIONS, n_samples=60, sampler=sampler)))
    z = torch.stack(decoded[link]).double().numpy()
    assert len(z) == 60

    known = encoder.encode(data)
    weighted, weight = (part.double() for part in encoder.evidence(data, spots, known.select(spots)))
    prior = known.prior_mean(encoder.field.nugget).double().numpy()
    prior_variance = known.prior_variance.double().numpy()
    w, second = encoder.loadings.double().numpy(), encoder.loadings_cov.double().numpy()
    second = second + w[:, :, None] * w[:, None, :]
    weighted, weight = ((part / encoder.psi.double()).numpy() for part in (weighted, weight))
    white = np.empty_like(z)
    for i in range(len(spots)):
        full = np.einsum("g,gab->ab", weight[i], second)
        precision = full[:-1, :-1] + np.diag(1 / prior_variance[i])
        pull = prior[i] / prior_variance[i]
        mean = np.linalg.solve(precision, weighted[i] @ w[:, :-1] - full[:-1, -1] + pull)
        white[:, i] = (z[:, i] - mean) @ np.linalg.cholesky(precision)
    white = white.reshape(-1, encoder.rank)
    assert np.abs(white.mean(0)).max() < 5 / np.sqrt(len(white)) + 1e-2
    # What a sampler's own discretisation adds to Monte-Carlo error (see test_samplers).
    tolerance = {"ddim": 0.16, "langevin": 0.12}.get(sampler, 0.08)
    assert np.abs(np.cov(white.T) - np.eye(encoder.rank)).max() < tolerance


def test_the_output_of_the_network_changes_the_draws(fitted, networked):
    before = fitted.model.draw(np.arange(20), OPTIONS)
    after = networked.draw(np.arange(20), OPTIONS)
    assert not np.array_equal(before.samples, after.samples)
    assert not np.array_equal(before.mean, after.mean)


def same_draws(one, other):
    assert np.ascontiguousarray(one.samples).tobytes() == np.ascontiguousarray(other.samples).tobytes()
    assert (one.mean is None) == (other.mean is None)
    assert one.mean is None or np.ascontiguousarray(one.mean).tobytes() == np.ascontiguousarray(other.mean).tobytes()


def pick(draws, spots, n=None):
    return SimpleNamespace(samples=draws.samples[:n, spots], mean=draws.mean[spots])


@pytest.mark.parametrize("denoise", [False, True])
def test_draws_of_a_spot_depend_on_no_other(networked, denoise):
    whole = networked.draw(np.arange(300), replace(OPTIONS, denoise=denoise))
    for spots in (np.array([299, 3, 17, 3]), np.array([0]), np.arange(40, 300)[::-1]):
        same_draws(networked.draw(spots, replace(OPTIONS, denoise=denoise)), pick(whole, spots))


def test_draws_do_not_depend_on_how_many_work_at_once(networked):
    alone = [networked.draw(np.arange(i, i + 30), OPTIONS) for i in range(0, 300, 30)]
    with ThreadPoolExecutor(4) as pool:
        together = pool.map(lambda i: networked.draw(np.arange(i, i + 30), OPTIONS), range(0, 300, 30))
        for one, other in zip(alone, together, strict=True):
            same_draws(one, other)


def test_more_samples_begin_with_the_same(networked):
    more = networked.draw(np.arange(9), OPTIONS)
    fewer = networked.draw(np.arange(9), replace(OPTIONS, n_samples=3))
    np.testing.assert_array_equal(fewer.samples, more.samples[:3])


def test_the_seed_decides(networked):
    one, again, other = (networked.draw(np.arange(30), replace(OPTIONS, seed=seed)) for seed in (3, 3, 4))
    same_draws(one, again)
    assert (one.samples != other.samples).mean() > 0.02


@pytest.mark.parametrize("options", [{}, {"log": False}, {"skip": True}], ids=["log1p", "linear", "counts"])
def test_draws_are_whole_counts_on_the_scale_of_x(options, tmp_path):
    """Never negative, and each a value that could have been observed."""
    raw = stmcdi.simulate(n_spots=120, n_genes=60, depth=300, seed=2)
    masked, _ = stmcdi.hold_out(stmcdi.build_graph(stmcdi.normalize(raw, **options)), seed=0)
    model, data = trained(masked, tmp_path / "model"), Tissue.from_anndata(masked)
    model.prepare(data, device=CPU)
    draws = model.draw(np.arange(120), replace(OPTIONS, denoise=True))
    assert draws.samples.dtype == np.float32 and draws.samples.shape == (4, 120, 60)
    assert np.isfinite(draws.samples).all() and draws.samples.min() >= 0
    assert np.isfinite(draws.mean).all() and draws.mean.min() >= 0
    value = draws.samples.astype(np.float64)
    counts = {"log1p": np.expm1(value), "linear": value, "counts": value}[data.count_scale] * data.depth[:, None]
    np.testing.assert_allclose(counts, np.round(counts), atol=1e-3)
    assert 0.5 < (value == 0).mean() / (dense(raw.X) == 0).mean() < 1.5


def test_values_that_are_no_counts_are_drawn_too(tmp_path):
    random = np.random.default_rng(0)
    raw = stmcdi.simulate(n_spots=200, n_genes=40, depth=4000, seed=2)
    raw.X = (np.log1p(raw.layers["rates"]) + 0.1 * random.random(raw.shape)).astype(np.float32)
    masked, truth = stmcdi.hold_out(stmcdi.build_graph(stmcdi.normalize(raw, skip=True)), seed=0)
    model, data = trained(masked, tmp_path / "model"), Tissue.from_anndata(masked)
    assert data.count_scale is None
    imputed = stmcdi.impute(masked, model, n_samples=20, device="cpu", quiet=True)
    assert stmcdi.evaluate(imputed, truth)["skill"] > 0.3
    model.prepare(data, device=CPU)
    samples = model.draw(np.arange(200), replace(OPTIONS, denoise=True)).samples
    assert np.isfinite(samples).all() and samples.min() >= 0


def weights(path):
    return (path / "model.safetensors").read_bytes()


def test_hidden_values_change_no_bit(fitted, tmp_path):
    """Random values at missing entries, in X and in the counts; so the same seed also gives the same bytes again."""
    odd = fitted.masked.copy()
    random = np.random.default_rng(9)
    garbage = np.where(fitted.hidden, random.poisson(30, odd.shape), 0).astype(np.float32)
    odd.X = dense(odd.X) + garbage
    odd.layers["counts"] = dense(odd.layers["counts"]) + garbage
    other = trained(odd, tmp_path / "model")
    for name, value in fitted.model.state().items():
        assert value.numpy().tobytes() == other.state()[name].numpy().tobytes(), name
    assert weights(fitted.path) == weights(tmp_path / "model")
    for target in ("missing", "all"):
        one, two = (
            stmcdi.impute(adata, model, target=target, n_samples=3, device="cpu", quiet=True)
            for adata, model in ((fitted.masked, fitted.model), (odd, other))
        )
        for layer in ("imputed", "imputed_sd", "imputed_median", "imputed_q05", "imputed_q95"):
            assert dense(one.layers[layer]).tobytes() == dense(two.layers[layer]).tobytes(), layer
    fitted.model.prepare(fitted.data, device=CPU)


def test_the_training_seed_decides(fitted, tmp_path):
    other = trained(fitted.masked, tmp_path / "model", seed=1)
    assert weights(fitted.path) != weights(tmp_path / "model")
    assert fitted.model.config["seed"] == 0 and other.config["seed"] == 1


def test_imputes_better_than_the_gene_mean_and_knows_how_well(fitted):
    imputed = stmcdi.impute(fitted.masked, fitted.model, n_samples=50, device="cpu", quiet=True)
    metrics = stmcdi.evaluate(imputed, fitted.truth)
    fitted.model.prepare(fitted.data, device=CPU)
    assert metrics["skill"] > 0.2
    assert 0.80 < metrics["coverage_90"] < 0.99
    # A spread that depended on nothing would not follow the errors.
    error = np.abs(dense(imputed.layers["imputed"]) - dense(fitted.truth.X))[fitted.hidden]
    sd = dense(imputed.layers["imputed_sd"])[fitted.hidden]
    wide = sd > np.median(sd)
    assert error[wide].mean() > 1.5 * error[~wide].mean()


def test_intervals_are_as_wide_on_a_tissue_of_another_depth(tmp_path):
    masked, truth = simulated(depth=80, seed=5)
    model = trained(masked, tmp_path / "model")
    metrics = stmcdi.evaluate(stmcdi.impute(masked, model, device="cpu", quiet=True), truth)
    assert metrics["skill"] > 0.05
    assert 0.80 < metrics["coverage_90"] < 0.99


def test_a_saved_model_draws_the_same(fitted, networked, tmp_path):
    for model in (fitted.model, networked):
        save_load.save(model, tmp_path / "model", [])
        loaded = save_load.load(tmp_path / "model")
        assert loaded.config == model.config and loaded.genes == model.genes
        assert {"linear.network.enter.weight", "log.network.leave.bias"} <= model.state().keys()
        loaded.prepare(fitted.data, device=CPU)
        same_draws(loaded.draw(np.arange(50), OPTIONS), model.draw(np.arange(50), OPTIONS))


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_each_branch_gives_its_share_of_the_draws(fitted, share):
    """Of 24 draws, in pairs; the point value is the mean over them, weighted by branch."""
    model = save_load.load(fitted.path)
    model.weights = torch.tensor([1 - share, share])
    model.prepare(fitted.data, device=CPU)
    spots = np.arange(BLOCK)
    draws, decoded = decoded_latents(model, lambda: model.draw(spots, replace(OPTIONS, n_samples=24)))
    assert [len(latents) for latents in decoded] == [24 * (1 - share), 24 * share]
    mean = 0
    for weight, branch, latents in zip((1 - share, share), model.branches, decoded, strict=True):
        if not latents:  # a branch without draws is not even encoded
            continue
        decode = branch.encoder.decoder(fitted.data.depth[spots])
        mean += sum(weight / len(latents) * decode(one).numpy().astype(float) for one in latents)
    np.testing.assert_allclose(draws.mean, mean, atol=1e-5)


def test_a_tissue_of_fewer_genes_than_latents_can_be_trained_on(tmp_path):
    raw = stmcdi.simulate(n_spots=60, n_genes=3, depth=60, seed=4)
    masked, truth = stmcdi.hold_out(stmcdi.build_graph(stmcdi.normalize(raw)), seed=0)
    imputed = stmcdi.impute(masked, trained(masked, tmp_path / "model"), n_samples=5, device="cpu", quiet=True)
    assert np.isfinite(dense(imputed.layers["imputed"])).all()


def test_odd_tissues_are_survived(tmp_path):
    """A spot with nothing visible, one without any count, a gene never seen, one hidden everywhere, a spot alone."""
    masked, truth = simulated(n_spots=120, n_genes=50)
    hidden = dense(masked.layers["missing"]).copy()
    hidden[5] = hidden[:, 7] = True
    x, counts = (np.where(hidden, 0, dense(part)) for part in (masked.X, masked.layers["counts"]))
    x[9] = counts[9] = x[:, 11] = counts[:, 11] = 0
    masked.X, masked.layers["counts"], masked.layers["missing"] = x, counts, hidden
    masked.obs["size_factor"] = np.where(np.arange(120) == 9, 1.0, masked.obs["size_factor"])
    graph = dense(masked.obsp["spatial_connectivities"]).copy()
    graph[20] = graph[:, 20] = 0
    masked.obsp["spatial_connectivities"] = graph
    model = trained(masked, tmp_path / "model")
    for target in ("missing", "all"):
        imputed = stmcdi.impute(masked, model, target=target, n_samples=5, device="cpu", quiet=True)
        for layer in ("imputed", "imputed_sd", "imputed_q95"):
            values = dense(imputed.layers[layer])
            assert np.isnan(values[:, 7]).all()  # nothing is known of a gene without any value
            values = np.delete(values, 7, axis=1)
            assert np.isfinite(values).all() and 0 <= values.min() and values.max() < 3 * x.max(), layer


def test_a_model_of_an_earlier_version_is_refused(fitted):
    config = {**fitted.model.config, "encoder": {**fitted.model.config["encoder"], "smoothing": 0.9}}
    with pytest.raises(InputError, match="trained by an earlier version, with another spatial prior; train it again"):
        save_load.build({**config, "variant": "latent"}, fitted.model.genes)
