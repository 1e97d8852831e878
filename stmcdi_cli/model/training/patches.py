"""Patches of a large tissue: what holds for spots in general can be learnt from some, with their neighbours."""

import numpy as np
import scipy.sparse as sp
from scipy.sparse.csgraph import connected_components

SIZE = 250
"""Spots in a patch: few, for many places of the tissue; enough that most have all their neighbours in it."""


def patches(graph: sp.csr_matrix, n_spots: int, seed: int) -> np.ndarray:
    """Choose spots in patches, each grown from one spot ring by ring over the graph, evenly over all sections.

    Parameters
    ----------
    graph
        Adjacency, CSR, spots x spots.
    n_spots
        How many to choose.
    seed
        Seed of where the patches begin.

    Returns
    -------
    Positions, rising.
    """
    n = graph.shape[0]
    if n_spots >= n:
        return np.arange(n)
    random = np.random.default_rng(seed)
    # Spots section by section (what hangs together), in random order within; seeds at even distances along it.
    order = random.permutation(n)
    order = order[np.argsort(connected_components(graph, directed=False)[1][order], kind="stable")]
    n_patches = -(-n_spots // SIZE)
    seeds = order[((np.arange(n_patches) + random.random()) * n / n_patches).astype(int)]
    chosen, left = np.zeros(n, dtype=bool), n_spots
    for start in (*seeds, *random.permutation(n)):  # more seeds, where patches met the tissue's edge or each other
        if left == 0:
            break
        if not chosen[start]:
            left -= _grow(graph, chosen, start, min(SIZE, left))
    return np.flatnonzero(chosen)


def _grow(graph: sp.csr_matrix, chosen: np.ndarray, start: int, most: int) -> int:
    """Choose a spot and what is nearest on the graph and not chosen yet; give how many were chosen."""
    ring, n = np.array([start]), 0
    while len(ring) and n < most:
        ring = ring[: most - n]
        chosen[ring] = True
        n += len(ring)
        around = np.concatenate([graph.indices[graph.indptr[i] : graph.indptr[i + 1]] for i in ring])
        ring = np.unique(around)
        ring = ring[~chosen[ring]]
    return n
