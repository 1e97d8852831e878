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
from stmcdi_cli.provenance import Totals, imported_section_key, parameters_of, record
from stmcdi_cli.sparse import as_row_major, missing_mask, read_rows, row_chunks, row_sums, to_csr
from stmcdi_cli.steps._counts import are_logarithms
from stmcdi_cli.steps._gene_names import LEAST_SHARED, GeneNames, check_shared, log_matches
from stmcdi_cli.steps._step import step
from stmcdi_cli.steps._union import Placement, lengthened

if TYPE_CHECKING:
    from anndata import AnnData

logger = logging.getLogger(__name__)

GENES = ("shared", "union")
_LOOKED_AT = 200  # spots of each tissue, for the scale of its values
_SAME, _SAME_UNRECORDED = 1.05, 2.0
"""Ratio of the totals that tissues were scaled to up to which these are taken for the same; and where `normalize` has
not noted them: the genes that are there may be another part of all."""


@step
def join(
    tissues: "Sequence[AnnData]", *, names: Sequence[str] = (), section_key: str | None = None, genes: str = "shared"
) -> Stream:
    """Concatenate tissues, spot by spot.

    Parameters
    ----------
    tissues
        Raw counts with ``obsm['spatial']``, with some genes in common.
    names
        Names of the tissues, all different; 1, 2, ... where not given.
    section_key
        Column of ``obs`` that names the sections within each tissue. Not given: the one that `import_` found in it.
        A tissue that is joined itself keeps its sections, and its tissues their names behind its own.
    genes
        ``shared``: genes that all tissues have, by name. ``union``: those that any has, matched as in `add_reference`;
        ``layers['missing']`` is True where a tissue lacks a gene, and `impute` fills it.

    Returns
    -------
    AnnData
        The spots of all tissues, named SPOT-TISSUE, with the genes that all have, in the first one's order (union: then
        those of the second that are new, and so on). Layers and columns that only some have are left out, and it is
        said which; entries without a value (``layers['missing']``) stay so. ``uns['spatial']`` has the images and scale
        factors of all; a name that two tissues give to different ones becomes NAME-TISSUE, also in ``obs``. New are
        ``obs['stmcdi_sample']``, the tissue, and ``obs['stmcdi_section']``, its section, for `build_graph`.

    Raises
    ------
    InputError
        There are no tissues, no gene is in all of them (union: one shares fewer than 20 with those before it), one has
        no coordinates or no such sections, or their values are not on one scale.
    """
    validation.one_of("genes", genes, GENES)
    validation.names("names", names)
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
        _name_sections(part, name, key)
        parts[name] = part
    _check_scale(names, tissues)
    _make_alike(parts)
    if genes == "union":
        var, columns = _union(tissues, names)
        joined = shallow_copy(_concatenated(parts), var=var, varm={}, varp={})
    else:
        kept = _shared(tissues, names)
        columns = [kept.get_indexer(tissue.var_names) for tissue in tissues]
        joined = _concatenated(parts)
        joined = shallow_copy(joined[:, kept].copy(), obs=joined.obs)  # with categories that no spot has
    for column in (keys.SAMPLE, keys.SECTION):
        joined.obs[column] = pd.Categorical(joined.obs[column])
    if all(tissue.raw is not None for tissue in tissues):
        raws = {name: _empty_raw(tissue) for name, tissue in zip(names, tissues, strict=True)}
        raw = _concatenated(raws)
        empty = sp.csr_matrix(raw.shape, dtype=np.float32)
        joined = shallow_copy(joined, raw={"X": empty, "var": raw.var, "varm": dict(raw.varm)})
    joined.uns = _same_in_all([part.uns for part in parts.values()])
    if images:
        joined.uns[keys.SPATIAL] = images
    _log_left_out(parts, tissues, joined)
    record(
        joined,
        "join",
        {"names": list(names), "section_key": section_key, "genes": None if genes == "shared" else genes},
    )
    size = sum(disk_usage(matrix) for tissue in tissues for matrix in matrices(tissue).values())
    return Stream(joined, _blocks(names, tissues, columns, joined), size)


def _name_sections(part: "AnnData", name: str, key: str | None) -> None:
    """Set the columns of ``obs`` with the tissue and its section; those of joined tissues stay apart."""
    sample = section = pd.Series(name, part.obs_names)
    known = part.obs.get(keys.SECTION)
    if known is not None:
        sample = name + ":" + part.obs.get(keys.SAMPLE, known).astype(str)
        section = name + ":" + known.astype(str)
        found = validation.first_few(section.unique())
        logger.info("join: tissue %s is joined itself: its sections are %s", name, found)
    if key not in (None, keys.SECTION, parameters_of(part, "join").get("section_key")):
        section = section + ":" + part.obs[key].astype(str)
    part.obs[keys.SAMPLE], part.obs[keys.SECTION] = sample, section


def _check_scale(names: Sequence[str], tissues: "Sequence[AnnData]") -> None:
    """Refuse counts beside logarithms, and logarithms of tissues that were scaled to totals of their own.

    Raises
    ------
    InputError
        The values of the tissues are not on one scale.
    """
    total: dict[str, float | None] = {}
    for name, tissue in zip(names, tissues, strict=True):
        with in_file(f"tissue {name}"):
            total[name] = _total_of_logarithms(tissue)
    found = {name: value for name, value in total.items() if value is not None}
    advice = "join raw counts (where a layer has them, `import --layer` takes them out)"
    if 0 < len(found) < len(total):
        these = validation.first_few(found)
        raise InputError(
            f"expected raw counts of every tissue, found logarithms of normalised ones in {these}; {advice}"
        )
    same = _SAME if all(Totals.recorded_in(tissue) for tissue in tissues) else _SAME_UNRECORDED
    if found and max(found.values()) > same * min(found.values()):
        low, high = min(found, key=found.__getitem__), max(found, key=found.__getitem__)
        raise InputError(
            "expected values on one scale, found tissues that were normalised one by one, to totals of "
            f"{found[low]:.0f} ({low}) and {found[high]:.0f} ({high}); {advice}"
        )


def _total_of_logarithms(tissue: "AnnData") -> float | None:
    """Total that spots were scaled to before the logarithm: as recorded, else that of the genes that are there.

    None where the values are no logarithms of counts.
    """
    if tissue.X is None or not are_logarithms(tissue.X):
        return None
    if recorded := Totals.recorded_in(tissue):
        return recorded.median
    return float(np.median(row_sums(to_csr(read_rows(tissue.X, slice(0, _LOOKED_AT)), np.float64).expm1())))


def _shared(tissues: "Sequence[AnnData]", names: Sequence[str]) -> pd.Index:
    """Give the genes that all tissues have, in the first one's order."""
    shared = set.intersection(*(set(tissue.var_names) for tissue in tissues))
    if not shared:
        raise InputError(
            f"expected genes that all of {', '.join(names)} have, found none; give their genes the same names"
        )
    n_genes = len(set().union(*(tissue.var_names for tissue in tissues)))
    log_left_out("join", "genes", n_genes, {"not in all tissues": n_genes - len(shared)})
    return tissues[0].var_names[tissues[0].var_names.isin(shared)]


def _union(tissues: "Sequence[AnnData]", names: Sequence[str]) -> tuple[pd.DataFrame, list[np.ndarray]]:
    """Give ``var`` of the genes that any tissue has, and the column there of the genes of each tissue."""
    union = GeneNames.of(tissues[0])
    var, columns = tissues[0].var, [np.arange(tissues[0].n_vars)]
    for name, tissue in zip(names[1:], tissues[1:], strict=True):
        own = GeneNames.of(tissue)
        matches = own.find_in(union)
        found = matches.position >= 0
        who = f"tissue {name}", "those before it"
        check_shared(int(found.sum()), own, union, *who, least=min(LEAST_SHARED, tissue.n_vars))
        log_matches("join", matches, own, union, *who)
        clashes = ~found & np.isin(own.name, union.name)
        if clashes.any():
            few = validation.first_few(own.name[clashes])
            logger.info("join: genes of tissue %s left out, since those before it call other genes so: %s", name, few)
        new = np.flatnonzero(~found & ~clashes)
        column = matches.position.copy()
        column[new] = union.name.size + np.arange(new.size)
        agreeing = [key for key in var if key in tissue.var and _agree(var[key], tissue.var[key], matches.position)]
        var = lengthened(var[agreeing], list(own.name[new]), tissue.var.iloc[new])
        union = union.plus(own.take(new))
        columns.append(column)
    return var, columns


def _agree(one: pd.Series, other: pd.Series, position: np.ndarray) -> bool:
    """Whether two columns say the same of the genes that both have."""
    found = position >= 0
    return one.iloc[position[found]].astype(object).tolist() == other[found].astype(object).tolist()


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


def _make_alike(parts: "Mapping[str, AnnData]") -> None:
    """Make tables in ``obsm`` arrays and columns of ``obs`` texts where tissues differ in that; say what is cut.

    What cannot be made alike is taken from one of the parts, so that the result is without it.
    """
    first, *others = parts.values()
    for key in [key for key in first.obsm if all(key in part.obsm for part in others)]:
        values = [part.obsm[key] for part in parts.values()]
        columns = {tuple(value) for value in values if isinstance(value, pd.DataFrame)}
        if key == keys.SPATIAL or not all(isinstance(value, pd.DataFrame) for value in values):
            if not all(_is_numeric(value) for value in values):
                del first.obsm[key]
                continue
            for part in parts.values():
                if isinstance(part.obsm[key], pd.DataFrame):
                    part.obsm[key] = part.obsm[key].to_numpy()
        elif len(columns) > 1 and not set.intersection(*map(set, columns)):
            del first.obsm[key]
            continue
        widths = [value.shape[1] for value in values]
        if len(set(widths)) > 1:
            logger.info(
                "join: obsm['%s'] has %s columns in the tissues; those that all have are kept",
                key,
                ", ".join(map(str, widths)),
            )
    for column in [column for column in first.obs if all(column in part.obs for part in others)]:
        numeric = {pd.api.types.is_numeric_dtype(part.obs[column].dtype) for part in parts.values()}
        if len(numeric) > 1:
            logger.info("join: obs['%s'] is a number in some tissues and not in others: text in the result", column)
            for part in parts.values():
                known = part.obs[column].notna()
                part.obs[column] = part.obs[column].astype(str).where(known).astype("category")


def _is_numeric(value: Any) -> bool:
    """Whether all of a table or array is numbers."""
    kinds = value.dtypes if isinstance(value, pd.DataFrame) else [getattr(value, "dtype", object)]
    return all(pd.api.types.is_numeric_dtype(kind) for kind in kinds)


def _same_in_all(each: "Sequence[Mapping[str, Any]]") -> dict[str, Any]:
    """Give the plain values of ``uns`` that all have, such as colours; mappings are what tools found for one tissue."""
    first, *others = each
    plain = {key: value for key, value in first.items() if isinstance(value, str | int | float | list | np.ndarray)}
    return {
        key: value
        for key, value in plain.items()
        if all(key in other and type(other[key]) is type(value) and _equal(value, other[key]) for other in others)
    }


def _equal(one: Any, other: Any) -> bool:
    """Whether two entries of ``uns`` are the same."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return set(one) == set(other) and all(_equal(one[name], other[name]) for name in one)
    return bool(np.array_equal(one, other))


def _log_left_out(parts: "Mapping[str, AnnData]", tissues: "Sequence[AnnData]", joined: "AnnData") -> None:
    """Say which matrices, columns and other entries are not in the result."""
    common = set.intersection(*(set(matrices(tissue)) for tissue in tissues))
    names = {name for tissue in tissues for name in matrices(tissue)} - common - {keys.MISSING}
    left_out = sorted("raw" if name == keys.RAW_X else f"layers['{name}']" for name in names if name is not keys.X)
    left_out += ["X"] if keys.X in names else []
    for part in ("obs", "var", "obsm", "varm", "obsp", "varp", "uns"):
        found = dict.fromkeys(str(name) for each in parts.values() for name in getattr(each, part))
        left_out += [f"{part}['{name}']" for name in found if name not in getattr(joined, part)]
    left_out = [name for name in left_out if name != f"uns['{keys.PROVENANCE}']"]
    if left_out:
        logger.info(
            "join: left out, since not in all tissues, not the same in all, or a result for one of them: %s",
            ", ".join(left_out),
        )


def _concatenated(parts: "dict[str, AnnData]") -> "AnnData":
    import anndata

    return anndata.concat(parts, join="inner", merge="same", index_unique="-")


def _empty_raw(tissue: "AnnData") -> "AnnData":
    import anndata

    return anndata.AnnData(obs=tissue.obs[[]], var=tissue.raw.var, varm=dict(tissue.raw.varm))


def _blocks(
    names: Sequence[str], tissues: "Sequence[AnnData]", columns: Sequence[np.ndarray], joined: "AnnData"
) -> Iterator[Block]:
    """Yield the rows of one tissue after the other, of the matrices that all have.

    ``columns`` are those of the result for the genes of each tissue, -1 where a gene is left out.
    """
    sources = []
    for name, tissue in zip(names, tissues, strict=True):
        with in_file(f"tissue {name}"):
            sources.append({key: as_row_major(matrix) for key, matrix in matrices(tissue).items()})
    common = [key for key in sources[0] if key != keys.MISSING and all(key in source for source in sources)]
    dense = {key for key in common if not any(_is_sparse(source[key]) for source in sources)}
    dtype = {key: np.result_type(*(source[key].dtype for source in sources)) for key in common}
    marks = any(keys.MISSING in source for source in sources) or any(
        np.setdiff1d(np.arange(joined.n_vars), column).size for column in columns
    )
    for name, tissue, source, column in zip(names, tissues, sources, columns, strict=True):
        genes = Placement(column, joined.n_vars)
        places = dict.fromkeys(common, genes)
        if keys.RAW_X in common:
            raw = joined.raw.var_names
            places[keys.RAW_X] = Placement(raw.get_indexer(tissue.raw.var_names), len(raw))
        for rows in row_chunks((tissue.n_obs, max(tissue.n_vars, joined.n_vars))):
            with in_file(f"tissue {name}"):
                block = {key: places[key].place(read_rows(source[key], rows), dtype[key]) for key in common}
                if marks:
                    block[keys.MISSING] = genes.missing(missing_mask(tissue, rows))
            yield {key: part.toarray() if key in dense else part for key, part in block.items()}


def _is_sparse(matrix: Any) -> bool:
    """Whether a matrix, in memory or on disk, is sparse."""
    return sp.issparse(matrix) or hasattr(matrix, "group")
