"""Input and output of the comparison methods, and the functions that several of them use.

Matrices are dense here, spots x genes in single precision, which keeps the methods short. No dense matrix is spots x
spots.
"""

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from stmcdi_cli import anndata_keys as keys
from stmcdi_cli import validation
from stmcdi_cli.errors import InputError
from stmcdi_cli.graph import adjacency, edges, nearest_among
from stmcdi_cli.model.gene_scaler import GeneScaler, gene_mean, gene_sd
from stmcdi_cli.model.tissue import Tissue
from stmcdi_cli.provenance import imported_section_key
from stmcdi_cli.sparse import to_csr

if TYPE_CHECKING:
    from anndata import AnnData


logger = logging.getLogger(__name__)

BLOCK = 256
"""Spots computed at a time; fixed, because the rounding of results may depend on it."""

SAME_PLACE = 1e-6
"""Spots closer than this, relative to the longest distance, count as so far apart."""
GAP_NEIGHBORS = 12
"""Visible spots that tell what to expect in a spot without a visible value."""

_PRIOR_ENTRIES = 20
_PRIOR_NEIGHBORS = np.float32(3)


@dataclass(frozen=True)
class DenseTissue:
    """The visible part of a data set as dense matrices, and the positions of the spots.

    Attributes
    ----------
    tissue
        Visible expression, spatial graph and depth of the spots, as the diffusion model sees them.
    x
        Expression on ``X``'s scale, float32 [n, G]; 0 where nothing is visible.
    seen
        True where a value is visible [n, G].
    xy
        Coordinates [n, 2 or 3]; None where the file has none.
    section
        Integer code of each spot's tissue section [n].
    """

    tissue: Tissue
    x: np.ndarray
    seen: np.ndarray
    xy: np.ndarray | None
    section: np.ndarray

    @classmethod
    def from_anndata(cls, adata: "AnnData", section_key: str | None) -> "DenseTissue":
        """Take the visible part of an AnnData object; values at missing entries are dropped here.

        Raises
        ------
        InputError
            ``X``, the coordinates or the sections cannot be used.
        """
        validation.table(adata)
        validation.matrix(adata)
        if section_key is None:  # as the graph was built
            section_key = adata.uns.get(keys.NEIGHBORS, {}).get("params", {}).get("section_key")
            section_key = section_key or imported_section_key(adata)
        section = validation.sections(adata, section_key)
        xy = validation.coordinates(adata) if keys.SPATIAL in adata.obsm else None
        tissue = Tissue.from_anndata(_with_graph(adata, xy, section))
        return cls(tissue, tissue.x.toarray(), ~tissue.missing.toarray(), xy, section)

    def without(self, hidden: np.ndarray) -> "DenseTissue":
        """Give the same tissue with some visible entries hidden as well (bool [n, G])."""
        x, seen = np.where(hidden, np.float32(0), self.x), self.seen & ~hidden
        return replace(self, tissue=self.tissue.without(sp.csr_matrix(hidden)), x=x, seen=seen)

    @property
    def visible(self) -> np.ndarray:
        """Spots with a visible value, bool [n]."""
        return np.any(self.seen, axis=1)

    @property
    def positions(self) -> np.ndarray:
        """Coordinates [n, 2 or 3].

        Raises
        ------
        InputError
            The file has none.
        """
        if self.xy is None:
            raise InputError(f"expected spot coordinates in obsm['{keys.SPATIAL}'], found none; add them to the file")
        return self.xy

    def nearest(self, k: int) -> sp.csr_matrix:
        """Give the k visible spots of its section nearest to each spot, without itself; 1 for each, CSR [n, n].

        Raises
        ------
        InputError
            The file has no coordinates.
        """
        return adjacency(nearest_among(self.positions, self.section, self.visible, k), len(self.x))

    def inverse_distances(self, k: int) -> sp.csr_matrix:
        """Give the spots of `nearest` with 1 / distance for each, in any unit, CSR float32 [n, n].

        Raises
        ------
        InputError
            The file has no coordinates.
        """
        found = nearest_among(self.positions, self.section, self.visible, k)
        longest = max(found.length.max(initial=0.0), np.finfo(float).tiny)
        weight = 1 / np.maximum(found.length / longest, SAME_PLACE)
        return to_csr(sp.csr_matrix((weight, (found.source, found.target)), shape=2 * (len(self.x),)), np.float32)


@dataclass(frozen=True)
class Estimate:
    """A method's estimate of every entry.

    Attributes
    ----------
    mean
        Expected value on ``X``'s scale, float32 [n, G].
    sd
        Standard deviation of an observation there, noise included; [n, G] or [G].
    """

    mean: np.ndarray
    sd: np.ndarray


def _with_graph(adata: "AnnData", xy: np.ndarray | None, section: np.ndarray) -> "AnnData":
    """Add the graph that `build_graph` makes by default where there is none; without coordinates, one without edges."""
    import anndata

    graph = adata.obsp[keys.CONNECTIVITIES] if keys.CONNECTIVITIES in adata.obsp else None
    if graph is None:
        n = adata.n_obs
        graph = sp.csr_matrix((n, n), dtype=np.float32) if xy is None else adjacency(edges(xy, section), n)
    layers = {keys.MISSING: adata.layers[keys.MISSING]} if keys.MISSING in adata.layers else None
    return anndata.AnnData(adata.X, obs=adata.obs, var=adata.var, layers=layers, obsp={keys.CONNECTIVITIES: graph})


def mean_over(neighbors: sp.csr_matrix, x: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Mean over the neighbours in which a gene is visible, float32 [n, G].

    The gene's mean over all spots counts as much as 3 neighbours. This gives better results, and a value where the gene
    is visible in no neighbour.
    """
    visible = seen.astype(np.float32)
    mean = gene_mean(x, seen).astype(np.float32)
    return (neighbors @ (x * visible) + _PRIOR_NEIGHBORS * mean) / (neighbors @ visible + _PRIOR_NEIGHBORS)


def weighted_mean(weights: sp.csr_matrix, x: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Weighted mean over the spots in which a gene is visible, float32 [n, G]; the gene's mean where it is in none."""
    visible = seen.astype(np.float32)
    total = weights @ visible
    mean = (weights @ (x * visible)) / np.where(total > 0, total, 1)
    return np.where(total > 0, mean, gene_mean(x, seen)).astype(np.float32)


def fill_gaps(data: DenseTissue, estimate: Estimate) -> Estimate:
    """Replace the estimate of spots without a visible value, for a method that starts from a spot's own values.

    They get the inverse-distance mean of the estimates at the 12 nearest visible spots of the section, and the standard
    deviation of what this leaves at the visible spots. Without coordinates they get each gene's mean.
    """
    gaps = ~data.visible
    if not gaps.any():
        return estimate
    known = np.broadcast_to(data.visible[:, None], data.x.shape)
    if data.xy is None:
        logger.warning(
            "baseline: %d spot(s) have no visible value and the file no coordinates: they get each gene's mean",
            gaps.sum(),
        )
        mean, sd = gene_mean(data.x, data.seen), gene_sd(data.x, data.seen)
    else:
        mean = weighted_mean(data.inverse_distances(GAP_NEIGHBORS), estimate.mean, known)
        sd = residual_sd(data.x, data.seen, mean, data.seen)
    mean, sd = np.where(known, estimate.mean, mean), np.where(known, estimate.sd, sd)
    return Estimate(mean.astype(np.float32), sd)


def masked_tensor(scaler: GeneScaler, x: np.ndarray, seen: np.ndarray) -> Tensor:
    """Scaled expression as a tensor, 0 where nothing is visible [n, G]."""
    z = np.where(seen, scaler.transform(x), 0).astype(np.float32)
    return torch.from_numpy(z).clone()  # in memory that torch aligns: the rounding of products depends on that


def choose_entries(seen: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Choose a share of the visible entries at random (bool [n, G])."""
    return seen & (np.random.default_rng(seed).random(seen.shape, dtype=np.float32) < share)


def residual_sd(x: np.ndarray, seen: np.ndarray, mean: np.ndarray, unseen: np.ndarray) -> np.ndarray:
    """Standard deviation per gene [G] of x - mean over the `unseen` entries, which were not used for the mean.

    A gene may have few of these entries. So its variance is shrunk towards its visible variance times the share of
    variance that remains over all genes, which counts as much as 20 entries.
    """
    variance = gene_sd(x, seen) ** 2
    square = ((x - mean) ** 2 * unseen).sum(0, dtype=np.float64)
    number = unseen.sum(0)
    remaining = square.sum() / max(float(number @ variance), 1e-12)
    return np.sqrt((square + _PRIOR_ENTRIES * remaining * variance) / (number + _PRIOR_ENTRIES))


def leading_directions(z: Tensor, rank: int, seed: int) -> Tensor:
    """Approximate the leading right singular vectors of z [n, G] by random projection; orthonormal, [G, rank]."""
    generator = torch.Generator().manual_seed(seed)
    width = min(rank + 8, *z.shape)
    basis = torch.linalg.qr(torch.randn(z.shape[1], width, generator=generator))[0]
    for _ in range(6):
        basis = torch.linalg.qr(z.T @ (z @ basis))[0]
    right = torch.linalg.svd(z @ basis, full_matrices=False)[2]
    return (basis @ right.T)[:, : min(rank, width)]


def neighbor_matrix(columns: np.ndarray) -> sp.csr_matrix:
    """Adjacency from the list of each spot's neighbours [n, k]; 1 for each, CSR float32 [n, n]."""
    n, k = columns.shape
    return to_csr(
        sp.csr_matrix((np.ones(n * k, np.float32), columns.ravel(), np.arange(0, n * k + 1, k)), shape=(n, n))
    )
