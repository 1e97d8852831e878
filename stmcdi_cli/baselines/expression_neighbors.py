"""The mean over the spots with the most similar visible expression."""

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from stmcdi_cli.baselines import base
from stmcdi_cli.model.gene_scaler import GeneScaler

N_NEIGHBORS = 30
N_COMPONENTS = 12


def impute(data: base.DenseTissue, *, seed: int, n_neighbors: int = N_NEIGHBORS) -> base.Estimate:
    """Predict an entry by the mean of the gene's visible values at the most similar spots.

    Similarity is measured in the leading principal components of visible expression: each gene is centred, divided by
    the square root of its standard deviation, and 0 where it is hidden.
    """
    z = base.masked_tensor(GeneScaler.fit(data.x, data.seen, power=0.5), data.x, data.seen)
    components = z @ base.leading_directions(z, N_COMPONENTS, seed)
    mean = base.mean_over(most_similar(components, n_neighbors), data.x, data.seen)
    return base.fill_gaps(data, base.Estimate(mean, base.residual_sd(data.x, data.seen, mean, data.seen)))


def most_similar(components: Tensor, k: int) -> sp.csr_matrix:
    """Join each spot to the k others at the smallest distance, or to all where there are fewer; CSR float32 [n, n]."""
    n = len(components)
    square = components.square().sum(1)
    found = []
    for start in range(0, n, base.BLOCK):
        spots = torch.arange(start, min(start + base.BLOCK, n))
        distance = square - 2 * components[spots] @ components.T
        distance[torch.arange(len(spots)), spots] = torch.inf
        found.append(distance.topk(min(k, n - 1), largest=False).indices.numpy())
    return base.neighbor_matrix(np.concatenate(found))
