"""``stmcdi join``: several tissues as sections of one, to train one model on all of them."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from stmcdi_cli import anndata_keys as keys
from stmcdi_cli import validation
from stmcdi_cli.errors import InputError, OptionError, in_file
from stmcdi_cli.io.h5ad import matrices, shallow_copy
from stmcdi_cli.io.stream import Block, Stream, disk_usage
from stmcdi_cli.logging import log_left_out
from stmcdi_cli.provenance import imported_section_key, record
from stmcdi_cli.sparse import as_row_major, read_rows, row_chunks, to_csr
from stmcdi_cli.steps._step import step

if TYPE_CHECKING:
    from anndata import AnnData

logger = logging.getLogger(__name__)


@step
def join(tissues: "Sequence[AnnData]", *, names: Sequence[str] = (), section_key: str | None = None) -> Stream:
    """Concatenate tissues, spot by spot.

    Parameters
    ----------
    tissues
        Raw counts with ``obsm['spatial']``, with some genes in common.
    names
        Names of the tissues, all different; 1, 2, ... where not given.
    section_key
        Column of ``obs`` that names the sections within each tissue. Not given: the one that `import_` found in it.

    Returns
    -------
    AnnData
        The spots of all tissues, named SPOT-TISSUE, with the genes that all have, in the first one's order. Layers and
        columns that only some have are left out, and it is said which. ``uns['spatial']`` has the images and scale
        factors of all; a name that two tissues give to different ones becomes NAME-TISSUE, also in ``obs``. New are
        ``obs['stmcdi_sample']``, the tissue, and ``obs['stmcdi_section']``, its section, for `build_graph`.

    Raises
    ------
    InputError
        There are no tissues, no gene is in all of them, or one has no coordinates or no such sections.
    """
    names = tuple(names) or tuple(str(number) for number in range(1, len(tissues) + 1))
    if not tissues:
        raise InputError("expected tissues, found none; name their files")
    if len(names) != len(tissues) or len(set(names)) != len(names):
        raise OptionError(f"expected {len(tissues)} different `names`, one per tissue, found `{','.join(names)}`")
    parts: dict[str, AnnData] = {}
    images: dict[str, Any] = {}
    for name, tissue in zip(names, tissues, strict=True):
        with in_file(f"tissue {name}"):
            validation.table(tissue)
            validation.coordinates(tissue)
            key = imported_section_key(tissue) if section_key is None else section_key
            validation.sections(tissue, key)
        part = shallow_copy(tissue, X=None, layers={}, raw=None)
        _take_images(images, part, name)
        part.obs[keys.SAMPLE] = name
        part.obs[keys.SECTION] = name if key is None else name + ":" + tissue.obs[key].astype(str)
        parts[name] = part
    shared = set.intersection(*(set(part.var_names) for part in parts.values()))
    if not shared:
        raise InputError(
            f"expected genes that all of {', '.join(names)} have, found none; give their genes the same names"
        )

    genes = [gene for gene in tissues[0].var_names if gene in shared]
    joined = _concatenated(parts)[:, genes].copy()
    for column in (keys.SAMPLE, keys.SECTION):
        joined.obs[column] = pd.Categorical(joined.obs[column])
    if all(tissue.raw is not None for tissue in tissues):
        raws = {name: _empty_raw(tissue) for name, tissue in zip(names, tissues, strict=True)}
        raw = _concatenated(raws)
        empty = sp.csr_matrix(raw.shape, dtype=np.float32)
        joined = shallow_copy(joined, raw={"X": empty, "var": raw.var, "varm": dict(raw.varm)})
    if images:
        joined.uns[keys.SPATIAL] = images
    _log_left_out(parts, tissues, joined)
    record(joined, "join", {"names": list(names), "section_key": section_key})
    size = sum(disk_usage(matrix) for tissue in tissues for matrix in matrices(tissue).values())
    return Stream(joined, _blocks(names, tissues, joined), size)


def _take_images(images: dict[str, Any], part: "AnnData", name: str) -> None:
    """Add the images and scale factors of a tissue, under names that are its own; columns of ``obs`` follow."""
    own = part.uns.get(keys.SPATIAL)
    if not isinstance(own, Mapping):
        return
    renamed: dict[str, str] = {}
    for library, content in own.items():
        if library in images and not _equal(images[library], content):
            renamed[library] = f"{library}-{name}"
            logger.info("join: uns['spatial']['%s'] of tissue %s is now '%s'", library, name, renamed[library])
        images[renamed.get(str(library), str(library))] = content
    for column in part.obs if renamed else ():
        if part.obs[column].isin(list(own)).all():
            part.obs[column] = part.obs[column].astype(str).replace(renamed).astype("category")


def _equal(one: Any, other: Any) -> bool:
    """Whether two entries of ``uns`` are the same."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return set(one) == set(other) and all(_equal(one[name], other[name]) for name in one)
    return bool(np.array_equal(one, other))


def _log_left_out(parts: "Mapping[str, AnnData]", tissues: "Sequence[AnnData]", joined: "AnnData") -> None:
    """Say which genes, matrices, columns and other entries are not in the result."""
    genes = set().union(*(tissue.var_names for tissue in tissues))
    log_left_out("join", "genes", len(genes), {"not in all tissues": len(genes) - joined.n_vars})
    common = set.intersection(*(set(matrices(tissue)) for tissue in tissues))
    names = {name for tissue in tissues for name in matrices(tissue)} - common
    left_out = sorted("raw" if name == keys.RAW_X else f"layers['{name}']" for name in names if name is not keys.X)
    left_out += ["X"] if keys.X in names else []
    for part in ("obs", "var", "obsm", "varm", "obsp", "varp", "uns"):
        found = dict.fromkeys(str(name) for each in parts.values() for name in getattr(each, part))
        left_out += [f"{part}['{name}']" for name in found if name not in getattr(joined, part)]
    left_out = [name for name in left_out if name != f"uns['{keys.PROVENANCE}']"]
    if left_out:
        logger.info("join: left out, since not in all tissues or not the same in all: %s", ", ".join(left_out))


def _concatenated(parts: "dict[str, AnnData]") -> "AnnData":
    import anndata

    return anndata.concat(parts, join="inner", merge="same", index_unique="-")


def _empty_raw(tissue: "AnnData") -> "AnnData":
    import anndata

    return anndata.AnnData(obs=tissue.obs[[]], var=tissue.raw.var, varm=dict(tissue.raw.varm))


def _blocks(names: Sequence[str], tissues: "Sequence[AnnData]", joined: "AnnData") -> Iterator[Block]:
    """Yield the rows of one tissue after the other, of the matrices and genes that all have."""
    sources = []
    for name, tissue in zip(names, tissues, strict=True):
        with in_file(f"tissue {name}"):
            sources.append({key: as_row_major(matrix) for key, matrix in matrices(tissue).items()})
    common = [key for key in sources[0] if all(key in source for source in sources)]
    dense = {key for key in common if not any(_is_sparse(source[key]) for source in sources)}
    dtype = {key: np.result_type(*(source[key].dtype for source in sources)) for key in common}
    for name, tissue, source in zip(names, tissues, sources, strict=True):
        column = {key: _columns(tissue, joined, key) for key in common}
        for rows in row_chunks(tissue.shape):
            with in_file(f"tissue {name}"):
                block = {key: read_rows(source[key], rows)[:, column[key]] for key in common}
            yield {
                key: part.astype(dtype[key]) if key in dense else to_csr(part, dtype[key])
                for key, part in block.items()
            }


def _is_sparse(matrix: Any) -> bool:
    """Whether a matrix, in memory or on disk, is sparse."""
    return sp.issparse(matrix) or hasattr(matrix, "group")


def _columns(tissue: "AnnData", joined: "AnnData", key: str | None) -> np.ndarray:
    """Column of each joined gene in a tissue's matrix."""
    if key == keys.RAW_X:
        return tissue.raw.var_names.get_indexer(joined.raw.var_names)
    return tissue.var_names.get_indexer(joined.var_names)
