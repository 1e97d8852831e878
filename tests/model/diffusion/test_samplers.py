import numpy as np
import pytest
import torch

from stmcdi_cli.model.diffusion.samplers import SAMPLERS, sample
from stmcdi_cli.model.diffusion.schedule import Schedule

N = 40_000
X_OBSERVED = np.array([1.2, -0.7])


def draw(toy, sampler, n=N, **options):
    schedule = Schedule()
    mean, cov = toy.posterior(X_OBSERVED)
    predict = toy.optimal_predictor(schedule, mean, cov)
    return sample(sampler, predict, schedule, toy.noise_of(n, len(mean)), **options).numpy(), mean, cov


# (passes, tolerance of the covariance: what the sampler's own discretisation may add to Monte-Carlo error)
CASES = [
    ("ddpm", None, 0.06),
    ("ddim", 50, 0.10),
    ("ddim", 25, 0.16),
    ("dpm", 10, 0.12),
    ("dpm", None, 0.06),
    ("dpm", 25, 0.04),
    ("langevin", None, 0.04),
]


@pytest.mark.parametrize(("sampler", "n_steps", "tolerance"), CASES)
def test_samples_have_the_exact_posterior(toy, sampler, n_steps, tolerance):
    x, mean, cov = draw(toy, sampler, n_steps=n_steps)
    sd = np.sqrt(np.diag(cov))
    # The start from N(0, I) instead of q(x_T) moves the mean by at most sqrt(abar_T) = 0.006 of it.
    assert np.abs((x.mean(0) - mean) / sd).max() < 5 / np.sqrt(N) + 0.01
    ratio = np.cov(x.T) / np.outer(sd, sd) - cov / np.outer(sd, sd)
    assert np.abs(ratio).max() < tolerance + 5 * np.sqrt(2 / N)


def test_samples_have_the_shape_of_a_gaussian(toy):
    x, mean, cov = draw(toy, "dpm", n_steps=25)
    z = (x - mean) / np.sqrt(np.diag(cov))
    assert np.abs((z**3).mean(0)).max() < 5 * np.sqrt(15 / N)


def test_ancestral_and_deterministic_samplers_agree_in_mean(toy):
    means = {sampler: draw(toy, sampler)[0].mean(0) for sampler in SAMPLERS}
    for sampler in SAMPLERS:
        np.testing.assert_allclose(means[sampler], means["ddpm"], atol=0.04)


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
def test_entries_that_are_no_targets_stay_out(toy, sampler):
    """They are 0 for the network at every step, 0 at the end, and move no target."""
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
