"""Where a file has its counts, and what is done with counts that are not whole numbers."""

import logging
import shlex
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import scipy.sparse as sp

from stmcdi_cli import anndata_keys as keys
from stmcdi_cli import validation
from stmcdi_cli.errors import InputError, OptionError
from stmcdi_cli.io.h5ad import matrices, shallow_copy
from stmcdi_cli.sparse import (
    accumulate_by_column,
    as_row_major,
    mask_out,
    missing_mask,
    nan_mask,
    on_disk,
    read_rows,
    row_chunks,
    row_sums,
    to_csr,
)

if TYPE_CHECKING:
    from anndata import AnnData

logger = logging.getLogger(__name__)

RAW = "raw"
"""What stands for ``adata.raw`` where the name of a layer is asked for and no layer has this name."""
ROUNDING_ERROR = 1e-3
"""Values this near to a whole number are that number: a program has scaled counts and scaled them back."""
_LOOKED_AT, _LARGEST_LOG = 50, 20.0  # spots, and the largest logarithm of a normalised count
MOST_VALUES = 10**6
"""Values of a matrix that are looked at to see whether they are whole."""
_STREAM = 1 << 21  # of the keyed numbers that round; larger than any stream of the model


class Source(NamedTuple):
    """The counts of a tissue.

    Attributes
    ----------
    adata
        The tissue; with the genes of ``.raw`` where the counts are those.
    matrix
        Its counts, spots x genes, in memory or on disk.
    where
        What messages call the matrix, such as ``layers['counts']``.
    option
        The option of the command that names the layer.
    """

    adata: "AnnData"
    matrix: Any
    where: str
    option: str = "--layer"


def check_options(*, skip: bool, round: bool) -> None:
    """Refuse to keep values as they are and to round them."""
    if skip and round:
        raise OptionError("expected either `skip` or `round`, found both; leave one out")


def find_counts(adata: "AnnData", layer: str | None, step: str, option: str = "--layer") -> Source:
    """Find the counts: in ``X``, in a layer, or (``layer`` is "raw", and no layer is called so) in ``.raw``.

    ``option`` is what the command line calls ``layer``.

    Raises
    ------
    InputError
        They are not there.
    """
    if layer is not None and layer in adata.layers:
        return Source(adata, adata.layers[layer], f"layers['{layer}']", option)
    if layer == RAW and adata.raw is not None:
        found = _with_genes_of_raw(adata, step)
        return Source(found, found.X, ".raw", option)
    if layer is not None:
        raise InputError(
            f"expected counts in layers['{layer}'], found only {validation.first_few(_all_names(adata))}; "
            f"correct {option}"
        )
    if adata.X is None:
        elsewhere = next(_whole_elsewhere(adata, None, option), "write the file again, with counts in X")
        raise InputError(f"expected counts in X, found no X; {elsewhere}")
    return Source(adata, adata.X, "X", option)


def _all_names(adata: "AnnData") -> list[str]:
    return [*_layer_names(adata), *([".raw"] if adata.raw is not None else [])]


def _layer_names(adata: "AnnData") -> list[str]:
    return [name for name in matrices(adata) if name not in (keys.X, keys.RAW_X)]


def _with_genes_of_raw(adata: "AnnData", step: str) -> "AnnData":
    """Give a tissue of the genes and values of ``.raw``; what has the genes of ``X`` is left out where they differ."""
    raw = adata.raw
    if raw.var_names.equals(adata.var_names):
        var = raw.var.assign(**{name: adata.var[name].array for name in adata.var if name not in raw.var})
        return shallow_copy(adata, X=raw.X, var=var, varm={**adata.varm, **raw.varm}, raw=None)
    if keys.MISSING in adata.layers:
        raise InputError(
            f"layers['{keys.MISSING}'] is for the {adata.n_vars} genes of X, and .raw has {raw.n_vars}; "
            "mark missing entries of .raw as NaN, and remove the layer"
        )
    left_out = ["X", *(f"var['{name}']" for name in adata.var if name not in raw.var)]
    left_out += [f"layers['{name}']" for name in _layer_names(adata)]
    left_out += [f"{part}['{name}']" for part in ("varm", "varp") for name in getattr(adata, part)]
    logger.info(
        "%s: %d genes of .raw, where X has %d; left out, since they are for the genes of X: %s",
        step,
        raw.n_vars,
        adata.n_vars,
        ", ".join(left_out),
    )
    changed = {"X": raw.X, "var": raw.var.copy(), "varm": dict(raw.varm), "varp": {}, "layers": {}, "raw": None}
    found = shallow_copy(adata, **changed)
    validation.check(found)
    return found


def whole_counts(values: sp.csr_matrix, first_spot: int = 0, *, at_random: bool = False) -> sp.csr_matrix:
    """Round values, where they may be rounded; others stay.

    Values within `ROUNDING_ERROR` of a whole number become that number. With ``at_random`` every other value v becomes
    the whole number above it with the probability v - floor(v), else the one below: the expected value is v, so that
    the sums over genes and spots are kept, on average. Rounding to the nearest number would make 0 of a gene that has
    0.3 everywhere. The choice depends on the positions of the spot and the gene alone.

    Parameters
    ----------
    values
        Finite values of some spots, CSR float32, spots x genes.
    first_spot
        Position of the first of them in the tissue.
    at_random
        Round those far from whole numbers as well.
    """
    whole = np.rint(values.data)
    with np.errstate(invalid="ignore"):  # infinite ones, which others refuse
        distance = np.abs(values.data - whole)
    if not distance.any():
        return values
    data = np.where(distance <= ROUNDING_ERROR, whole, values.data)
    far = np.flatnonzero(distance > ROUNDING_ERROR)
    if at_random and far.size:
        from stmcdi_cli.model.diffusion import keyed_noise

        spots = np.arange(values.shape[0])
        row = np.repeat(spots, np.diff(values.indptr))[far]
        uniform = keyed_noise.uniform(0, first_spot + spots, np.array([0]), _STREAM, values.shape[1])[0]
        below = np.floor(data[far])
        data[far] = below + (uniform[row, values.indices[far]] < data[far] - below)
    rounded = sp.csr_matrix((data, values.indices.copy(), values.indptr.copy()), shape=values.shape)
    rounded.eliminate_zeros()
    return rounded


def n_fractions(values: sp.csr_matrix) -> int:
    """Give the number of values that are not whole."""
    return int(np.count_nonzero(values.data != np.rint(values.data)))


def check_values(values: sp.csr_matrix, source: Source) -> None:
    """Refuse infinite or negative values; say where whole counts are, if there are any.

    Raises
    ------
    InputError
        Some value cannot be a count.
    """
    if values.nnz and values.data.min() < 0:
        elsewhere = next(_whole_elsewhere(source.adata, source.where, source.option), None)
        if elsewhere:
            lowest = values.data.min()
            raise InputError(f"expected no negative value in {source.where}, found {lowest:g}; {elsewhere}")
    validation.values(values, source.where)


def check_some(n_values: int, source: Source) -> None:
    """Refuse a matrix that is zero everywhere; say where whole counts are, if there are any.

    Raises
    ------
    InputError
        It is.
    """
    if not n_values:
        elsewhere = next(
            _whole_elsewhere(source.adata, source.where, source.option), "check the steps that made this file"
        )
        validation.some_value(n_values, source.where, elsewhere)


def check_whole(values: sp.csr_matrix, source: Source) -> None:
    """Refuse values that are not whole numbers; say where whole ones are, or what else can be done.

    Raises
    ------
    InputError
        Some value is not whole.
    """
    if not validation.is_counts(values):
        broken = values.data != np.rint(values.data)
        genes, names = np.unique(values.indices[broken]), source.adata.var_names
        few = source.where != ".raw" and values.shape == source.adata.shape and len(genes) <= min(3, len(names) // 4)
        alone = f" in {validation.first_few(names[genes])} alone (if that is no gene, leave it out)" if few else ""
        found, advice = f"{values.data[broken][0]:g}{alone}", _advice(source)
        raise InputError(f"expected whole counts in {source.where}, found {found}; {advice}")


def log_rounded(step: str, where: str, n_values: int, *, at_random: bool) -> None:
    """Say how many values were rounded, if any."""
    if n_values and at_random:
        logger.info("%s: %d values in %s were not whole, and were rounded up or down at random", step, n_values, where)
    elif n_values:
        logger.info(
            "%s: %d values in %s were within %g of whole counts, and were rounded",
            step,
            n_values,
            where,
            ROUNDING_ERROR,
        )


def some_values(matrix: Any) -> sp.csr_matrix:
    """First values of a matrix, on disk or in memory, without zeros and NaN; in one row."""
    if sp.issparse(matrix) or hasattr(matrix, "group"):
        values = (matrix.data if sp.issparse(matrix) else matrix.group["data"])[:MOST_VALUES]
    else:
        values = np.asarray(matrix[: 1 + MOST_VALUES // max(1, matrix.shape[1])]).ravel()
    values = values[(values != 0) & ~np.isnan(values)]
    return sp.csr_matrix(values.reshape(1, -1))


def _advice(source: Source) -> str:
    """What to do: take the whole counts that the file has elsewhere, or values that are not whole."""
    of_reference = source.option != Source._field_defaults["option"]  # --skip would be for the panel, too
    skipped = (
        ", or normalised values of both sides (--skip)" if of_reference else ", or use values as they are (--skip)"
    )
    if are_logarithms(source.matrix):
        otherwise = "give raw counts (these look log1p-normalised)"
    else:
        otherwise = "round corrected counts at random (--round)"
    return next(_whole_elsewhere(source.adata, source.where, source.option), otherwise + skipped)


def are_logarithms(matrix: Any) -> bool:
    """Whether the first spots hold log(1 + count / depth): then exp(x) - 1 are multiples of their smallest.

    Parameters
    ----------
    matrix
        Spots x genes, in memory or on disk; of one that is on disk and stored by columns it is not known.
    """
    if on_disk(matrix) and getattr(matrix, "format", None) == "csc":
        return False
    judged = []
    for row in to_csr(read_rows(matrix, slice(0, _LOOKED_AT)), np.float64):
        x = row.data[np.isfinite(row.data)]
        if np.unique(x).size < 2 or x.min() < 0 or x.max() > _LARGEST_LOG:
            continue
        ratio = np.expm1(x) / np.expm1(x.min())  # the smallest is of 1, 2 or 3 counts
        judged.append(any((np.abs(m * ratio - np.rint(m * ratio)) < 1e-3 * m * ratio).all() for m in (1, 2, 3)))
    return len(judged) > 0 and bool(np.mean(judged) > 0.9)


def _whole_elsewhere(adata: "AnnData", where: str | None, option: str) -> Iterator[str]:
    """Name matrices that hold whole counts, and how to take them."""
    for name in sorted(_layer_names(adata), key=lambda name: name != keys.COUNTS):
        place = f"layers['{name}']"
        if place != where and name != keys.MISSING and _holds_counts(adata.layers[name]):
            yield f"{place} holds whole counts: {option} {shlex.quote(name)}"
    if where != ".raw" and adata.raw is not None and RAW not in adata.layers and _holds_counts(adata.raw.X):
        yield f".raw holds whole counts: {option} {RAW}"
    if where not in ("X", None) and adata.X is not None and _holds_counts(adata.X):
        yield f"X holds whole counts: leave out {option}"


def _holds_counts(matrix: Any) -> bool:
    """Whether the first values of a matrix are counts."""
    if matrix.dtype.kind not in "iuf":
        return False
    values = some_values(matrix)
    if not values.nnz or not np.isfinite(values.data).all() or values.data.min() < 0:
        return False
    return validation.is_counts(whole_counts(values))


class Counts:
    """Counts of a tissue without the entries that have no value. They are read once to sum them up.

    Parameters
    ----------
    source
        Where they are.
    skip
        Leave values as they are; they need not be whole.
    at_random
        Round values that are not whole at random, instead of refusing them.
    step
        Name of the step, for what is said.

    Attributes
    ----------
    visible_total, gene_total
        Sums of the visible counts over genes [n] and over spots [G].
    empty
        Which spots have no visible count, bool [n].
    n_values, n_missing, n_nan
        How many entries are visible and not zero, have no value, and have none because they are NaN.
    whole
        Whether all values are whole numbers.
    """

    def __init__(self, source: Source, *, skip: bool, at_random: bool, step: str) -> None:
        adata = source.adata
        self.adata, self.matrix = adata, as_row_major(source.matrix)
        self.skip, self.at_random = skip, at_random
        self.visible_total, self.gene_total = np.empty(adata.n_obs), np.zeros(adata.n_vars)
        self.empty, self.whole = np.empty(adata.n_obs, bool), True
        self.n_values = self.n_missing = self.n_nan = n_rounded = 0
        for rows in row_chunks(adata.shape):
            found, missing = self._visible(rows)
            check_values(found, source)
            values = self._rounded(found, rows)
            if not skip:
                check_whole(values, source)
                n_rounded += n_fractions(found)
            self.whole = self.whole and validation.is_counts(values)
            self.visible_total[rows], self.empty[rows] = row_sums(values), np.diff(values.indptr) == 0
            self.gene_total = accumulate_by_column(self.gene_total, values.indices, values.data)
            self.n_values, self.n_missing = self.n_values + values.nnz, self.n_missing + missing.nnz
            self.n_nan += missing.nnz - missing_mask(adata, rows).nnz
        check_some(self.n_values, source)
        if n_rounded and at_random and are_logarithms(self.matrix):
            raise InputError(
                f"expected corrected counts in {source.where}, found log1p-normalised ones, which cannot be rounded; "
                "give raw counts (without --round)"
            )
        log_rounded(step, source.where, n_rounded, at_random=at_random)

    def read(self, rows: slice) -> tuple[sp.csr_matrix, sp.csr_matrix]:
        """Give the visible values of some spots (CSR float32), and which entries have none (CSR bool)."""
        values, missing = self._visible(rows)
        return self._rounded(values, rows), missing

    def _visible(self, rows: slice) -> tuple[sp.csr_matrix, sp.csr_matrix]:
        values = to_csr(read_rows(self.matrix, rows))
        missing = missing_mask(self.adata, rows) + nan_mask(values)
        return mask_out(values, missing), missing

    def _rounded(self, values: sp.csr_matrix, rows: slice) -> sp.csr_matrix:
        return values if self.skip else whole_counts(values, rows.start, at_random=self.at_random)

    def missing(self) -> Iterator[tuple[slice, sp.csr_matrix]]:
        """Go through the entries that have no value: runs of spots, and CSR bool, spots of the run x genes."""
        for rows in row_chunks(self.adata.shape):
            yield rows, self.read(rows)[1] if self.n_nan else missing_mask(self.adata, rows)

    def has_value(self, spots: slice) -> np.ndarray:
        """Which genes have a value in any of some spots, bool [G]."""
        n_hidden, (start, stop, _) = np.zeros(self.adata.n_vars), spots.indices(self.adata.n_obs)
        for rows, mask in self.missing():
            some = mask[max(start - rows.start, 0) : max(stop - rows.start, 0)]
            n_hidden = accumulate_by_column(n_hidden, some.indices, some.data)
        return n_hidden < stop - start
