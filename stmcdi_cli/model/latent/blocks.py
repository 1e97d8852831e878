"""Work on the spots of a tissue block by block."""

from collections.abc import Callable, Iterator

import numpy as np

from stmcdi_cli.model.device import parallel_each

BLOCK = 256
"""Spots per block; fixed, so that no result depends on how many spots are asked for at once."""
_IN_CACHE = 32_768
"""Values of a part of a block, so few that a handful of arrays of them stay in a processor's cache."""


def split(n_spots: int) -> Iterator[np.ndarray]:
    """Iterate over the positions of the spots of every block."""
    return (np.arange(first, min(first + BLOCK, n_spots)) for first in range(0, n_spots, BLOCK))


def in_parallel(function: Callable[[np.ndarray], None], n_spots: int) -> None:
    """Call a function with the positions of the spots of every block, on all cores."""
    parallel_each(function, split(n_spots))


def parts_in_cache(n_spots: int, n_genes: int) -> Iterator[slice]:
    """Iterate over the spots of one block a few at a time: work on all genes of these stays in a processor's cache."""
    few = max(1, _IN_CACHE // max(1, n_genes))
    return (slice(first, min(first + few, n_spots)) for first in range(0, n_spots, few))
