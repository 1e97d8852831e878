"""How many network passes a draw needs: ``python -m benchmarks.sampler_steps``.

On the default's schedule and a target of which the perfect network is known: a skewed mixture of two Gaussians with
mean 0 and variance 1, far less Gaussian than any posterior met in real tissues. Prints the Wasserstein-1 distance of
the draws from the target by sampler and number of passes; the last line is what perfect draws of that number come to.
"""

import argparse
from importlib import resources

import numpy as np
import torch
import yaml

from stmcdi_cli.model.diffusion import keyed_noise as keyed
from stmcdi_cli.model.diffusion.samplers import sample
from stmcdi_cli.model.diffusion.schedule import Schedule

N = 50_000
WEIGHTS, SD = np.array([0.3, 0.7]), 0.4
MEANS = np.sqrt((1 - SD**2) / (WEIGHTS[0] * WEIGHTS[1])) * np.array([-WEIGHTS[1], WEIGHTS[0]])
PASSES = {"ddpm": (50, 25, 10), "ddim": (50, 25, 15, 10, 5), "dpm": (50, 25, 15, 10, 6, 4, 2)}


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    preset = yaml.safe_load((resources.files("stmcdi_cli") / "presets" / "default.yaml").read_text("utf-8"))
    schedule = Schedule(**preset["diffusion"])

    def predict(u_t: torch.Tensor, t: int) -> torch.Tensor:
        """E[noise | u_t], exactly."""
        abar = float(schedule.alpha_bars[t])
        variance = abar * SD**2 + 1 - abar
        off = u_t - np.sqrt(abar) * torch.from_numpy(MEANS)
        share = torch.softmax(torch.from_numpy(np.log(WEIGHTS)) - off**2 / (2 * variance), dim=1)
        return np.sqrt(1 - abar) * (share * off).sum(1, keepdim=True) / variance

    def noise(stream: int) -> torch.Tensor:
        return torch.from_numpy(keyed.normal(0, np.arange(N), np.array([0]), stream, 1)[0]).double()

    random = np.random.default_rng(0)
    target, another = (np.sort(random.choice(MEANS, N, p=WEIGHTS) + SD * random.standard_normal(N)) for _ in range(2))
    print("sampler\tpasses\tdistance")
    for sampler, numbers in PASSES.items():
        for n_steps in numbers:
            u = np.sort(sample(sampler, predict, schedule, noise, n_steps=n_steps).numpy().ravel())
            print(f"{sampler}\t{n_steps}\t{np.mean(np.abs(u - target)):.4f}", flush=True)
    print(f"perfect\t\t{np.mean(np.abs(another - target)):.4f}")


if __name__ == "__main__":
    main()
