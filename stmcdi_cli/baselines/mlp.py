"""A three-layer perceptron on the graph encoder's latent (appendix F)."""

from torch import Tensor, nn

from stmcdi_cli.baselines import base, latent_network

WIDTH = 128
DROPOUT = 0.4


class Perceptron(latent_network.LatentNetwork):
    """Three layers from the latent [B, c] to standardised expression [B, G]."""

    def __init__(self, n_inputs: int, n_genes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(n_inputs, WIDTH),
            nn.SiLU(),
            nn.Dropout(DROPOUT),
            nn.Linear(WIDTH, WIDTH),
            nn.SiLU(),
            nn.Dropout(DROPOUT),
            nn.Linear(WIDTH, n_genes),
        )

    def loss(self, batch: latent_network.Batch) -> Tensor:
        """Squared error of the hidden entries."""
        return batch.error(self.predict(batch.latent))

    def predict(self, latent: Tensor) -> Tensor:
        """Expected standardised expression."""
        return self.layers(latent)


def impute(data: base.DenseTissue, *, seed: int) -> base.Estimate:
    """Predict every entry by perceptrons that decode the graph encoder's latents.

    Raises
    ------
    InputError
        The data have neither a spatial graph nor coordinates to build one from.
    """
    return latent_network.impute(data, Perceptron, seed=seed)
