"""``stmcdi join``: several tissues as sections of one, to train one model on all of them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd

from stmcdi_cli import anndata_keys as keys
from stmcdi_cli import checks
from stmcdi_cli.errors import InputError, OptionError
from stmcdi_cli.io import record

if TYPE_CHECKING:
    from anndata import AnnData


def join(tissues: "Sequence[AnnData]", *, names: Sequence[str] = (), section_key: str | None = None) -> "AnnData":
    """Put tissues one below the other.

    Parameters
    ----------
    tissues
        Raw counts with ``obsm['spatial']``, on at least partly the same genes.
    names
        The tissues' names, different ones; 1, 2, ... where not given.
    section_key
        Column of ``obs`` that names the sections within each tissue.

    Returns
    -------
    AnnData
        The spots of all tissues, named SPOT-TISSUE, with the genes that all have, in the first one's order. Layers and
        columns that only some have are left out. New are ``obs['stmcdi_sample']``, the tissue, and
        ``obs['stmcdi_section']``, its section, for `build_graph`.

    Raises
    ------
    InputError
        There are no tissues, no gene is in all of them, or one has no coordinates or no such sections.
    """
    import anndata

    names = tuple(names) or tuple(str(number) for number in range(1, len(tissues) + 1))
    if not tissues:
        raise InputError("expected tissues, found none; name their files")
    if len(names) != len(tissues) or len(set(names)) != len(names):
        raise OptionError(f"expected {len(tissues)} different `names`, one per tissue, found `{','.join(names)}`")
    parts = {}
    for name, tissue in zip(names, tissues, strict=True):
        checks.table(tissue)
        checks.coordinates(tissue)
        checks.sections(tissue, section_key)
        part = tissue.copy()
        part.obs[keys.SAMPLE] = name
        part.obs[keys.SECTION] = name if section_key is None else name + ":" + tissue.obs[section_key].astype(str)
        parts[name] = part
    shared = set.intersection(*(set(part.var_names) for part in parts.values()))
    if not shared:
        raise InputError(
            f"expected genes that all of {', '.join(names)} have, found none; give their genes the same names"
        )

    joined = anndata.concat(parts, join="inner", merge="same", index_unique="-")
    joined = joined[:, [gene for gene in tissues[0].var_names if gene in shared]].copy()
    for column in (keys.SAMPLE, keys.SECTION):
        joined.obs[column] = pd.Categorical(joined.obs[column])
    record(joined, "join", {"names": list(names), "section_key": section_key})
    return joined
