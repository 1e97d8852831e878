"""What a model may see of a data set: visible expression, the spatial graph, and nothing hidden."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

from stmcdi_cli import anndata_keys as keys
from stmcdi_cli import resources, roles, validation
from stmcdi_cli.errors import InputError
from stmcdi_cli.model.diffusion import keyed_noise
from stmcdi_cli.model.scales import SCALES, SHALLOWEST, ScaleSearch
from stmcdi_cli.provenance import Totals, parameters_of
from stmcdi_cli.sparse import as_row_major, mask_out, read_rows, row_chunks, select_rows, size_when_read, to_csr, vstack

if TYPE_CHECKING:
    from anndata import AnnData
    from pandas import Index

logger = logging.getLogger(__name__)

_SMALL = 2**28
"""Bytes up to which matrices that may stay on disk are read into memory, since their rows are needed several times; a
quarter of the memory there is, where that is less."""
_FEW_ROWS = 1024

VALIDATION_STREAM = 1 << 20
"""Stream of the keyed numbers that choose the inner validation entries; larger than the stream of any sampler."""


class Rows:
    """A matrix of spots x genes that stays on disk; its rows are read when they are needed.

    The rows read last are kept, if they are few: those of a block are asked for several times in a row.

    Parameters
    ----------
    read
        Reads consecutive rows.
    shape
        Spots and genes.
    nnz
        Number of values stored.
    """

    def __init__(self, read: Callable[[slice], sp.csr_matrix], shape: tuple[int, int], nnz: int) -> None:
        self.shape = shape
        self.nnz = nnz
        self._read = read
        self._kept = lru_cache(maxsize=2 * resources.n_workers())(lambda start, stop: read(slice(start, stop)))

    def read(self, rows: slice) -> sp.csr_matrix:
        """Consecutive rows."""
        return self._kept(rows.start, rows.stop) if rows.stop - rows.start <= _FEW_ROWS else self._read(rows)

    def __getitem__(self, spots: np.ndarray) -> sp.csr_matrix:
        """Rows of some spots, which should be close to each other: all rows between them are read."""
        first = int(spots.min())
        return self.read(slice(first, int(spots.max()) + 1))[spots - first]

    def rows(self, spots: slice) -> "Rows":
        """Give some consecutive rows, which stay on disk."""
        start, stop = spots.start, spots.stop
        share = (stop - start) / max(1, self.shape[0])
        return Rows(
            lambda rows: self.read(slice(rows.start + start, rows.stop + start)),
            (stop - start, self.shape[1]),
            round(share * self.nnz),
        )


@dataclass(frozen=True)
class Tissue:
    """Visible expression over a spatial graph.

    Attributes
    ----------
    x
        Expression on ``X``'s scale, CSR float32, spots x genes; 0 at missing entries. `Rows` on disk where a tissue is
        only imputed.
    missing
        CSR bool, spots x genes; True where there is no value. On disk if `x` is.
    graph
        Adjacency, CSR float32, spots x spots, no self-loops; 1 for each neighbour.
    depth
        Spot total divided by the median total; 1 where the file has no size factors.
    count_scale
        Function of the counts that `x` is, a name in `scales.SCALES`; None where it is not a function of counts.
    genes
        Gene names in order.
    odd_spots
        Spots whose values are no whole counts on the scale of the others, bool [n]. All their entries are missing
        here: no model can read them, and none may learn from them.
    lengths
        Distances between neighbours, CSR, spots x spots; None where the file has none.
    n_target
        Number of spots of the target, which come first; the others are cells of a reference. None: there are none.
    totals
        What depth 1 stands for; None where that is not on record.
    """

    x: sp.csr_matrix
    missing: sp.csr_matrix
    graph: sp.csr_matrix
    depth: np.ndarray
    count_scale: str | None
    genes: tuple[str, ...]
    odd_spots: np.ndarray
    lengths: sp.csr_matrix | None = None
    n_target: int | None = None
    totals: Totals | None = None

    @property
    def target(self) -> "Tissue":
        """The target alone."""
        return self if self.n_target is None else self.rows(slice(0, self.n_target))

    @property
    def reference(self) -> "Tissue | None":
        """The cells of the reference alone; None where there is none."""
        return None if self.n_target is None else self.rows(slice(self.n_target, self.n_spots))

    def in_memory(self) -> "Tissue":
        """The same with matrices that are in memory."""
        every = np.arange(self.n_spots)
        return replace(self, x=self.x[every], missing=self.missing[every])

    def rows(self, spots: slice) -> "Tissue":
        """Give some consecutive spots and the graph between them."""
        lengths = None if self.lengths is None else self.lengths[spots, spots]
        return replace(
            self,
            x=self.x.rows(spots) if isinstance(self.x, Rows) else self.x[spots],
            missing=self.missing.rows(spots) if isinstance(self.missing, Rows) else self.missing[spots],
            graph=self.graph[spots, spots],
            depth=self.depth[spots],
            odd_spots=self.odd_spots[spots],
            lengths=lengths,
            n_target=None,
        )

    @property
    def n_spots(self) -> int:
        """Number of spots."""
        return self.x.shape[0]

    @property
    def n_genes(self) -> int:
        """Number of genes."""
        return self.x.shape[1]

    @cached_property
    def n_visible(self) -> np.ndarray:
        """Visible entries per gene."""
        visible = np.full(self.n_genes, self.n_spots)
        for rows in row_chunks(self.x.shape):
            visible -= np.asarray(self.missing[np.arange(rows.start, rows.stop)].sum(0)).ravel()
        return visible

    def counts(self) -> sp.csr_matrix:
        """Visible counts from which `x` was computed, CSR float64."""
        assert self.count_scale is not None
        depth = np.repeat(self.depth, np.diff(self.x.indptr))
        counts = np.round(SCALES[self.count_scale][1](self.x.data.astype(np.float64), depth))
        return sp.csr_matrix((counts, self.x.indices, self.x.indptr), shape=self.x.shape)

    def without(self, hidden: sp.csr_matrix) -> "Tissue":
        """Give a copy of this tissue in which some more entries are missing (bool, spots x genes)."""
        x = sp.csr_matrix(self.x - self.x.multiply(hidden))
        x.eliminate_zeros()
        return replace(self, x=x, missing=sp.csr_matrix(self.missing + hidden))

    @classmethod
    def from_anndata(cls, adata: "AnnData", spots: np.ndarray | None = None, *, on_disk: bool = False) -> "Tissue":
        """Take the visible part of an AnnData object; values of ``X`` at missing entries are dropped here.

        All entries of a spot flagged as empty are missing: nothing was measured there, which is not a measured 0. The
        same holds for spots that are no whole counts where nearly all others are.

        Parameters
        ----------
        adata
            The object; its matrices may be on disk.
        spots
            Positions of the spots to take, ascending, with the graph between them; all by default.
        on_disk
            Leave matrices that are on disk there, if they are large.

        Raises
        ------
        InputError
            There is no spatial graph, or ``X`` has values a model cannot use.
        """
        validation.matrix(adata)
        graph, lengths = graph_of(adata), lengths_of(adata)
        X, missing = as_row_major(adata.X), as_row_major(adata.layers.get(keys.MISSING))
        obs = adata.obs
        if spots is not None:
            graph, obs = graph[spots][:, spots], obs.iloc[spots]
            lengths = None if lengths is None else lengths[spots][:, spots]
            X, missing = select_rows(X, spots), None if missing is None else select_rows(missing, spots)
        shape = (len(obs), adata.n_vars)
        n_target = roles.n_target(adata) if spots is None else int((spots < roles.n_target(adata)).sum())
        unseen = obs[keys.EMPTY_SPOT].to_numpy(bool).copy() if keys.EMPTY_SPOT in obs else np.zeros(len(obs), bool)
        size_factor = obs[keys.SIZE_FACTOR].to_numpy(np.float64) if keys.SIZE_FACTOR in obs else np.ones(len(obs))
        depth = np.maximum(size_factor, SHALLOWEST)
        every_gene = sp.csr_matrix(np.ones((1, adata.n_vars), bool))

        def missing_rows(rows: slice) -> sp.csr_matrix:
            part = sp.csr_matrix((rows.stop - rows.start, shape[1]), dtype=bool)
            if missing is not None:
                part = to_csr(read_rows(missing, rows), bool)
            if unseen[rows].any():
                part = to_csr(part + sp.csr_matrix(unseen[rows, None]) @ every_gene, bool)
            return part

        def both(rows: slice) -> tuple[sp.csr_matrix, sp.csr_matrix]:
            hidden = missing_rows(rows)
            return mask_out(to_csr(read_rows(X, rows)), hidden), hidden

        search, parts = ScaleSearch(_recorded_scale(adata)), []
        lazy = on_disk and size_when_read(X) + size_when_read(missing) > min(_SMALL, resources.room() // 4)
        for rows in row_chunks(shape):
            x, hidden = both(rows)
            _check_values(x)
            search.see(x, depth[rows])
            parts.append((x.nnz, hidden.nnz) if lazy else (x, hidden))
        odd_spots = search.odd_spots
        if odd_spots.any():
            unseen |= odd_spots  # `missing_rows` reads it
            again = map(both, row_chunks(shape))
            parts = [(x.nnz, hidden.nnz) if lazy else (x, hidden) for x, hidden in again]
        visible, masks = zip(*parts, strict=True)
        if lazy:
            absent = Rows(missing_rows, shape, sum(masks))
            values = Rows(lambda rows: mask_out(to_csr(read_rows(X, rows)), absent.read(rows)), shape, sum(visible))
        return cls(
            x=values if lazy else vstack(visible),
            missing=absent if lazy else vstack(masks),
            graph=graph,
            depth=depth,
            count_scale=search.scale,
            genes=tuple(map(str, adata.var_names)),
            odd_spots=odd_spots,
            lengths=lengths,
            n_target=None if n_target == len(obs) else n_target,
            totals=Totals.recorded_in(adata),
        )


def _recorded_scale(adata: "AnnData") -> str | None:
    """Scale on which `normalize` left whole counts, where it is on record; a later program may have changed them."""
    done = parameters_of(adata, "normalize")
    if done.get("skip", True):
        return None
    return "log1p" if done.get("log") else "linear"


def _check_values(x: sp.csr_matrix) -> None:
    """Refuse values that no model can use."""
    if not np.isfinite(x.data).all():
        raise InputError("X has NaN or infinite values; run `stmcdi normalize`, which marks NaN as missing")
    if x.nnz and x.data.min() < 0:
        raise InputError("X has negative values; give normalised expression or counts, not centred values")


def log_scale(step: str, tissue: Tissue, names: "Index") -> None:
    """Say where counting noise is not modelled: in the whole tissue, or in odd spots, by their names."""
    if tissue.count_scale is None:
        logger.warning(
            "%s: X is no count on any known scale (log1p-normalised, normalised or raw): its values are taken "
            "as Gaussian, without counting noise; run `stmcdi normalize` on raw counts to have it modelled",
            step,
        )
    elif tissue.odd_spots.any():
        logger.warning(
            "%s: %d of %d spots hold no whole counts, unlike the others (%s); nothing is learnt from their values",
            step,
            tissue.odd_spots.sum(),
            tissue.n_spots,
            validation.first_few(names[tissue.odd_spots]),
        )


def graph_of(adata: "AnnData") -> sp.csr_matrix:
    """Give the spatial graph, CSR float32 without self-loops.

    Raises
    ------
    InputError
        The object has no spatial graph, or one with negative weights.
    """
    if keys.CONNECTIVITIES not in adata.obsp:
        raise InputError(f"no obsp['{keys.CONNECTIVITIES}']; run `stmcdi build-graph` first")
    graph = sp.csr_matrix(adata.obsp[keys.CONNECTIVITIES], dtype=np.float32, copy=True)
    if graph.nnz and graph.data.min() < 0:
        raise InputError(f"obsp['{keys.CONNECTIVITIES}'] has negative weights; run `stmcdi build-graph` again")
    graph.data[np.repeat(np.arange(graph.shape[0]), np.diff(graph.indptr)) == graph.indices] = 0  # of a spot to itself
    graph.eliminate_zeros()
    graph.sort_indices()
    return graph


def lengths_of(adata: "AnnData") -> sp.csr_matrix | None:
    """Give the distances between neighbours, CSR; None where the object has none.

    Raises
    ------
    InputError
        A distance is NaN, infinite or negative.
    """
    if keys.DISTANCES not in adata.obsp:
        return None
    lengths = sp.csr_matrix(adata.obsp[keys.DISTANCES])
    if not (np.isfinite(lengths.data).all() and (lengths.data >= 0).all()):
        raise InputError(
            f"obsp['{keys.DISTANCES}'] has NaN, infinite or negative values; run `stmcdi build-graph` again"
        )
    return lengths


def validation_entries(tissue: Tissue, share: float, seed: int) -> sp.csr_matrix:
    """Choose a share of the visible entries at random, with keyed numbers; CSR bool, spots x genes."""
    rows = []
    for chunk in row_chunks(tissue.x.shape):
        spots = np.arange(chunk.start, chunk.stop)
        picked = keyed_noise.uniform(seed, spots, np.array([0]), VALIDATION_STREAM, tissue.n_genes)[0] < share
        rows.append(sp.csr_matrix(picked & ~tissue.missing[spots].toarray()))
    return sp.vstack(rows, format="csr")
