"""A graph cut into parts that overlap, each small enough for exact solutions."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from scipy.sparse.csgraph import reverse_cuthill_mckee


class Part(NamedTuple):
    """Some spots that lie together, and those around them.

    Attributes
    ----------
    spots
        Their positions, ascending [m].
    own
        Whether a spot belongs to this part, bool [m]; the others are around it, and belong to another.
    """

    spots: np.ndarray
    own: np.ndarray


def overlapping_parts(edges: sp.csr_matrix, most: int, hops: int) -> list[Part]:
    """Cut a graph into parts, and add what is around them.

    Parameters
    ----------
    edges
        The graph, symmetric CSR [n, n].
    most
        Spots that belong to a part, at most; every spot belongs to one.
    hops
        Steps along edges up to which a spot is around a part.
    """
    return [_with_surroundings(edges, own, hops) for own in _halves(edges, np.arange(edges.shape[0]), most)]


def _halves(edges: sp.csr_matrix, spots: np.ndarray, most: int) -> Iterator[np.ndarray]:
    """Halve spots until they are few enough: those that are nearer to one end of the tissue, and the others."""
    if len(spots) <= most:
        yield np.sort(spots)
        return
    order = reverse_cuthill_mckee(edges, symmetric_mode=True)  # breadth first from a spot with few neighbours
    for half in np.array_split(order, 2):
        yield from _halves(edges[half][:, half], spots[half], most)


def _with_surroundings(edges: sp.csr_matrix, own: np.ndarray, hops: int) -> Part:
    is_in = np.zeros(edges.shape[0], dtype=bool)
    is_in[own] = True
    last = own
    for _ in range(hops):
        reached = np.unique(edges[last].indices)
        last = reached[~is_in[reached]]
        is_in[last] = True
    spots = np.flatnonzero(is_in)
    return Part(spots, np.isin(spots, own, assume_unique=True))
