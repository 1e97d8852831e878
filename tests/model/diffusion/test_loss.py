import pytest
import torch

from stmcdi_cli.model.diffusion.loss import noise_loss, v_loss
from stmcdi_cli.model.diffusion.schedule import Schedule

SHAPE = (40, 3)


@pytest.fixture
def inputs():
    generator = torch.Generator().manual_seed(0)
    x_0, noise, weights = torch.randn(3, *SHAPE, generator=generator, dtype=torch.float64)
    return Schedule(), x_0, noise, weights


@pytest.mark.parametrize("t", [1, 10, 30, 50])
def test_the_loss_in_v_is_eq_8_divided_by_abar(inputs, t):
    """For one prediction, taken as v and as noise; not eq. 8 itself, and not eq. 8 times abar_t."""
    schedule, x_0, noise, weights = inputs
    steps = torch.full((len(x_0),), t)

    def predict_v(x_t, t):
        return 0.3 * x_t + weights

    def predict_noise(x_t, t):
        return schedule.noise_from_v(x_t, predict_v(x_t, t), t)

    eq_8 = noise_loss(predict_noise, schedule, x_0, torch.ones(SHAPE), steps, noise)
    in_v = v_loss(predict_v, schedule, x_0, steps, noise)
    assert eq_8.item() == pytest.approx(schedule.alpha_bars[t] * in_v.item(), rel=1e-9)


def test_the_loss_in_v_weighs_every_row_by_its_own_step(inputs):
    schedule, x_0, noise, _ = inputs
    steps = torch.arange(1, len(x_0) + 1)
    v_0 = v_loss(lambda x_t, t: torch.zeros_like(x_t), schedule, x_0, steps, noise)
    rows = [
        noise_loss(
            lambda x_t, t: schedule.noise_from_v(x_t, torch.zeros_like(x_t), t),
            schedule,
            x_0[i : i + 1],
            torch.ones(1, 3),
            steps[i : i + 1],
            noise[i : i + 1],
        )
        / schedule.alpha_bars[steps[i]]
        for i in range(len(x_0))
    ]
    assert v_0.item() == pytest.approx(torch.stack(rows).mean().item(), rel=1e-9)


def test_the_true_prediction_has_no_loss(inputs):
    schedule, x_0, noise, _ = inputs
    steps = torch.arange(1, len(x_0) + 1)
    assert noise_loss(lambda x_t, t: noise, schedule, x_0, torch.ones(SHAPE), steps, noise) == 0
    true_v = schedule.v_from_noise(schedule.q_sample(x_0, steps, noise), noise, steps)
    assert v_loss(lambda x_t, t: true_v, schedule, x_0, steps, noise) == 0


def test_without_a_target_there_is_no_loss(inputs):
    schedule, x_0, noise, _ = inputs
    steps = torch.full((len(x_0),), 20)
    assert noise_loss(lambda x_t, t: x_t, schedule, x_0, torch.zeros(SHAPE), steps, noise) == 0  # not NaN
