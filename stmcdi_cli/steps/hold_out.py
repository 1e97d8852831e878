"""Hide a random part of the values, so that imputation can be measured against them."""

import logging
from collections.abc import Iterator
from itertools import tee
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

from stmcdi_cli import anndata_keys as keys
from stmcdi_cli import roles, validation
from stmcdi_cli.errors import InputError
from stmcdi_cli.io.h5ad import copy_without, matrices, shallow_copy
from stmcdi_cli.io.shards import target_header
from stmcdi_cli.io.stream import Block, Stream, disk_size, disk_usage
from stmcdi_cli.provenance import record
from stmcdi_cli.sparse import (
    as_row_major,
    layers_of,
    mask_from_chunks,
    mask_out,
    missing_mask,
    nan_mask,
    read_rows,
    row_chunks,
    select_rows,
    to_csr,
)
from stmcdi_cli.steps._results import results_in, without_results
from stmcdi_cli.steps._step import step

if TYPE_CHECKING:
    from anndata import AnnData

logger = logging.getLogger(__name__)

OF = ("all", "nonzero")


@step
def hold_out(adata: "AnnData", *, fraction: float = 0.2, seed: int = 0, of: str = "all") -> tuple[Stream, Stream]:
    """Hide each entry with probability ``fraction``.

    Works before ``normalize`` (``X`` holds counts) as well as after it. What is hidden depends on the seed and on which
    entries there are to choose from, not on their values.

    Parameters
    ----------
    adata
        Expression, spots x genes. Entries already missing are never chosen, nor are those of a reference
        (`add_reference`).
    fraction
        Probability that an entry is hidden, between 0 and 1.
    seed
        Seed of the random choice.
    of
        ``all``: choose among all entries; ``nonzero``: among those above zero only.

    Returns
    -------
    masked
        ``X`` and ``layers['counts']`` are 0 at hidden entries and ``layers['missing']`` is True there, as it is at
        entries missing before. Other layers, ``raw`` and the latents of an earlier imputation are left out: they could
        hold what is hidden.
    truth
        ``X`` and every layer as they were, ``layers['missing']`` True at the entries hidden by this call only; without
        the cells of a reference.

    Raises
    ------
    InputError
        An option is out of range, the spots or genes have no unique names, or no entry was hidden.
    """
    validation.fraction("fraction", fraction)
    validation.at_least("seed", seed, 0)
    validation.one_of("of", of, OF)
    validation.table(adata)
    validation.matrix(adata)
    has_counts, n_target = keys.COUNTS in adata.layers, roles.n_target(adata)

    def blocks() -> Iterator[tuple[Block, Block]]:
        random, n_hidden = np.random.default_rng(seed), 0
        x = as_row_major(adata.X)
        counts = as_row_major(adata.layers[keys.COUNTS]) if has_counts else None
        for rows in row_chunks(adata.shape):
            values = to_csr(read_rows(x, rows))
            before = missing_mask(adata, rows) + nan_mask(values)
            n_own = min(max(n_target - rows.start, 0), values.shape[0])  # of the target
            hidden = _choose(random, values, before, fraction, of, n_own)
            n_hidden += hidden.nnz
            missing = before + hidden
            values = mask_out(values, before)
            masked = {keys.X: mask_out(values, hidden), keys.MISSING: missing}
            if counts is not None:
                masked[keys.COUNTS] = mask_out(to_csr(read_rows(counts, rows)), missing)
            yield masked, {keys.X: values[:n_own], keys.MISSING: hidden[:n_own]}
        if not n_hidden:
            raise InputError(
                f"expected to hide some entries, found none chosen with fraction {fraction}; give a larger one"
            )

    kept = (keys.X, keys.COUNTS, keys.MISSING)
    names = [name for name in matrices(adata) if name not in kept]
    left_out = ["raw" if name == keys.RAW_X else f"layers['{name}']" for name in names]
    left_out += [name for name in results_in(adata) if name not in left_out]
    if left_out:
        logger.info("hold-out: left out, since it could tell what is hidden: %s", ", ".join(left_out))
    masked_header = copy_without(without_results(adata), [keys.X, *adata.layers])
    truth_header = _truth_header(adata, n_target)
    for header in (masked_header, truth_header):
        header.raw = None
        record(header, "hold-out", {"fraction": fraction, "seed": seed, "of": of})
    pairs, same_pairs = tee(blocks())
    size = disk_usage(adata.X) + disk_size(0, fraction * adata.n_obs * adata.n_vars)
    replaced = sum(disk_usage(adata.layers[name]) for name in (keys.COUNTS, keys.MISSING) if name in adata.layers)
    return (
        Stream(masked_header, (masked for masked, _ in pairs), size + replaced),
        Stream(truth_header, (truth for _, truth in same_pairs), size),
    )


def _truth_header(adata: "AnnData", n_target: int) -> "AnnData":
    """All of the truth but ``X`` and ``layers['missing']``: the target's spots, with the layers that stay."""
    if n_target == adata.n_obs:
        return copy_without(adata, [keys.X, keys.MISSING])
    layers = {name: select_rows(as_row_major(layer), np.arange(n_target)) for name, layer in layers_of(adata).items()}
    layers.pop(keys.MISSING, None)
    return shallow_copy(target_header(adata, n_target), layers=layers)


def _choose(
    random: np.random.Generator, x: sp.csr_matrix, before: sp.csr_matrix, fraction: float, of: str, n_target: int
) -> sp.csr_matrix:
    """Choose entries of the next few rows to hide, the first `n_target` of which are the target's; CSR bool.

    One sequence of random numbers is shared by the entries that can be chosen, in order. So the size of blocks does not
    matter, and hiding a second time with the same seed does not choose by the same numbers.
    """
    chosen = x.toarray() != 0 if of == "nonzero" else np.ones(x.shape, bool)
    chosen[before.nonzero()] = False
    chosen[n_target:] = False
    chosen[chosen] = random.random(np.count_nonzero(chosen)) < fraction
    return mask_from_chunks([chosen], x.shape[1])
