"""What a model may see of a data set: visible expression, the spatial graph, and nothing hidden."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

from stmcdi_cli import anndata_keys as keys
from stmcdi_cli.errors import InputError
from stmcdi_cli.model import noise
from stmcdi_cli.model.counts import SCALES, SHALLOWEST, detect_scale
from stmcdi_cli.sparse import missing_entries, row_chunks, to_csr, without

if TYPE_CHECKING:
    from anndata import AnnData

VALIDATION_STREAM = 1 << 20
"""Stream of the keyed numbers that choose the inner validation entries; no sampler's stream can reach it."""


@dataclass(frozen=True)
class Tissue:
    """Visible expression over a spatial graph.

    Attributes
    ----------
    x
        Expression on ``X``'s scale, CSR float32, spots x genes; 0 at missing entries.
    missing
        CSR bool, spots x genes; True where there is no value.
    graph
        Adjacency, CSR float32, spots x spots, no self-loops; 1 for each neighbour.
    depth
        Spot total over median total; 1 where the file does not tell.
    scale
        How `x` was made from counts, a name in `counts.SCALES`; None where it is no function of counts.
    genes
        Gene names in order.
    """

    x: sp.csr_matrix
    missing: sp.csr_matrix
    graph: sp.csr_matrix
    depth: np.ndarray
    scale: str | None
    genes: tuple[str, ...]

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
        return self.n_spots - np.asarray(self.missing.sum(0)).ravel()

    def counts(self) -> sp.csr_matrix:
        """Visible counts behind `x`, CSR float64."""
        assert self.scale is not None
        depth = np.repeat(self.depth, np.diff(self.x.indptr))
        counts = np.round(SCALES[self.scale][1](self.x.data.astype(np.float64), depth))
        return sp.csr_matrix((counts, self.x.indices, self.x.indptr), shape=self.x.shape)

    def without(self, hidden: sp.csr_matrix) -> "Tissue":
        """Give this tissue with some visible entries hidden as well (bool, spots x genes)."""
        x = sp.csr_matrix(self.x - self.x.multiply(hidden))
        x.eliminate_zeros()
        return replace(self, x=x, missing=sp.csr_matrix(self.missing + hidden))

    @classmethod
    def from_anndata(cls, adata: "AnnData") -> "Tissue":
        """Take the visible part of an AnnData object; whatever ``X`` holds at missing entries is dropped here.

        A spot flagged as empty is taken as missing altogether: it was not seen, which is not the same as seen to be 0.

        Raises
        ------
        InputError
            There is no spatial graph, or ``X`` has values a model cannot use.
        """
        if keys.CONNECTIVITIES not in adata.obsp:
            raise InputError(f"no obsp['{keys.CONNECTIVITIES}']; run `stmcdi build-graph` first")
        missing = missing_entries(adata)
        if keys.EMPTY_SPOT in adata.obs:
            empty = sp.csr_matrix(adata.obs[keys.EMPTY_SPOT].to_numpy(bool)[:, None])
            missing = to_csr(missing + empty @ sp.csr_matrix(np.ones((1, adata.n_vars), dtype=bool)), bool)
        x = without(to_csr(adata.X), missing)
        if not np.isfinite(x.data).all():
            raise InputError("X has NaN or infinite values; run `stmcdi normalize`, which marks NaN as missing")
        if x.nnz and x.data.min() < 0:
            raise InputError("X has negative values; give normalised expression or counts, not centred values")
        graph = sp.csr_matrix(adata.obsp[keys.CONNECTIVITIES], dtype=np.float32, copy=True)
        graph.setdiag(0)
        graph.eliminate_zeros()
        graph.sort_indices()
        size_factor = None
        if keys.SIZE_FACTOR in adata.obs:
            size_factor = adata.obs[keys.SIZE_FACTOR].to_numpy(np.float64)
        return cls(
            x=x,
            missing=missing,
            graph=graph,
            depth=np.ones(x.shape[0]) if size_factor is None else np.maximum(size_factor, SHALLOWEST),
            scale=detect_scale(x, size_factor),
            genes=tuple(map(str, adata.var_names)),
        )


def validation_entries(tissue: Tissue, share: float, seed: int) -> sp.csr_matrix:
    """Choose a share of the visible entries at random, by keys; CSR bool, spots x genes."""
    rows = []
    for chunk in row_chunks(tissue.x.shape):
        spots = np.arange(chunk.start, chunk.stop)
        picked = noise.uniform(seed, spots, np.array([0]), VALIDATION_STREAM, tissue.n_genes)[0] < share
        rows.append(sp.csr_matrix(picked & ~tissue.missing[spots].toarray()))
    return sp.vstack(rows, format="csr")
