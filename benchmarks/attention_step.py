"""Training step of the paper's denoiser: our attention against a plain port, in turns in one process.

The plain port is ``torch.nn.TransformerEncoderLayer`` with 16 heads of 2 channels over gene tokens, with the same
weights, inside the same network. Prints milliseconds per spot and training step (forward, loss and backward), and how
far the two predictions and gradients are apart.

    OMP_NUM_THREADS=1 python benchmarks/attention_step.py [--genes 1000] [--batch 8] [--rounds 5]
"""

import argparse
import copy
import statistics
import time
from pathlib import Path

import torch
import yaml
from torch import Tensor, nn

import stmcdi_cli
from stmcdi_cli.model.attention.denoiser import Denoiser, TransformerLayer


class PlainLayer(nn.Module):
    """The same layer by PyTorch's own module, tokens first."""

    def __init__(self, ours: TransformerLayer, channels: int, heads: int) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(channels, heads, 2 * channels, 0.0, "gelu", batch_first=True)
        attention = self.layer.self_attn
        pairs = [
            (attention.in_proj_weight, ours.attention.qkv.weight),
            (attention.in_proj_bias, ours.attention.qkv.bias),
            (attention.out_proj.weight, ours.attention.out.weight),
            (attention.out_proj.bias, ours.attention.out.bias),
            (self.layer.norm1.weight, ours.attention_norm.weight),
            (self.layer.norm1.bias, ours.attention_norm.bias),
            (self.layer.linear1.weight, ours.wide.weight),
            (self.layer.linear1.bias, ours.wide.bias),
            (self.layer.linear2.weight, ours.narrow.weight),
            (self.layer.linear2.bias, ours.narrow.bias),
            (self.layer.norm2.weight, ours.norm.weight),
            (self.layer.norm2.bias, ours.norm.bias),
        ]
        with torch.no_grad():
            for plain, value in pairs:
                plain.copy_(value.view_as(plain))

    def forward(self, x: Tensor) -> Tensor:
        """[B, channels, G] in and out."""
        return self.layer(x.mT).mT


def plain_port(network: Denoiser, channels: int, heads: int) -> Denoiser:
    """A copy of the network with PyTorch's layers in place of ours."""
    network = copy.deepcopy(network)
    for block in network.blocks:
        block.transformer = PlainLayer(block.transformer, channels, heads)
    return network


def step(network: Denoiser, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """One training step without the optimizer: prediction and a gradient."""
    network.zero_grad(set_to_none=True)
    condition = network.encoder(inputs["x_co"], inputs["around"])
    x_co, target = inputs["x_co"], inputs["target"]
    out = network(inputs["x_t"], inputs["t"], x_co, 1 - target, target, x_co, condition)
    ((out - inputs["noise"]).square() * inputs["target"]).sum().backward()
    return out.detach(), network.genes.grad


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--genes", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    preset = yaml.safe_load((Path(stmcdi_cli.__file__).parent / "presets" / "paper.yaml").read_text())["network"]

    torch.manual_seed(0)
    network = Denoiser(options.genes, **preset)
    nn.init.normal_(network.output.weight)  # it starts at 0, and would hide every gradient behind it
    networks = {"plain": plain_port(network, preset["channels"], preset["heads"]), "ours": network}
    shape = (options.batch, options.genes)
    target = (torch.rand(shape) < 0.5).float()
    x, noise = torch.randn(2, *shape)
    inputs = {
        "x_t": noise * target,
        "x_co": x * (1 - target),
        "target": target,
        "noise": noise,
        "around": torch.randn(options.batch, preset["hops"], options.genes),
        "t": torch.randint(1, 51, (options.batch,)),
    }
    results = {name: step(each, inputs) for name, each in networks.items()}  # also warms up
    times: dict[str, list[float]] = {name: [] for name in networks}
    for _ in range(options.rounds):
        for name, each in networks.items():
            start = time.perf_counter()
            step(each, inputs)
            times[name].append((time.perf_counter() - start) / options.batch * 1e3)
    for name, values in times.items():
        print(f"{name}: {statistics.median(values):.1f} ms per spot ({min(values):.1f} to {max(values):.1f})")
    ratios = [plain / ours for plain, ours in zip(times["plain"], times["ours"], strict=True)]
    print(f"plain / ours: {statistics.median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f})")
    for what, plain, ours in zip(("predictions", "gradients"), results["plain"], results["ours"], strict=True):
        print(f"{what} differ by at most {(plain - ours).abs().max() / plain.abs().max():.1e} of the largest")


if __name__ == "__main__":
    main()
