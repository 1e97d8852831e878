"""Training steps of the paper's network on a GPU: milliseconds, by arithmetic and by how the operations are started.

A step is forward, loss, backward and Adam on one batch that lies there. ``single`` computes in single precision;
``half`` has attention in half precision, as `train` does; in ``bf16`` all products are. They start each operation by
itself; ``graph`` modes replay a recorded step (CUDA graph). Prints, as JSON lines, the time of a step, spots per
second, the share of the time in which the GPU computes, its memory, and how far predictions are from those of the
first mode.

    python -m benchmarks.gpu_step [--genes 1000] [--batch 64] [--modes single half bf16 graph-single graph-bf16]
"""

import argparse
import copy
import json
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
import yaml
from torch import Tensor, nn

import stmcdi_cli
from stmcdi_cli.model.attention import denoiser
from stmcdi_cli.model.attention.denoiser import Denoiser
from stmcdi_cli.model.diffusion.loss import noise_loss
from stmcdi_cli.model.diffusion.schedule import Schedule

MODES = ("single", "half", "bf16", "graph-single", "graph-half", "graph-bf16")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--genes", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--modes", nargs="+", choices=MODES, default=MODES)
    options = parser.parse_args()
    preset = yaml.safe_load((Path(stmcdi_cli.__file__).parent / "presets" / "paper.yaml").read_text())["network"]
    device = torch.device("cuda")
    torch.manual_seed(0)
    network = Denoiser(options.genes, **preset).to(device)
    nn.init.normal_(network.output.weight)
    schedule = Schedule()
    shape = (options.batch, options.genes)
    inputs = {
        "x_0": torch.randn(shape, device=device),
        "target": (torch.rand(shape, device=device) < 0.5).float(),
        "eps": torch.randn(shape, device=device),
        "around": torch.randn(options.batch, preset["hops"], options.genes, device=device),
        "t": torch.randint(1, 51, (options.batch,), device=device),
    }
    exact, half_precision = None, denoiser._precision
    for mode in options.modes:
        if mode.endswith("single"):
            denoiser._precision = lambda x: x.dtype
        else:
            denoiser._precision = half_precision
        step, out = prepare(mode, copy.deepcopy(network), schedule, inputs)
        exact = out if exact is None else exact
        result = timed(step, options.steps)
        result |= {"mode": mode, "genes": options.genes, "batch": options.batch}
        result["spots_per_s"] = options.batch / result["ms"] * 1e3
        result["differs"] = float((out - exact).abs().max() / exact.abs().max())
        print(json.dumps(result), flush=True)
        torch.cuda.empty_cache()


def prepare(mode: str, network: Denoiser, schedule: Schedule, inputs: dict) -> tuple[Callable, Tensor]:
    """A training step in a mode, and what the network predicts before it."""
    graphed = mode.startswith("graph")
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, weight_decay=0, foreach=True, capturable=graphed)
    half = mode.endswith("bf16")

    def context() -> AbstractContextManager:
        return torch.autocast("cuda", torch.bfloat16) if half else nullcontext()

    def predicted(x_t, t):
        with context():
            x_co = inputs["x_0"] * (1 - inputs["target"])
            condition = network.encoder(x_co, inputs["around"])
            v = network(x_t, t, x_co, 1 - inputs["target"], inputs["target"], x_co, condition)
        return schedule.noise_from_v(x_t, v.float(), t)

    def loss():
        return noise_loss(predicted, schedule, *(inputs[name] for name in ("x_0", "target", "t", "eps")))

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss().backward()
        optimizer.step()

    with torch.no_grad():
        out = predicted(inputs["eps"] * inputs["target"], inputs["t"])
    if not graphed:
        return step, out
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    recorded = torch.cuda.CUDAGraph()
    optimizer.zero_grad(set_to_none=True)
    with torch.cuda.graph(recorded):
        loss().backward()
        optimizer.step()
    return recorded.replay, out


def timed(step: Callable[[], None], n: int) -> dict:
    """Time and memory of a step, and the share of the time in which kernels run."""
    for _ in range(5):
        step()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    for _ in range(n):
        step()
    torch.cuda.synchronize()
    ms = (time.perf_counter() - start) / n * 1e3
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        step()
        torch.cuda.synchronize()
    busy = sum(event.self_device_time_total for event in profile.key_averages()) / 1e3
    return {"ms": ms, "busy": busy / ms, "gib": torch.cuda.max_memory_allocated() / 2**30}


if __name__ == "__main__":
    main()
