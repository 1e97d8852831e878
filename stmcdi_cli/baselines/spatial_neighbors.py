"""The mean over the nearest spots of the same section."""

from stmcdi_cli.baselines import base

N_NEIGHBORS = 20


def impute(data: base.DenseTissue, *, seed: int, n_neighbors: int = N_NEIGHBORS) -> base.Estimate:
    """Predict an entry by the mean of the gene's visible values at the nearest visible spots; `seed` is not used.

    Raises
    ------
    InputError
        The file has no coordinates.
    """
    mean = base.mean_over(data.nearest(n_neighbors), data.x, data.seen)
    # A spot is not its own neighbour: no visible entry is used for its own prediction.
    return base.Estimate(mean, base.residual_sd(data.x, data.seen, mean, data.seen))
