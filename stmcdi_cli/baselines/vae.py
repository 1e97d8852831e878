"""A variational autoencoder on the graph encoder's latent (appendix F; Kingma and Welling 2014).

It encodes the latent as a Gaussian code and decodes draws of the code to expression; it is trained to
predict the entries hidden from the latent.
"""

import torch
from torch import Tensor, nn

from stmcdi_cli.baselines import base, latent_network

WIDTH = 128
CODE = 16
DROPOUT = 0.3


class VariationalAutoencoder(latent_network.LatentNetwork):
    """Latent [B, c] to a code [B, CODE] to standardised expression [B, G]."""

    def __init__(self, n_inputs: int, n_genes: int) -> None:
        super().__init__()
        code = nn.Linear(WIDTH, 2 * CODE)
        nn.init.constant_(code.bias[CODE:], -3)  # a small variance at first, so that codes of different spots differ
        self.encoder = nn.Sequential(nn.Linear(n_inputs, WIDTH), nn.SiLU(), code)
        self.decoder = nn.Sequential(nn.Linear(CODE, WIDTH), nn.SiLU(), nn.Dropout(DROPOUT), nn.Linear(WIDTH, n_genes))
        self.log_noise = nn.Parameter(torch.zeros(()))

    def loss(self, batch: latent_network.Batch) -> Tensor:
        """Negative evidence lower bound per target, times 2, for noise whose variance is a parameter."""
        mean, log_variance = self.encoder(batch.latent).chunk(2, dim=1)
        log_variance = log_variance.clamp(-10, 5)
        code = mean + (log_variance / 2).exp() * torch.randn_like(mean)
        divergence = (mean.square() + log_variance.exp() - 1 - log_variance).sum()  # twice, from N(0, 1)
        misfit = batch.error(self.decoder(code)) / self.log_noise.exp() + self.log_noise
        return misfit + divergence / batch.target.sum().clamp(min=1)

    def predict(self, latent: Tensor) -> Tensor:
        """Standardised expression at the mean of the code."""
        return self.decoder(self.encoder(latent).chunk(2, dim=1)[0])


def impute(data: base.DenseTissue, *, seed: int) -> base.Estimate:
    """Predict every entry by variational autoencoders that decode the graph encoder's latents.

    Raises
    ------
    InputError
        The data have neither a spatial graph nor coordinates to build one from.
    """
    return latent_network.impute(data, VariationalAutoencoder, seed=seed)
