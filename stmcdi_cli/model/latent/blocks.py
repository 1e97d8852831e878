"""Work on the spots of a tissue block by block."""

from collections import deque
from collections.abc import Callable, Iterator

import numpy as np

from stmcdi_cli.model.device import parallel_map

BLOCK = 256
"""Spots per block; fixed, so that no result depends on how many spots are asked for at once."""


def split(n_spots: int) -> Iterator[np.ndarray]:
    """Iterate over the positions of the spots of every block."""
    return (np.arange(first, min(first + BLOCK, n_spots)) for first in range(0, n_spots, BLOCK))


def in_parallel(function: Callable[[np.ndarray], None], n_spots: int) -> None:
    """Call a function with the positions of the spots of every block, on all cores."""
    deque(parallel_map(function, split(n_spots)), maxlen=0)
