"""Each gene's mean over its visible entries: the trivial guess that skill is measured against."""

import numpy as np

from stmcdi_cli.baselines import base


def impute(data: base.DenseTissue, *, seed: int) -> base.Estimate:
    """Predict every entry of a gene by the mean of its visible ones; draws nothing from `seed`."""
    mean = base.gene_mean(data.x, data.seen).astype(np.float32)
    return base.Estimate(np.broadcast_to(mean, data.x.shape), base.gene_sd(data.x, data.seen))
