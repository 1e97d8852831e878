"""Work on the spots of a tissue block by block."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from torch import Tensor

from stmcdi_cli.model.device import parallel_map

BLOCK = 256
"""Spots per block; fixed, so that no result depends on how many spots are asked for at once."""

BlockFunction = Callable[[np.ndarray, Tensor, Tensor], None]
"""Receives the positions of the spots of a block [B], and their responses and weights [B, G]."""


def split(n_spots: int) -> Iterator[np.ndarray]:
    """Iterate over the positions of the spots of every block."""
    return (np.arange(first, min(first + BLOCK, n_spots)) for first in range(0, n_spots, BLOCK))


def in_parallel(function: Callable[[np.ndarray], None], n_spots: int) -> None:
    """Call a function with the positions of the spots of every block, on all cores."""
    deque(parallel_map(function, split(n_spots)), maxlen=0)


def in_sequence(blocks: Callable[[], Iterable]) -> Callable[[BlockFunction], None]:
    """Give a function that calls another with each of some blocks, in order."""

    def for_each_block(function: BlockFunction) -> None:
        for block in blocks():
            function(*block)

    return for_each_block
