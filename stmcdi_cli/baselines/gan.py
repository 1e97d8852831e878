"""A generative adversarial network on the graph encoder's latent (appendix F; GAIN, Yoon et al. 2018).

The generator predicts the hidden entries from the latent and noise. The discriminator sees the filled matrix and
classifies each entry as observed or generated; a hint gives it the truth for most entries. The generator is trained to
be classified as observed, and to be close to the targets.
"""

import torch
from torch import Tensor, nn

from stmcdi_cli.baselines import base, latent_network
from stmcdi_cli.model.training.adamw import AdamW

WIDTH = 128
NOISE = 8
DROPOUT = 0.4
HINT = 0.9
"""Share of entries for which the hint says whether they were observed."""
ALPHA = 10.0
"""Weight of the squared error relative to the adversarial loss."""
N_DRAWS = 4


class AdversarialNetwork(latent_network.LatentNetwork):
    """Generator from latent and noise to standardised expression [B, G], and its discriminator."""

    def __init__(self, n_inputs: int, n_genes: int) -> None:
        super().__init__()
        self.generator = nn.Sequential(
            nn.Linear(n_inputs + NOISE, WIDTH),
            nn.SiLU(),
            nn.Dropout(DROPOUT),
            nn.Linear(WIDTH, WIDTH),
            nn.SiLU(),
            nn.Dropout(DROPOUT),
            nn.Linear(WIDTH, n_genes),
        )
        self.discriminator = nn.Sequential(
            nn.Linear(2 * n_genes, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH), nn.SiLU(), nn.Linear(WIDTH, n_genes)
        )

    def start(self) -> None:
        """Set up the optimisers of generator and discriminator."""
        self.generator_optimizer, self.discriminator_optimizer = (
            AdamW(list(part.parameters()), latent_network.WEIGHT_DECAY) for part in (self.generator, self.discriminator)
        )

    def update(self, batch: latent_network.Batch) -> None:
        """Take one step of the discriminator, then one of the generator."""
        generated = self._generate(batch.latent)
        filled = torch.where(batch.seen > 0, batch.z, generated)
        hinted = torch.rand_like(batch.seen) < HINT
        hint = torch.where(hinted, batch.seen, 0.5)

        guess = self.discriminator(torch.cat([filled.detach(), hint], dim=1))
        self.discriminator_optimizer.zero_grad()
        _cross_entropy(guess, batch.seen, ~hinted).backward()
        self.discriminator_optimizer.step(latent_network.LEARNING_RATE)

        guess = self.discriminator(torch.cat([filled, hint], dim=1))
        fooled = _cross_entropy(guess, torch.ones_like(guess), (batch.seen == 0) & ~hinted)
        self.generator_optimizer.zero_grad()
        (fooled + ALPHA * batch.error(generated)).backward()
        self.generator_optimizer.step(latent_network.LEARNING_RATE)

    def predict(self, latent: Tensor) -> Tensor:
        """Mean of draws, with the same noise for every spot."""
        noise = torch.randn(N_DRAWS // 2, NOISE, generator=torch.Generator().manual_seed(0))
        draws = [self._generate(latent, row.expand(len(latent), -1)) for row in torch.cat([noise, -noise])]
        return torch.stack(draws).mean(0)

    def _generate(self, latent: Tensor, noise: Tensor | None = None) -> Tensor:
        noise = torch.randn(len(latent), NOISE) if noise is None else noise
        return self.generator(torch.cat([latent, noise], dim=1))


def _cross_entropy(guess: Tensor, truth: Tensor, counted: Tensor) -> Tensor:
    """Mean over the counted entries, those without a hint."""
    loss = nn.functional.binary_cross_entropy_with_logits(guess, truth, reduction="none")
    return (loss * counted).sum() / counted.sum().clamp(min=1)


def impute(data: base.DenseTissue, *, seed: int) -> base.Estimate:
    """Predict every entry by generators that decode the graph encoder's latents.

    Raises
    ------
    InputError
        The data have neither a spatial graph nor coordinates to build one from.
    """
    return latent_network.impute(data, AdversarialNetwork, seed=seed)
