"""Patches of a large tissue, to train on: some spots with their neighbours show what holds for all."""

import numpy as np
import scipy.sparse as sp
from scipy.sparse.csgraph import connected_components

SIZE = 250
"""Spots in a patch: few, to have many patches in the tissue; enough that most spots have all their neighbours in it."""


def patches(graph: sp.csr_matrix, n_spots: int, seed: int) -> np.ndarray:
    """Choose spots in patches, each grown from one spot ring by ring over the graph, evenly over all sections.

    Parameters
    ----------
    graph
        Adjacency, CSR, spots x spots.
    n_spots
        Number of spots to choose.
    seed
        Seed of the places where the patches begin.

    Returns
    -------
    Positions of the spots, in rising order.
    """
    n = graph.shape[0]
    if n_spots >= n:
        return np.arange(n)
    random = np.random.default_rng(seed)
    # Sort spots by connected component (section), randomly within each; take seeds at equal distances in that order.
    order = random.permutation(n)
    order = order[np.argsort(connected_components(graph, directed=False)[1][order], kind="stable")]
    n_patches = -(-n_spots // SIZE)
    seeds = order[((np.arange(n_patches) + random.random()) * n / n_patches).astype(int)]
    chosen, left = np.zeros(n, dtype=bool), n_spots
    # More seeds follow, because patches at the tissue's edge or beside others may stay small.
    for start in (*seeds, *random.permutation(n)):
        if left == 0:
            break
        if not chosen[start]:
            left -= _grow(graph, chosen, start, min(SIZE, left))
    return np.flatnonzero(chosen)


def _grow(graph: sp.csr_matrix, chosen: np.ndarray, start: int, most: int) -> int:
    """Choose a spot and its nearest on the graph that are not chosen yet; returns how many were chosen."""
    ring, n = np.array([start]), 0
    while len(ring) and n < most:
        ring = ring[: most - n]
        chosen[ring] = True
        n += len(ring)
        around = np.concatenate([graph.indices[graph.indptr[i] : graph.indptr[i + 1]] for i in ring])
        ring = np.unique(around)
        ring = ring[~chosen[ring]]
    return n
