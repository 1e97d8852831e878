"""The loss of diffusion training (Algorithm 1): on the noise, as in eq. 8, and on v.

Both are losses of one prediction, because noise = sqrt(abar_t) v + sqrt(1 - abar_t) x_t (`Schedule.noise_from_v`)::

    noise_hat - noise = sqrt(abar_t) (v_hat - v)            at the same x_t
    |v_hat - v|^2     = |noise_hat - noise|^2 / abar_t

So the squared error of v is eq. 8 with the weight 1 / abar_t at step t: the steps with much noise count more.
"""

from collections.abc import Callable

from torch import Tensor

from stmcdi_cli.model.diffusion.schedule import Schedule

Predict = Callable[[Tensor, Tensor], Tensor]
"""Network: x_t [B, d] and steps t [B] to its prediction [B, d]."""


def noise_loss(predict: Predict, schedule: Schedule, x_0: Tensor, target: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    """Mean squared error of the predicted noise on the targets only (eq. 8).

    Parameters
    ----------
    predict
        Predicts the noise from x_t, which is 0 outside the targets.
    schedule
        The forward process.
    x_0, noise
        The data, and the noise added to it [B, d].
    target
        1 for the hidden entries to be predicted, 0 elsewhere [B, d].
    t
        The diffusion step of each row [B].
    """
    eps_hat = predict(schedule.q_sample(x_0, t, noise) * target, t)
    return ((eps_hat - noise).square() * target).sum() / target.sum().clamp(min=1)


def v_loss(
    predict: Predict, schedule: Schedule, x_0: Tensor, t: Tensor, noise: Tensor, target: Tensor | None = None
) -> Tensor:
    """Mean squared error of the predicted v, that is of eq. 8 with weight 1 / abar_t, on the targets only.

    Parameters
    ----------
    predict
        Predicts v from x_t.
    schedule, x_0, t, noise, target
        See `noise_loss`; without `target` every entry is one.
    """
    x_t = schedule.q_sample(x_0, t, noise)
    v = schedule.v_from_noise(x_t, noise, t)
    if target is None:
        return (predict(x_t, t) - v).square().mean()
    return ((predict(x_t * target, t) - v).square() * target).sum() / target.sum().clamp(min=1)
