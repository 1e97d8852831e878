"""Target and reference in one file: what `add_reference` noted, and what later steps make of it.

The spots of the target come first. They alone have values to hide, to impute and to report; those of the reference are
there to learn from, and leave the file when it is imputed.
"""

from typing import TYPE_CHECKING

import numpy as np

from stmcdi_cli import anndata_keys as keys
from stmcdi_cli.errors import InputError

if TYPE_CHECKING:
    from anndata import AnnData

TARGET, REFERENCE = "target", "reference"


def has_reference(adata: "AnnData") -> bool:
    """Whether a reference was added to a file."""
    return n_target(adata) < adata.n_obs


def n_target(adata: "AnnData") -> int:
    """Give the number of spots of the target, which are the first in the file; all where no reference was added.

    Raises
    ------
    InputError
        ``obs['stmcdi_role']`` is not as `add_reference` wrote it.
    """
    if keys.ROLE not in adata.obs:
        return adata.n_obs
    role = adata.obs[keys.ROLE].astype(str).to_numpy()
    n = int(np.count_nonzero(role == TARGET))
    if n == 0 or not (role[:n] == TARGET).all() or not (role[n:] == REFERENCE).all():
        raise InputError(
            f"expected spots of the {TARGET}, then those of the {REFERENCE}, in obs['{keys.ROLE}'], found others; "
            "run add-reference again, and keep the order of the spots"
        )
    return n
