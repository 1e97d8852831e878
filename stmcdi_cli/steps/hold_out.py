"""Hide a random part of the values, so that imputation can be measured against them."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

from stmcdi_cli import anndata_keys as keys
from stmcdi_cli import checks
from stmcdi_cli.errors import InputError
from stmcdi_cli.io import record, shallow_copy
from stmcdi_cli.sparse import mask_from_chunks, missing_entries, nan_entries, row_chunks, to_csr, without

if TYPE_CHECKING:
    from anndata import AnnData

OF = ("all", "nonzero")


def hold_out(adata: "AnnData", *, fraction: float = 0.2, seed: int = 0, of: str = "all") -> "tuple[AnnData, AnnData]":
    """Hide each entry with probability ``fraction``.

    Works before ``normalize`` (``X`` holds counts) as well as after it. What is hidden depends on the seed and on which
    entries there are to choose from, not on their values.

    Parameters
    ----------
    adata
        Expression, spots x genes. Entries already missing are never chosen.
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
        entries missing before. Other layers and ``raw`` are left out: they could hold what is hidden.
    truth
        ``X`` and every layer as they were, ``layers['missing']`` True at the entries hidden by this call only.

    Raises
    ------
    InputError
        An option is out of range, the spots or genes have no unique names, or no entry was hidden.
    """
    checks.fraction("fraction", fraction)
    checks.at_least("seed", seed, 0)
    checks.one_of("of", of, OF)
    checks.table(adata)
    x = to_csr(adata.X)
    before = missing_entries(adata) + nan_entries(x)
    hidden = mask_from_chunks(_chosen(x, before, fraction, seed, of), adata.n_vars)
    if not hidden.nnz:
        raise InputError(
            f"expected to hide some entries, found none chosen with fraction {fraction}; give a larger one"
        )

    truth = shallow_copy(adata)
    del truth.raw
    truth.X = without(x, before)
    truth.layers[keys.MISSING] = hidden

    masked = shallow_copy(truth)
    missing = before + hidden
    masked.X = without(truth.X, hidden)
    for name in list(masked.layers):
        del masked.layers[name]
    masked.layers[keys.MISSING] = missing
    if keys.COUNTS in adata.layers:
        masked.layers[keys.COUNTS] = without(to_csr(adata.layers[keys.COUNTS]), missing)
    for part in (masked, truth):
        record(part, "hold-out", {"fraction": fraction, "seed": seed, "of": of})
    return masked, truth


def _chosen(x: sp.csr_matrix, before: sp.csr_matrix, fraction: float, seed: int, of: str) -> Iterator[np.ndarray]:
    """Yield the choice for a few rows at a time.

    One stream of random numbers goes to the entries that can be chosen, in order. So chunks do not matter, and hiding
    again with the same seed does not hit the same entries.
    """
    random = np.random.default_rng(seed)
    for rows in row_chunks(x.shape):
        chosen = x[rows].toarray() != 0 if of == "nonzero" else np.ones((rows.stop - rows.start, x.shape[1]), bool)
        chosen[before[rows].nonzero()] = False
        chosen[chosen] = random.random(np.count_nonzero(chosen)) < fraction
        yield chosen
