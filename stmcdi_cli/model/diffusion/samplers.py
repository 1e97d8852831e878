"""Samplers that run the reverse process from pure noise with one trained network: Algorithm 2 and three others.

Every sampler is driven by the same ``predict(x_t, t) -> eps_hat`` and takes its random numbers from ``noise(stream)``,
where stream 0 is the start and every later addition of noise takes the next number. Shapes are [..., d].
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from stmcdi_cli.model.diffusion.schedule import Schedule

Predict = Callable[[Tensor, int], Tensor]
Noise = Callable[[int], Tensor]


def ddpm(predict: Predict, schedule: Schedule, noise: Noise, n_steps: int) -> Tensor:
    """Ancestral sampling (Algorithm 2): at each step draw from q(x_s | x_t, x_0) at the predicted x_0 (eq. 15-16).

    The variance is 1 - abar_t / abar_s (beta_t when no step is skipped), the variance of a reverse step where x_t has
    unit variance, as with standardised expression. That of eq. 15 is correct where x_0 is known; here it makes samples
    about 6 % too narrow.
    """
    steps = schedule.timesteps(n_steps, spacing="uniform")
    x = noise(0)
    for i, (t, s) in enumerate(zip(steps, [*steps[1:], 0], strict=True), start=1):
        x_0 = schedule.x0_from_noise(x, predict(x, t), t)
        x, _ = schedule.posterior(x, x_0, t, s)
        if s > 0:
            x = x + float(np.sqrt(1 - schedule.alpha_bars[t] / schedule.alpha_bars[s])) * noise(i)
    return x


def ddim(predict: Predict, schedule: Schedule, noise: Noise, n_steps: int) -> Tensor:
    """Deterministic sampling: reduce the level of the predicted noise. Only the start is random."""
    steps = schedule.timesteps(n_steps, spacing="uniform")
    x = noise(0)
    for t, s in zip(steps, [*steps[1:], 0], strict=True):
        eps = predict(x, t)
        x = schedule.q_sample(schedule.x0_from_noise(x, eps, t), s, eps)
    return x


def dpm(predict: Predict, schedule: Schedule, noise: Noise, n_steps: int) -> Tensor:
    """DPM-Solver++(2M): DDIM with the x_0 of the middle of each step, extrapolated from the last two predictions.

    The error of a step decreases with the square of its width in the log signal-to-noise ratio: with 15 passes samples
    of a Gaussian are 2 % too wide, and with DDIM 10 % too narrow.
    """
    steps = schedule.timesteps(n_steps, spacing="log_snr")
    levels = schedule.log_snr
    x = noise(0)
    last_x_0, last_width = None, 0.0
    for t, s in zip(steps, [*steps[1:], 0], strict=True):
        x_0 = middle = schedule.x0_from_noise(x, predict(x, t), t)
        width = levels[s] - levels[t]
        if last_x_0 is not None and s > 0:  # the last step, to the data, has infinite width and so no middle
            middle = x_0 + float(width / (2 * last_width)) * (x_0 - last_x_0)
        x = schedule.q_sample(middle, s, schedule.noise_from_x0(x, middle, t))
        last_x_0, last_width = x_0, width
    return x


LANGEVIN_MOVES = 4
"""Langevin moves at each noise level."""
LANGEVIN_MEMORY = 0.5
"""Share of the noise in a sample that one Langevin move keeps."""


def langevin(predict: Predict, schedule: Schedule, noise: Noise, n_steps: int) -> Tensor:
    """Annealed Langevin dynamics (A.3, A.6) with the score -eps_hat / sqrt(1 - abar_t).

    Runs on y = x_t / sqrt(abar_t) = x_0 + sigma_t noise, which needs no rescaling between levels. A move is eq. 11 with
    step size 2 (1 - memory) sigma^2: y + step / 2 * score + (slightly less than sqrt(step)) * noise. The full
    sqrt(step) is correct only in the limit of small steps, and makes samples 15 % too wide at this one. With the width
    used, a point with noise of width sigma keeps that width, for any step.
    """
    n_levels = max(1, min(n_steps // LANGEVIN_MOVES, schedule.T))
    y = None
    stream = 0
    for t in schedule.timesteps(n_levels, spacing="log_snr"):
        root = float(np.sqrt(schedule.alpha_bars[t]))
        sigma = float(np.sqrt(1 - schedule.alpha_bars[t])) / root
        if y is None:
            y = noise(0) / root
        for _ in range(LANGEVIN_MOVES):
            stream += 1
            # score of y: d x_t / d y = sqrt(abar_t) times the score of x_t (eq. 23), which is -eps_hat / sigma
            score = root * schedule.score_from_noise(predict(root * y, t), t)
            kick = float(np.sqrt(1 - LANGEVIN_MEMORY**2)) * sigma
            y = y + (1 - LANGEVIN_MEMORY) * sigma**2 * score + kick * noise(stream)
    assert y is not None
    return y - sigma * predict(root * y, t)  # remove the noise of the last level


@dataclass(frozen=True)
class Sampler:
    """A sampler and its default number of network passes (None: one per diffusion step)."""

    run: Callable[[Predict, Schedule, Noise, int], Tensor]
    n_steps: int | None


SAMPLERS = {
    "ddpm": Sampler(ddpm, None),
    "ddim": Sampler(ddim, 25),
    "dpm": Sampler(dpm, 15),
    "langevin": Sampler(langevin, 100),
}


def sample(
    sampler: str,
    predict: Predict,
    schedule: Schedule,
    noise: Noise,
    *,
    n_steps: int | None = None,
    target: Tensor | None = None,
) -> Tensor:
    """Draw x_0 from noise.

    Parameters
    ----------
    sampler
        A name in `SAMPLERS`.
    predict
        The network: x_t [..., d] and t to the noise it sees in x_t [..., d].
    schedule
        The forward process the network was trained on.
    noise
        Stream number to standard normal numbers [..., d].
    n_steps
        Network passes; None for the sampler's default. More than the sampler can use are reduced to that.
    target
        1 where a value is wanted [..., d]; all others stay 0 from start to end. None: all values are wanted.
    """
    chosen = SAMPLERS[sampler]
    n_steps = n_steps or chosen.n_steps or schedule.T
    if sampler != "langevin":
        n_steps = min(n_steps, schedule.T)
    if target is None:
        return chosen.run(predict, schedule, noise, n_steps)
    return chosen.run(lambda x, t: predict(x, t) * target, schedule, lambda stream: noise(stream) * target, n_steps)
