"""Control probes and blanks of imaging platforms: they measure no gene, and are left out."""

import re
from typing import TYPE_CHECKING

import numpy as np

from stmcdi_cli import validation
from stmcdi_cli.io.readers.reader import Options

if TYPE_CHECKING:
    from anndata import AnnData

CONTROL = re.compile(
    r"blank[-_ ]?\d+"  # MERSCOPE, Xenium
    r"|neg(ative)?[-_ ]?(prb|probe|ctrl|control)\w*([-_ ]?\w+)*"  # CosMx, Xenium
    r"|negative[-_ ]?\d+|(system[-_ ]?control|false[-_ ]?code)[-_ ]?\d*"  # CosMx
    r"|(unassigned|deprecated)[-_ ]?codeword[-_ ]?\w*|antisense_\w+|intergenic_region_\w+",  # Xenium
    re.IGNORECASE,
)
"""Names of control probes."""


def without_controls(adata: "AnnData", options: Options) -> "AnnData":
    """Leave out the columns whose names are those of control probes, and say how many."""
    control = np.array([CONTROL.fullmatch(name) is not None for name in map(str, adata.var_names)], bool)
    if not control.any():
        return adata
    options.note(
        f"left out {control.sum()} control probes and blanks: {validation.first_few(adata.var_names[control])}"
    )
    return adata[:, ~control].copy()
