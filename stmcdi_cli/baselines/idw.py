"""Inverse-distance weighting: the mean over the nearest spots of the same section, the closer the more."""

from stmcdi_cli.baselines import base

N_NEIGHBORS = 12


def impute(data: base.DenseTissue, *, seed: int, n_neighbors: int = N_NEIGHBORS) -> base.Estimate:
    """Predict an entry by the gene's visible values at the nearest visible spots, weighted by 1 / distance.

    `seed` is not used.

    Raises
    ------
    InputError
        The file has no coordinates.
    """
    mean = base.weighted_mean(data.inverse_distances(n_neighbors), data.x, data.seen)
    # A spot is not its own neighbour: no visible entry is used for its own prediction.
    return base.Estimate(mean, base.residual_sd(data.x, data.seen, mean, data.seen))
