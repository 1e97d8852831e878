"""The paper's denoiser: DiffWave-like residual blocks with attention over gene tokens (appendix C).

Tokens are kept channels first, [B, channels, G], so that heads of attention are views and no tensor is transposed.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stmcdi_cli.model.attention.graph_encoder import GraphEncoder
from stmcdi_cli.model.attention.planar_attention import planar_attention


class Channels(nn.Linear):
    """A linear map over channels, the same for every token: [B, in, G] to [B, out, G]."""

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return torch.baddbmm(self.bias[:, None], self.weight.expand(len(x), -1, -1), x)


class ChannelNorm(nn.Module):
    """Layer norm of each token over its channels: [B, channels, G]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels, 1))
        self.bias = nn.Parameter(torch.zeros(channels, 1))

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        x = x - x.mean(1, keepdim=True)
        return x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-5) * self.weight + self.bias


class Attention(nn.Module):
    """Softmax self-attention over tokens: [B, channels, G]."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = Channels(channels, 3 * channels)
        self.out = Channels(channels, channels)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        q, k, v = self.qkv(x).unflatten(1, (3, self.heads, -1)).unbind(1)  # [B, heads, channels / heads, G]
        width = q.shape[2]
        if width == 2 and x.device.type == "cpu":
            mixed = planar_attention(q, k, v)
        else:
            # Fused kernels need head widths that are multiples of 8; channels of zeros do not change the attention.
            q, k, v = (F.pad(part.mT, (0, -width % 8)).to(_precision(x)) for part in (q, k, v))
            mixed = F.scaled_dot_product_attention(q, k, v, scale=1 / math.sqrt(width))[..., :width].mT.to(x.dtype)
        return self.out(mixed.flatten(1, 2))


def _precision(x: Tensor) -> torch.dtype:
    """Number format of attention: half precision on a GPU, where a step then takes a sixth of the time (docs/paper.md).

    The format with more digits cannot hold gradients as small as those of a mean over many entries. GPUs before Ampere
    have no fast attention in the other one.
    """
    if not x.is_cuda:
        return x.dtype
    if not torch.is_grad_enabled():
        return torch.float16
    return torch.bfloat16 if torch.cuda.get_device_capability(x.device) >= (8, 0) else x.dtype


class TransformerLayer(nn.Module):
    """Attention, then a two-layer network per token, each added to its input and normalised."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.attention = Attention(channels, heads)
        self.attention_norm = ChannelNorm(channels)
        self.wide = Channels(channels, 2 * channels)
        self.narrow = Channels(2 * channels, channels)
        self.norm = ChannelNorm(channels)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        x = self.attention_norm(x + self.attention(x))
        return self.norm(x + self.narrow(F.gelu(self.wide(x))))


class ResidualBlock(nn.Module):
    """One residual layer: diffusion step in, attention over genes, side information, gate, residual and skip."""

    def __init__(self, channels: int, heads: int, step_embedding: int, gene_embedding: int, condition: int) -> None:
        super().__init__()
        self.step = nn.Linear(step_embedding, channels)
        self.transformer = TransformerLayer(channels, heads)
        self.mid = Channels(channels, 2 * channels)
        # One linear map of (gene embedding, graph condition, mask), split by its inputs: each part is computed at its
        # own size and broadcast, instead of building all three for each gene of each spot.
        self.side_gene = nn.Linear(gene_embedding, 2 * channels, bias=False)
        self.side_condition = nn.Linear(condition, 2 * channels, bias=False)
        self.side_mask = nn.Linear(1, 2 * channels, bias=False)
        self.out = Channels(channels, 2 * channels)

    def forward(self, x: Tensor, step: Tensor, genes: Tensor, condition: Tensor, visible: Tensor):  # noqa: D102
        y = self.transformer(x + self.step(step)[:, :, None])
        y = self.mid(y) + self.side_gene(genes).T + self.side_condition(condition)[:, :, None]
        y = torch.addcmul(y, self.side_mask.weight, visible[:, None])
        gate, signal = y.chunk(2, 1)
        residual, skip = self.out(torch.sigmoid(gate) * torch.tanh(signal)).chunk(2, 1)
        return (x + residual) / math.sqrt(2), skip


class StepEmbedding(nn.Module):
    """Sines and cosines of the diffusion step through two layers: t [B] to [B, width]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        # From one radian per step down to one per 10^4 steps.
        self.rates: Tensor
        self.register_buffer("rates", 10.0 ** -torch.linspace(0, 4, width // 2), persistent=False)
        self.layers = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())

    def forward(self, t: Tensor) -> Tensor:  # noqa: D102
        angle = t[:, None] * self.rates
        return self.layers(torch.cat([torch.sin(angle), torch.cos(angle)], 1))


class Denoiser(nn.Module):
    """The network eps_theta(x_t, t | x_co, mask, graph condition), with one token per gene.

    Its output is v (`Schedule.noise_from_v`): eps_hat = sqrt(1 - abar_t) x_t + sqrt(abar_t) v. The loss is still that
    of eps_hat. A network with the output eps_hat would have to learn to copy x_t, and its errors at t = T would be
    multiplied by 1 / sqrt(abar_T) = 170 in x_0. With v = 0 the model is a Gaussian of unit variance.

    Parameters
    ----------
    n_genes
        Genes.
    layers, channels, heads
        Residual layers, their width, and heads of attention.
    step_embedding, gene_embedding
        Widths of the embeddings of the diffusion step and of the genes.
    hops, graph_hidden, graph_condition
        Rings of neighbours, and widths of the graph encoder and its result.
    expects
        Whether the network sees what a factor model expects of each entry (`Expectation`).
    """

    def __init__(
        self,
        n_genes: int,
        *,
        layers: int,
        channels: int,
        heads: int,
        step_embedding: int,
        gene_embedding: int,
        hops: int,
        graph_hidden: int,
        graph_condition: int,
        expects: bool = False,
    ) -> None:
        super().__init__()
        self.expects = expects
        self.encoder = GraphEncoder(n_genes, hops, graph_hidden, graph_condition)
        self.genes = nn.Parameter(torch.randn(n_genes, gene_embedding))
        self.step = StepEmbedding(step_embedding)
        self.input = Channels(4 if expects else 3, channels)
        self.blocks = nn.ModuleList(
            ResidualBlock(channels, heads, step_embedding, gene_embedding, graph_condition) for _ in range(layers)
        )
        self.skip = Channels(channels, channels)
        self.output = Channels(channels, 1)
        nn.init.zeros_(self.output.weight)

    def reset_output(self) -> None:
        """Set the output layer to 0, so that v is 0 for every input."""
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        x_co: Tensor,
        visible: Tensor,
        target: Tensor,
        expected: Tensor,
        condition: Tensor,
    ) -> Tensor:
        """Predict v = sqrt(abar_t) noise - sqrt(1 - abar_t) x_0.

        Parameters
        ----------
        x_t
            Noisy targets, 0 elsewhere [B, G].
        t
            Diffusion step of each row [B].
        x_co
            Visible expression, 0 elsewhere [B, G].
        visible, target
            1 where `x_co` and where `x_t` have values; an entry may be in neither [B, G].
        expected
            Expression that a factor model expects [B, G]; not used without one.
        condition
            Output of `encoder` for the visible expression of the spot and its neighbours [B, graph_condition].
        """
        given = [x_t, x_co, target, expected] if self.expects else [x_t, x_co, target]
        x = F.relu(self.input(torch.stack(given, 1)))
        step = self.step(t)
        total: Tensor | float = 0.0
        for block in self.blocks:
            x, skip = block(x, step, self.genes, condition, visible)
            total = total + skip
        x = F.relu(self.skip(total / math.sqrt(len(self.blocks))))
        return self.output(x)[:, 0]
