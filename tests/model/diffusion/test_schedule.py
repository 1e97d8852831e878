import numpy as np
import pytest
import torch

from stmcdi_cli.model.diffusion.schedule import Schedule


@pytest.fixture
def schedule():
    return Schedule()


def test_quadratic_schedule_ends_at_its_bounds_and_matches_eq_24(schedule):
    assert schedule.betas[1] == pytest.approx(1e-4)
    assert schedule.betas[50] == pytest.approx(0.5)
    t = 17
    expected = ((50 - t) / 49 * np.sqrt(1e-4) + (t - 1) / 49 * np.sqrt(0.5)) ** 2
    assert schedule.betas[t] == pytest.approx(expected, rel=1e-12)
    assert schedule.alpha_bars[3] == pytest.approx(np.prod(1 - schedule.betas[1:4]), rel=1e-12)
    assert schedule.alpha_bars[0] == 1


@pytest.mark.parametrize("arguments", [{"T": 1}, {"beta_1": 0}, {"beta_T": 1.0}, {"beta_1": 0.5, "beta_T": 0.1}])
def test_impossible_schedules_are_refused(arguments):
    with pytest.raises(ValueError, match="Expected"):
        Schedule(**arguments)


def test_closed_form_has_the_moments_of_the_chain(schedule):
    """Eq. 10 against eq. 9 applied step by step to many particles."""
    n, t = 200_000, 20
    generator = torch.Generator().manual_seed(1)
    x_0 = torch.full((n,), 1.7, dtype=torch.float64)
    chain = x_0.clone()
    for s in range(1, t + 1):
        step = torch.randn(n, generator=generator, dtype=torch.float64)
        chain = np.sqrt(1 - schedule.betas[s]) * chain + np.sqrt(schedule.betas[s]) * step
    closed = schedule.q_sample(x_0, t, torch.randn(n, generator=generator, dtype=torch.float64))
    sd = np.sqrt(1 - schedule.alpha_bars[t])
    for x in (chain, closed):
        assert x.mean().item() == pytest.approx(np.sqrt(schedule.alpha_bars[t]) * 1.7, abs=5 * sd / np.sqrt(n))
        assert x.std().item() == pytest.approx(sd, rel=5 / np.sqrt(2 * n))


def test_each_row_may_have_its_own_step(schedule):
    x_0, noise = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([1, 25, 50])
    together = schedule.q_sample(x_0, t, noise)
    for row, step in enumerate(t.tolist()):
        torch.testing.assert_close(together[row], schedule.q_sample(x_0[row], step, noise[row]))


@pytest.mark.parametrize(("t", "s"), [(2, 1), (30, 29), (50, 49), (50, 10), (7, 0)])
def test_posterior_is_bayes_rule(schedule, t, s):
    """Eq. 13-16 against the product of the two densities, on a grid."""
    x_0, x_t = 0.8, -0.4
    abar_s, ratio = schedule.alpha_bars[s], schedule.alpha_bars[t] / schedule.alpha_bars[s]
    mean, variance = schedule.posterior(torch.tensor(x_t), torch.tensor(x_0), t, s)
    if s == 0:
        assert mean.item() == pytest.approx(x_0, rel=1e-6)
        assert variance == 0
        return
    x_s = np.linspace(-8, 8, 400_001)
    log_density = -0.5 * (x_s - np.sqrt(abar_s) * x_0) ** 2 / (1 - abar_s)  # q(x_s | x_0)
    log_density += -0.5 * (x_t - np.sqrt(ratio) * x_s) ** 2 / (1 - ratio)  # q(x_t | x_s)
    weight = np.exp(log_density - log_density.max())
    weight /= weight.sum()
    brute_mean = (weight * x_s).sum()
    assert mean.item() == pytest.approx(brute_mean, abs=1e-6)
    assert variance == pytest.approx((weight * (x_s - brute_mean) ** 2).sum(), rel=1e-4)
    if s == t - 1:  # as printed in eq. 15
        expected = (1 - abar_s) / (1 - schedule.alpha_bars[t]) * schedule.betas[t]
        assert variance == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("t", [1, 20, 50])
def test_noise_x0_v_and_score_are_forms_of_one_another(schedule, t):
    x_0, noise = torch.randn(2, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    abar = schedule.alpha_bars[t]
    x_t = schedule.q_sample(x_0, t, noise)
    v = np.sqrt(abar) * noise - np.sqrt(1 - abar) * x_0
    close = {"rtol": 1e-7, "atol": 1e-9}
    torch.testing.assert_close(schedule.x0_from_noise(x_t, noise, t), x_0, **close)
    torch.testing.assert_close(schedule.noise_from_x0(x_t, x_0, t), noise, **close)
    torch.testing.assert_close(schedule.v_from_noise(x_t, noise, t), v, **close)
    torch.testing.assert_close(schedule.noise_from_v(x_t, v, t), noise, **close)
    torch.testing.assert_close(schedule.x0_from_noise(x_t, schedule.noise_from_v(x_t, v, t), t), x_0, **close)

    x = x_t.clone().requires_grad_()
    log_q = torch.distributions.Normal(np.sqrt(abar) * x_0, np.sqrt(1 - abar)).log_prob(x).sum()
    torch.testing.assert_close(schedule.score_from_noise(noise, t), torch.autograd.grad(log_q, x)[0], **close)


@pytest.mark.parametrize("spacing", ["log_snr", "uniform"])
@pytest.mark.parametrize("n_steps", [2, 3, 10, 25, 49, 50, None])
def test_timesteps_fall_from_T_to_1_without_repeats(schedule, n_steps, spacing):
    steps = schedule.timesteps(n_steps, spacing=spacing)
    assert len(steps) == (n_steps or 50)
    assert steps[0] == 50
    assert steps[-1] == 1
    assert all(a > b for a, b in zip(steps, steps[1:], strict=False))


def test_too_many_steps_are_refused(schedule):
    with pytest.raises(ValueError, match="from 1 to 50"):
        schedule.timesteps(51)
