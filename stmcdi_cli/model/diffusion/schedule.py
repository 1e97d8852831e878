"""The forward process: the quadratic noise schedule (eq. 24), q(x_t | x_0) and q(x_{t-1} | x_t, x_0) (eq. 9-16)."""

import numpy as np
import torch
from torch import Tensor

Step = int | Tensor
"""A diffusion step t, counted from 1: one number for all rows, or a tensor with the step of each row of a batch."""


class Schedule:
    """Noise levels t = 1..T of the diffusion; t = 0 is the data.

    Parameters
    ----------
    T
        Number of diffusion steps.
    beta_1
        Variance added by the first step.
    beta_T
        Variance added by the last step.

    Attributes
    ----------
    betas, alphas, alpha_bars
        float64, T + 1 long so that index t means step t: beta_t, 1 - beta_t and abar_t = prod_s (1 - beta_s). Index 0
        is the data: 0, 1 and 1.
    """

    def __init__(self, T: int = 50, beta_1: float = 1e-4, beta_T: float = 0.5) -> None:
        if T < 2:
            raise ValueError(f"Expected `T` to be at least 2, found `{T}`.")
        if not 0 < beta_1 <= beta_T < 1:
            raise ValueError(f"Expected 0 < beta_1 <= beta_T < 1, found `{beta_1}` and `{beta_T}`.")
        self.T = T
        t = np.arange(1, T + 1, dtype=np.float64)
        betas = ((T - t) / (T - 1) * np.sqrt(beta_1) + (t - 1) / (T - 1) * np.sqrt(beta_T)) ** 2  # eq. 24
        self.betas = np.concatenate([[0.0], betas])
        self.alphas = 1 - self.betas
        self.alpha_bars = np.cumprod(self.alphas)
        self._on_device: dict[torch.device, Tensor] = {}

    @property
    def log_snr(self) -> np.ndarray:
        """Half the log signal-to-noise ratio, log sqrt(abar_t / (1 - abar_t)), of t = 1..T (index 0: infinity)."""
        with np.errstate(divide="ignore"):
            return 0.5 * (np.log(self.alpha_bars) - np.log1p(-self.alpha_bars))

    def timesteps(self, n_steps: int | None = None, *, spacing: str = "log_snr") -> list[int]:
        """Decreasing subsequence of T..1, from T to 1, for a sampler with `n_steps` network passes.

        Parameters
        ----------
        n_steps
            Number of steps; None for all T.
        spacing
            ``"log_snr"``: at equal distances in the log signal-to-noise ratio, on whose width alone the error of a
            high-order step depends; or ``"uniform"``: at equal distances in t, with more passes where there is much
            noise, which is better for first-order steps.
        """
        n_steps = self.T if n_steps is None else n_steps
        if not 1 <= n_steps <= self.T:
            raise ValueError(f"Expected `n_steps` to be from 1 to {self.T}, found `{n_steps}`.")
        levels = self.log_snr[1:] if spacing == "log_snr" else -np.arange(1.0, self.T + 1)
        wanted = np.linspace(levels[-1], levels[0], n_steps)
        steps = np.abs(levels[None, :] - wanted[:, None]).argmin(1) + 1
        for i in range(1, n_steps):  # a step that is taken already moves down to the next free one,
            steps[i] = min(steps[i], steps[i - 1] - 1)
        for i in range(n_steps):  # and all move up again where no step below is free
            steps[i] = max(steps[i], n_steps - i)
        return [int(t) for t in steps]

    def alpha_bar(self, t: Step, like: Tensor) -> Tensor:
        """abar_t, on the device of `like` and shaped to multiply it; float64 where `t` is one number."""
        if isinstance(t, int):
            return torch.tensor(self.alpha_bars[t])
        if like.device not in self._on_device:  # once: a GPU would wait for each copy
            self._on_device[like.device] = torch.from_numpy(self.alpha_bars).to(like.device)
        abar = self._on_device[like.device][t.to(like.device)].to(like.dtype)
        return abar.reshape(t.shape + (1,) * (like.ndim - t.ndim))

    def q_sample(self, x_0: Tensor, t: Step, noise: Tensor) -> Tensor:
        """Draw x_t from q(x_t | x_0) = N(sqrt(abar_t) x_0, (1 - abar_t) I) in closed form (eq. 10)."""
        abar = self.alpha_bar(t, x_0)
        return abar.sqrt() * x_0 + (1 - abar).sqrt() * noise

    def posterior(self, x_t: Tensor, x_0: Tensor, t: int, s: int | None = None) -> tuple[Tensor, float]:
        """Mean and variance of q(x_s | x_t, x_0) (eq. 13-16); `s` is t - 1 unless a sampler skips steps.

        With s = t - 1, abar_t / abar_s is alpha_t and one minus it is beta_t.
        """
        s = t - 1 if s is None else s
        abar_t, abar_s = self.alpha_bars[t], self.alpha_bars[s]
        alpha = abar_t / abar_s
        from_x_0 = np.sqrt(abar_s) * (1 - alpha) / (1 - abar_t)
        from_x_t = np.sqrt(alpha) * (1 - abar_s) / (1 - abar_t)
        mean = float(from_x_0) * x_0 + float(from_x_t) * x_t
        return mean, float((1 - alpha) * (1 - abar_s) / (1 - abar_t))

    # Four equivalent forms of one prediction: the noise, the data, v and the score.

    def x0_from_noise(self, x_t: Tensor, noise: Tensor, t: Step) -> Tensor:
        """The x_0 that `noise` turned into `x_t` (eq. 10 solved for x_0)."""
        abar = self.alpha_bar(t, x_t)
        return (x_t - (1 - abar).sqrt() * noise) / abar.sqrt()

    def noise_from_x0(self, x_t: Tensor, x_0: Tensor, t: Step) -> Tensor:
        """The noise that turned `x_0` into `x_t` (eq. 10 solved for the noise)."""
        abar = self.alpha_bar(t, x_t)
        return (x_t - abar.sqrt() * x_0) / (1 - abar).sqrt()

    def v_from_noise(self, x_t: Tensor, noise: Tensor, t: Step) -> Tensor:
        """The v = sqrt(abar_t) noise - sqrt(1 - abar_t) x_0 that belongs to `noise`."""
        abar = self.alpha_bar(t, x_t)
        return (noise - (1 - abar).sqrt() * x_t) / abar.sqrt()

    def noise_from_v(self, x_t: Tensor, v: Tensor, t: Step) -> Tensor:
        """The noise that belongs to `v`."""
        abar = self.alpha_bar(t, x_t)
        return abar.sqrt() * v + (1 - abar).sqrt() * x_t

    def score_from_noise(self, noise: Tensor, t: Step) -> Tensor:
        """The score, grad log q(x_t) = -noise / sqrt(1 - abar_t) (eq. 23)."""
        return -noise / (1 - self.alpha_bar(t, noise)).sqrt()
