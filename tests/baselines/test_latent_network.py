"""The training data of the networks: nothing of the targets reaches their input."""

import numpy as np
import pytest
import torch
from helpers import make_raw

import stmcdi_cli as stmcdi
from stmcdi_cli.baselines import DenseTissue, gan, latent_network, mlp, vae
from stmcdi_cli.errors import InputError

NETWORKS = [mlp.Perceptron, vae.VariationalAutoencoder, gan.AdversarialNetwork]


@pytest.fixture(scope="module")
def training_data(case):
    return latent_network.TrainingData(case.data, seed=0)


def test_targets_are_visible_and_apart_from_the_validation_entries(case, training_data):
    validation_mask = torch.from_numpy(training_data.validation_mask)
    for target in training_data.targets:
        assert not (target & validation_mask).any() and not (target & ~torch.from_numpy(case.data.seen)).any()
        assert 0.45 < target.sum() / training_data.seen.sum() < 0.55
    for batch in training_data.batches(0, torch.Generator().manual_seed(0)):
        assert not (batch.target * batch.seen).any()
        assert (batch.z[(batch.target + batch.seen) == 0] == 0).all()


def test_a_batch_holds_each_spot_once_with_its_own_latent(training_data):
    batches = training_data.batches(1, torch.Generator().manual_seed(0))
    rows = {row.numpy().tobytes() for row in training_data.latents[1]}
    found = [row.numpy().tobytes() for batch in batches for row in batch.latent]
    assert len(found) == len(training_data.z) and set(found) == rows


def test_validation_values_reach_nothing_a_network_is_trained_on(case, training_data):
    three = np.log1p(3 / case.masked.obs["size_factor"].to_numpy())[:, None]  # counts still, or the scale would change
    other = np.where(training_data.validation_mask, three, case.data.x).astype(np.float32)
    changed = DenseTissue.from_anndata(_with_x(case.masked, other), None)
    again = latent_network.TrainingData(changed, seed=0)
    for name in ("latents", "targets", "validation_latent", "z", "weight"):
        one, two = getattr(training_data, name), getattr(again, name)
        for a, b in zip(one, two, strict=True):
            np.testing.assert_array_equal(a.numpy(), b.numpy(), err_msg=name)
    assert (again.latent != training_data.latent).any()  # in the end they are decoded with all visible entries


def _with_x(masked, x):
    changed = masked.copy()
    changed.X = x
    return changed


@pytest.mark.parametrize("build", NETWORKS)
def test_learns(training_data, build):
    torch.manual_seed(0)
    network = build(training_data.latent.shape[1], training_data.z.shape[1])
    before = training_data.validation_error(training_data.predict(network, training_data.validation_latent))
    latent_network.train(network, training_data, torch.Generator().manual_seed(0))
    after = training_data.validation_error(training_data.predict(network, training_data.validation_latent))
    assert after < 0.8 * before


@pytest.mark.parametrize("build", NETWORKS)
def test_predictions_do_not_depend_on_the_spots_beside(training_data, build):
    torch.manual_seed(0)
    network = build(training_data.latent.shape[1], training_data.z.shape[1]).eval()
    with torch.no_grad():
        whole, alone = network.predict(training_data.latent), network.predict(training_data.latent[7:8])
    np.testing.assert_allclose(whole[7:8].numpy(), alone.numpy(), rtol=1e-4, atol=1e-5)


def test_generator_and_discriminator_are_trained_and_draws_differ(training_data):
    torch.manual_seed(0)
    network = gan.AdversarialNetwork(training_data.latent.shape[1], training_data.z.shape[1])
    network.start()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    for epoch in range(3):
        for batch in training_data.batches(epoch, torch.Generator().manual_seed(epoch)):
            network.update(batch)
    moved = [name for name, value in network.state_dict().items() if (value != before[name]).any()]
    assert {name.split(".")[0] for name in moved} == {"generator", "discriminator"}
    network.eval()
    with torch.no_grad():
        one, two = (network._generate(training_data.latent[:5]) for _ in range(2))
    assert (one != two).all(0).any()


def test_needs_a_graph_or_coordinates():
    adata = stmcdi.normalize(make_raw())
    del adata.obsm["spatial"]
    with pytest.raises(InputError, match="or a graph, found neither"):
        mlp.impute(DenseTissue.from_anndata(adata, None), seed=0)
