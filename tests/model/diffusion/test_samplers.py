import numpy as np
import pytest
import torch

from stmcdi_cli.model.diffusion.samplers import SAMPLERS, sample
from stmcdi_cli.model.diffusion.schedule import Schedule

X_OBSERVED = np.array([1.2, -0.7])


def affine_map(toy, sampler, n_steps=None):
    """Result without noise [d] and effect of each number of noise on it [streams, d, d].

    The target is Gaussian, so the perfect network is affine in x_t and the result of a sampler is affine in its noise.
    Two results therefore give the exact mean and covariance of the draws, with no Monte-Carlo error.
    """
    schedule = Schedule()
    predict = toy.optimal_predictor(schedule, *toy.posterior(X_OBSERVED))
    d, streams = len(toy.target), []

    def no_noise(stream):
        streams.append(stream)
        return torch.zeros(1, d, dtype=torch.float64)

    offset = sample(sampler, predict, schedule, no_noise, n_steps=n_steps).numpy()[0]

    def one_at_a_time(stream):
        noise = torch.zeros(len(streams), d, d, dtype=torch.float64)
        noise[streams.index(stream)] = torch.eye(d)
        return noise.reshape(-1, d)

    results = sample(sampler, predict, schedule, one_at_a_time, n_steps=n_steps).numpy()
    return offset, (results - offset).reshape(len(streams), d, d)


# (passes, largest relative error of the covariance that the discretisation of the sampler may cause)
CASES = [
    ("ddpm", None, 0.035),
    ("ddim", 50, 0.07),
    ("ddim", 25, 0.14),
    ("dpm", 10, 0.10),
    ("dpm", None, 0.055),
    ("dpm", 25, 0.015),
    ("langevin", None, 0.075),
]


@pytest.mark.parametrize(("sampler", "n_steps", "tolerance"), CASES)
def test_samples_have_the_exact_posterior(toy, sampler, n_steps, tolerance):
    found, effects = affine_map(toy, sampler, n_steps)
    mean, cov = toy.posterior(X_OBSERVED)
    sd = np.sqrt(np.diag(cov))
    # The start from N(0, I) instead of q(x_T) changes the mean by at most sqrt(abar_T) = 0.006 of it.
    assert np.abs((found - mean) / sd).max() < 0.01
    error = np.einsum("sab,sac->bc", effects, effects) - cov
    assert np.abs(error / np.outer(sd, sd)).max() < tolerance


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samples_are_gaussian(toy, sampler):
    """With keyed noise they are the affine function of it that `affine_map` found, and so as Gaussian as the noise."""
    schedule, n = Schedule(), 20
    predict = toy.optimal_predictor(schedule, *toy.posterior(X_OBSERVED))
    keyed, used = toy.noise_of(n, len(toy.target)), []

    def noise(stream):
        used.append(keyed(stream))
        return used[-1]

    x = sample(sampler, predict, schedule, noise).numpy()
    offset, effects = affine_map(toy, sampler)
    np.testing.assert_allclose(x, offset + np.einsum("sna,sab->nb", np.stack(used), effects), atol=1e-9)


def test_ancestral_and_deterministic_samplers_agree_in_mean(toy):
    means = {sampler: affine_map(toy, sampler)[0] for sampler in SAMPLERS}
    for sampler in SAMPLERS:
        np.testing.assert_allclose(means[sampler], means["ddpm"], atol=0.01)


def test_a_point_is_hit_exactly(toy):
    """With no spread in the data, every sampler must end on it."""
    schedule = Schedule()
    point = torch.tensor([1.5, -2.0, 0.0], dtype=torch.float64)
    for sampler in SAMPLERS:
        x = sample(
            sampler, lambda x, t: schedule.noise_from_x0(x, point.expand_as(x), t), schedule, toy.noise_of(50, 3)
        )
        torch.testing.assert_close(x, point.expand_as(x), atol=1e-6, rtol=0)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_entries_that_are_not_targets_stay_0(toy, sampler):
    """They are 0 for the network at every step, 0 at the end, and do not change the targets."""
    schedule = Schedule()
    target = torch.tensor([1.0, 0.0, 1.0])
    seen = []

    def predict(x, t):
        seen.append(x[:, 1].abs().max().item())
        return 0.3 * x + 0.1

    x = sample(sampler, predict, schedule, toy.noise_of(5, 3, torch.float32), target=target)
    assert max(seen) == 0
    assert (x[:, 1] == 0).all()
    free = sample(sampler, lambda x, t: 0.3 * x + 0.1, schedule, toy.noise_of(5, 3, torch.float32))
    torch.testing.assert_close(x[:, [0, 2]], free[:, [0, 2]], rtol=0, atol=0)


@pytest.mark.parametrize(("sampler", "n_steps", "expected"), [("ddim", 10, 10), ("ddpm", None, 50), ("dpm", 99, 50)])
def test_network_passes_are_those_asked_for(toy, sampler, n_steps, expected):
    calls = []

    def predict(x, t):
        calls.append(t)
        return x

    sample(sampler, predict, Schedule(), toy.noise_of(2, 2), n_steps=n_steps)
    assert len(calls) == expected


def test_each_kick_has_its_own_stream(toy):
    for sampler in SAMPLERS:
        streams = []

        def noise(stream, streams=streams):
            streams.append(stream)
            return torch.zeros(2, 2)

        sample(sampler, lambda x, t: x, Schedule(), noise)
        assert streams[0] == 0
        assert len(set(streams)) == len(streams)
