"""The loss of diffusion training (eq. 8, Algorithm 1)."""

from collections.abc import Callable

from torch import Tensor

from stmcdi_cli.model.diffusion.schedule import Schedule


def diffusion_loss(
    predict: Callable[[Tensor, Tensor], Tensor],
    schedule: Schedule,
    x_0: Tensor,
    target: Tensor,
    t: Tensor,
    noise: Tensor,
) -> Tensor:
    """Squared error of the predicted noise on the targets alone (eq. 8; the middle of Algorithm 1).

    Parameters
    ----------
    predict
        x_t [B, d], which is 0 outside the targets, and t [B] to the noise [B, d].
    schedule
        The forward process.
    x_0, noise
        The data and the noise to blur it with [B, d].
    target
        1 for the hidden entries the loss is about, 0 elsewhere [B, d].
    t
        The diffusion step of each row [B].
    """
    eps_hat = predict(schedule.q_sample(x_0, t, noise) * target, t)
    return ((eps_hat - noise).square() * target).sum() / target.sum().clamp(min=1)
