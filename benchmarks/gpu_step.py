"""Training steps of the paper's network on a GPU: milliseconds per step, by arithmetic and by how it is launched.

A step is what `train` does: a batch put together, forward, loss, backward, Adam. ``plain`` is single precision as
`train` computes; ``tf32`` and ``bf16`` round products; ``graph`` replays a recorded step (CUDA graph); ``compile`` is
`torch.compile`. Prints, as JSON lines, the time of a step, spots per second, the share of that time in which the GPU
computes, its memory, and how far the predictions are from those of ``plain``.

    python -m benchmarks.gpu_step [--genes 1000] [--batch 64] [--modes plain tf32 bf16 graph compile]
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
from torch import nn

import stmcdi_cli
from stmcdi_cli.model.attention.denoiser import Denoiser
from stmcdi_cli.model.diffusion.loss import noise_loss
from stmcdi_cli.model.diffusion.schedule import Schedule

MODES = ("plain", "tf32", "bf16", "graph", "graph-bf16", "compile", "compile-bf16")


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
    exact = None
    for mode in options.modes:
        try:
            torch.backends.cuda.matmul.allow_tf32 = mode == "tf32"
            step, predict = prepare(mode, copy.deepcopy(network), schedule, inputs)
            with torch.no_grad():
                out = predict().float().clone()
            exact = out if exact is None else exact
            result = timed(step, options.steps)
            result |= {"mode": mode, "genes": options.genes, "batch": options.batch}
            result["spots_per_s"] = options.batch / result["ms"] * 1e3
            result["differs"] = float((out - exact).abs().max() / exact.abs().max())
        except Exception as error:  # a mode that is not to be had here does not stop the others
            result = {"mode": mode, "error": f"{type(error).__name__}: {str(error)[:300]}"}
        print(json.dumps(result), flush=True)
        torch.cuda.empty_cache()


def prepare(mode: str, network: Denoiser, schedule: Schedule, inputs: dict) -> tuple[Callable, Callable]:
    """A training step and a prediction of the network in a mode."""
    graphed = mode.startswith("graph")
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, weight_decay=0, foreach=True, capturable=graphed)
    half = mode.endswith("bf16")
    forward = torch.compile(network) if mode.startswith("compile") else network

    def context() -> AbstractContextManager:
        return torch.autocast("cuda", torch.bfloat16) if half else nullcontext()

    def predicted(x_t, t):
        with context():
            x_co = inputs["x_0"] * (1 - inputs["target"])
            condition = network.encoder(x_co, inputs["around"])
            v = forward(x_t, t, x_co, 1 - inputs["target"], inputs["target"], condition)
        return schedule.noise_from_v(x_t, v.float(), t)

    def loss():
        return noise_loss(predicted, schedule, *(inputs[name] for name in ("x_0", "target", "t", "eps")))

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss().backward()
        optimizer.step()

    def predict():
        return predicted(inputs["eps"] * inputs["target"], inputs["t"])

    if not graphed:
        return step, predict
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
    return recorded.replay, predict


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
