from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
import torch
import yaml
from anndata import AnnData

import stmcdi_cli
from stmcdi_cli.errors import InputError
from stmcdi_cli.model.attention.expectation import Expectation
from stmcdi_cli.model.attention.graph_encoder import Neighbourhood, rings
from stmcdi_cli.model.attention.model import AttentionModel, validation_entries
from stmcdi_cli.model.attention.training_step import TrainingStep
from stmcdi_cli.model.base import DrawOptions
from stmcdi_cli.model.gene_scaler import GeneScaler
from stmcdi_cli.model.tissue import Tissue

CPU = torch.device("cpu")
CONFIG = {
    "variant": "attention",
    "diffusion": {"T": 50, "beta_1": 1e-4, "beta_T": 0.5},
    "network": {
        "layers": 2,
        "channels": 8,
        "heads": 4,
        "step_embedding": 16,
        "gene_embedding": 4,
        "hops": 2,
        "graph_hidden": 16,
        "graph_condition": 8,
    },
    "masking": {"hidden": [0.05, 0.95], "validation": 0.1, "folds": 3},
    "training": {"epochs": 2, "batch_size": 16, "lr": 1e-3},
}


def tissue(garbage=None, n=45, genes=13):
    """A ring of spots with smooth expression. `garbage` seeds what an input file might hold at missing entries."""
    rng = np.random.default_rng(0)
    phase = np.arange(n)[:, None] / n * 2 * np.pi + np.arange(genes)
    x = np.log1p(rng.poisson(2 + 1.5 * np.sin(phase))).astype(np.float32)
    missing = rng.random((n, genes)) < 0.2
    graph = sp.csr_matrix(sum(np.roll(np.eye(n, dtype=np.float32), s, 1) for s in (1, -1, 2, -2)))
    held = 0 if garbage is None else 9 * np.random.default_rng(garbage).random((n, genes))
    adata = AnnData(sp.csr_matrix(np.where(missing, held, x).astype(np.float32)))
    adata.layers["missing"] = sp.csr_matrix(missing)
    adata.obsp["spatial_connectivities"] = graph
    adata.obsm["spatial"] = np.column_stack([np.cos(phase[:, 0]), np.sin(phase[:, 0])])
    return Tissue.from_anndata(adata), x, missing


def trained(data, config=CONFIG):
    model = AttentionModel(config, data.genes)
    rows = []
    model.fit(data, seed=3, device=CPU, report=rows.append)
    model.prepare(data, device=CPU)
    return model, rows


FROM_ENCODER = {**CONFIG, "encoder": {"rank": 3, "full_depth": 0.25, "sweeps": 3}}


@pytest.fixture(scope="module")
def plain():
    """The paper's network, trained; its history, and the data."""
    data, x, missing = tissue()
    return (*trained(data), data, x, missing)


@pytest.fixture(scope="module", params=[CONFIG, FROM_ENCODER], ids=["plain", "from_encoder"])
def fitted(request):
    """The same, and a network that starts from a factor model, with an output that is not 0."""
    data, x, missing = tissue()
    model, rows = trained(data, request.param)
    if model.encoder:
        torch.nn.init.normal_(model.network.output.weight, std=0.01)
        model.point_part = torch.tensor(0.5)
    return model, rows, data, x, missing


OPTIONS = DrawOptions(n_samples=2, seed=1, sampler="dpm", n_steps=4)
DENOISE = replace(OPTIONS, denoise=True)


def test_the_scale_is_that_of_visible_entries():
    data, x, missing = tissue()
    scaler = GeneScaler.fit_sparse(data.x, data.missing)
    seen = np.ma.masked_array(x, missing)
    np.testing.assert_allclose(scaler.mean, seen.mean(0), rtol=1e-5)
    np.testing.assert_allclose(scaler.scale, seen.std(0), rtol=1e-4)


def test_rings_are_exact_distances_and_leave_out_the_spot():
    data, _, _ = tissue()
    one, two = (ring.toarray() for ring in rings(data.graph, 2))
    np.testing.assert_array_equal(np.flatnonzero(one[10]), [8, 9, 11, 12])
    np.testing.assert_array_equal(np.flatnonzero(two[10]), [6, 7, 13, 14])
    np.testing.assert_array_equal(np.unique(two), [0, 1])


def test_neighbourhood_is_the_mean_of_visible_neighbours():
    data, x, missing = tissue()
    inputs = Neighbourhood(data, 2)
    z = np.ma.masked_array((x - inputs.scaler.mean) / inputs.scaler.scale, missing)
    expected = z[[8, 9, 11, 12]].mean(0).filled(0)
    np.testing.assert_allclose(inputs.around(np.array([10]))[0, 0], expected, atol=1e-5)
    np.testing.assert_allclose(inputs.own(np.array([10]))[0], z[10].filled(0), atol=1e-5)
    np.testing.assert_array_equal(inputs.visible(np.array([10]))[0], ~missing[10])


def test_validation_entries_are_hidden_from_everything_in_training():
    data, x, missing = tissue()
    validation_mask = validation_entries(data, 0.1, seed=0)
    picked = validation_mask.toarray()
    assert not (picked & missing).any()
    assert 0.05 < picked.mean() / (~missing).mean() < 0.15
    hidden = Neighbourhood(data, 2, validation_mask=validation_mask)

    changed = sp.csr_matrix(np.where(picked, 7.0, data.x.toarray()).astype(np.float32))
    same = Neighbourhood(replace(data, x=changed), 2, validation_mask=validation_mask)
    spots = np.arange(data.n_spots)
    for a, b in zip(
        (hidden.own(spots), hidden.around(spots), hidden.scaler.mean, hidden.scaler.scale),
        (same.own(spots), same.around(spots), same.scaler.mean, same.scaler.scale),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


def test_hidden_targets_of_a_spot_reach_the_network_only_as_noise():
    """The prediction for targets must not move with their values once x_t is held fixed."""
    data, _, _ = tissue()
    model = AttentionModel(CONFIG, data.genes)
    torch.nn.init.normal_(model.network.output.weight)
    inputs = Neighbourhood(data, 2)
    spots = np.arange(16)
    seen = []

    class Spy(type(model.network)):
        def forward(self, x_t, t, *condition):
            seen.append([t, *condition])
            return super().forward(x_t, t, *condition)

    model.network.__class__ = Spy
    _, visible, around = inputs.batch(spots)
    target = visible * (torch.rand(visible.shape, generator=torch.Generator().manual_seed(0)) < 0.5)
    for value in (0.0, 5.0):
        x_0 = torch.from_numpy(inputs.own(spots)) + value * target
        t, zeros = torch.full((16,), 20), torch.zeros_like(x_0)
        batch = x_0, visible - target, around, target, zeros, zeros + 1, t, zeros
        TrainingStep(model.network, model.schedule)(*batch)
    for a, b in zip(*seen, strict=True):
        assert torch.equal(a, b)


def test_values_at_missing_entries_change_no_bit(fitted):
    model, rows, data, _, _ = fitted
    other, other_rows = trained(tissue(garbage=1)[0], model.config)
    other.network.load_state_dict(model.network.state_dict())
    assert rows == other_rows
    spots = np.arange(20)
    other.point_part = model.point_part
    a, b = model.draw(spots, DENOISE), other.draw(spots, DENOISE)
    assert a.samples.tobytes() == b.samples.tobytes() and a.mean.tobytes() == b.mean.tobytes()


def test_draws_do_not_depend_on_the_batch(fitted):
    model, _, data, _, _ = fitted
    whole = model.draw(np.arange(data.n_spots), DENOISE).samples
    spots = np.array([44, 3, 17, 18, 30])
    part = model.draw(spots, DENOISE).samples
    assert part.tobytes() == np.ascontiguousarray(whole[:, spots]).tobytes()
    fewer = model.draw(spots, replace(DENOISE, n_samples=1)).samples
    assert fewer.tobytes() == part[:1].tobytes()


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpm", "langevin"])
def test_draws_are_on_the_scale_of_x(fitted, sampler):
    model, _, data, x, missing = fitted
    spots = np.arange(0, data.n_spots, 3)  # one block
    x, missing = x[spots], missing[spots]
    samples = model.draw(spots, replace(OPTIONS, sampler=sampler, n_steps=None)).samples
    assert samples.dtype == np.float32
    assert samples.shape == (2, *x.shape)
    assert samples.min() >= 0
    assert np.isfinite(samples).all()
    for sample in samples:
        np.testing.assert_array_equal(sample[~missing], x[~missing])
    assert (samples[0][missing] != samples[1][missing]).mean() > 0.4
    assert abs(samples[:, missing].mean() - x.mean()) < 0.4


def test_denoising_leaves_missing_entries_and_redraws_the_others(fitted):
    model, _, data, x, missing = fitted
    spots = np.arange(data.n_spots)
    plain = model.draw(spots, OPTIONS).samples
    denoised = model.draw(spots, DENOISE).samples
    np.testing.assert_array_equal(denoised[:, missing], plain[:, missing])
    assert (denoised[:, ~missing] != plain[:, ~missing]).mean() > (0.5 if model.encoder else 0.8)  # whole counts


def test_a_denoised_value_does_not_see_itself(plain):
    """Change one visible entry: its own draws stay, for it was hidden when they were made."""
    model, _, data, x, missing = plain
    spot, gene = np.argwhere(~missing)[40]
    before = model.draw(np.array([spot]), DENOISE).samples
    changed = x.copy()
    changed[spot, gene] += 3
    changed[missing] = 0
    model.prepare(replace(data, x=sp.csr_matrix(changed)), device=CPU)
    after = model.draw(np.array([spot]), DENOISE).samples
    model.prepare(data, device=CPU)
    np.testing.assert_array_equal(before[:, 0, gene], after[:, 0, gene])
    assert not np.array_equal(before, after)


def test_training_lowers_the_validation_loss():
    data, _, _ = tissue()
    config = {**CONFIG, "training": {"epochs": 20, "batch_size": 16, "lr": 1e-2, "ema_decay": 0.9}}
    model = AttentionModel(config, data.genes)
    rows = []
    model.fit(data, seed=0, device=CPU, report=rows.append)
    losses = [row["validation_loss"] for row in rows]
    assert min(losses) < 0.95 * losses[0]


def test_paper_preset_has_the_papers_values_and_size():
    preset = yaml.safe_load((Path(stmcdi_cli.__file__).parent / "presets" / "paper.yaml").read_text())
    training, network = preset["training"], preset["network"]
    assert (training["batch_size"], training["epochs"], training["lr"]) == (64, 2000, 6e-6)
    assert training["lr_drops"] == [[0.5, 3e-7], [0.75, 6e-9]]
    assert (network["layers"], network["channels"], network["heads"]) == (4, 32, 16)
    model = AttentionModel(preset, tuple(f"gene{i}" for i in range(1000)))
    assert sum(parameter.numel() for parameter in model.network.parameters()) == pytest.approx(826_471, rel=0.002)


def test_a_preset_that_does_not_fit_is_refused():
    with pytest.raises(InputError, match="does not fit the variant 'attention'"):
        AttentionModel({**CONFIG, "training": {"epochs": 2, "bach_size": 3}}, ("a",))


# From the posterior of a factor model


def entries_of(model, data, spots):
    """Expected expression and standard deviation of every entry of some spots, on the scale of X."""
    inputs = Neighbourhood(data, 2, scaler=model.scaler)
    expected, sd = Expectation(model.encoder, data, model.scaler).of(spots, torch.from_numpy(inputs.visible(spots)))
    return model.scaler.inverse(expected.numpy()), sd.numpy() * model.scaler.scale


@pytest.fixture(scope="module")
def untrained():
    data, x, missing = tissue(n=200)
    model, rows = trained(data, {**FROM_ENCODER, "training": {"epochs": 1, "batch_size": 200, "lr": 1e-30}})
    return model, rows, data, x, missing


def test_without_training_it_is_the_factor_model(untrained):
    model, rows, data, x, missing = untrained
    assert [row["epoch"] for row in rows] == [0, 1] and rows[0]["validation_loss"] == rows[1]["validation_loss"]
    assert not model.network.output.weight.any()
    spots = np.arange(60)
    missing = missing[spots]
    expected, sd = entries_of(model, data, spots)
    draws = model.draw(spots, replace(OPTIONS, n_samples=200, n_steps=None))
    np.testing.assert_allclose(draws.mean[missing], np.maximum(expected, 0)[missing], atol=1e-5)
    far = missing & (expected > 2 * sd)  # draws are not cut at 0
    np.testing.assert_allclose(draws.samples.mean(0)[far], expected[far], atol=0.1)
    # Rounding to whole counts adds to the spread.
    assert (draws.samples.std(0)[far] / sd[far]).mean() == pytest.approx(1, abs=0.15)


def test_the_expected_deviation_is_that_of_hidden_entries(untrained):
    model, _, data, x, missing = untrained
    expected, sd = entries_of(model, data, np.arange(data.n_spots))
    z = ((x - expected) / sd)[missing]
    assert np.sqrt(np.square(z).mean()) == pytest.approx(1, abs=0.2)


def test_draws_from_an_encoder_are_whole_counts(fitted):
    model, _, data, _, missing = fitted
    if not model.encoder:
        return
    counts = np.expm1(model.draw(np.arange(data.n_spots), OPTIONS).samples[:, missing])
    np.testing.assert_allclose(counts, np.round(counts), atol=1e-4)


def test_a_hidden_target_does_not_reach_its_own_expectation():
    data, _, _ = tissue()
    model, _ = trained(data, FROM_ENCODER)
    expectation = Expectation(model.encoder, data, model.scaler)
    visible = torch.from_numpy(model._data.visible(np.arange(16)))
    visible[:, 4] = 0
    before = expectation.of(np.arange(16), visible)
    x = data.x.toarray()
    x[:16, 4] += 3
    changed = replace(data, x=sp.csr_matrix(x))
    after = Expectation(model.encoder, changed, model.scaler, expectation.latents).of(np.arange(16), visible)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_a_model_from_an_encoder_is_kept_whole(fitted, tmp_path):
    model, _, data, _, _ = fitted
    other = AttentionModel(model.config, model.genes)
    other.load_state(model.state())
    other.prepare(data, device=CPU, encoded=model.encoded())
    spots = np.arange(data.n_spots)
    assert other.draw(spots, OPTIONS).mean.tobytes() == model.draw(spots, OPTIONS).mean.tobytes()


def test_the_part_of_the_network_in_point_values_is_chosen_and_said(untrained):
    model, _, _, _, _ = untrained
    assert model.point_part == 0  # of several that are as good, the least
    said = "0 % of what the network adds to the factor model is in imputed values, all of it in draws"
    assert model.remarks() == [said]


def test_without_validation_entries_all_that_the_network_adds_is_taken():
    data, _, _ = tissue()
    config = {**FROM_ENCODER, "masking": {**CONFIG["masking"], "validation": 0}}
    model, rows = trained(data, config)
    assert model.point_part == 1 and "validation_loss" not in rows[0]
