"""What every peer's ``run.py`` shares: read a case, write what the peer predicts.

Runs in the peer's own environment, so it needs numpy, scipy and h5py alone. A peer is a function of a `Case` that gives
predictions, spots x genes on the scale of ``X`` (log1p), or (predictions, their standard deviations)::

    import adapter

    adapter.run(lambda case: SomeImputer().fit_transform(case.with_nan()))
"""

import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass

import h5py
import numpy as np
import scipy.sparse as sp


@dataclass
class Case:
    """What a method may know. All matrices are dense, spots x genes.

    Attributes
    ----------
    x
        Log1p-normalised expression, 0 where hidden.
    counts
        Raw counts, 0 where hidden.
    missing
        True where hidden.
    size_factor
        Spot total over the median total.
    spatial
        Coordinates, sections side by side so that none overlap.
    section
        Number of each spot's section.
    embedding
        Coordinates of the spots that a peer means to be clustered on, where it sets them [spots, r].
    """

    x: np.ndarray
    counts: np.ndarray
    missing: np.ndarray
    size_factor: np.ndarray
    spatial: np.ndarray
    section: np.ndarray
    embedding: np.ndarray | None = None

    def gene_mean(self) -> np.ndarray:
        """Mean of each gene over its visible entries."""
        return self.x.sum(0) / np.maximum((~self.missing).sum(0), 1)

    def filled(self) -> np.ndarray:
        """Expression with each gene's mean where hidden."""
        return np.where(self.missing, self.gene_mean(), self.x)

    def with_nan(self) -> np.ndarray:
        """Expression with NaN where hidden."""
        return np.where(self.missing, np.nan, self.x)

    def filled_counts(self) -> np.ndarray:
        """Counts with, where hidden, the nearest whole number to the gene's mean rate at the spot's depth."""
        depth = self.size_factor[:, None]
        rate = self.counts.sum(0) / np.maximum(((~self.missing) * depth).sum(0), 1e-12)
        return np.where(self.missing, np.round(rate * depth), self.counts)

    def neighbors(self, k: int) -> np.ndarray:
        """The k nearest other spots of each spot in its section, nearest first [n, k]."""
        from scipy.spatial import cKDTree

        return cKDTree(self.spatial).query(self.spatial, k=k + 1)[1][:, 1:]


def read(path: str) -> Case:
    """Read ``masked.h5ad`` without anndata, whose versions differ between peers."""
    with h5py.File(path, "r") as file:
        section = np.zeros(file["X"].attrs["shape"][0], int)
        if "section" in file["obs"]:
            stored = file["obs/section"]
            section = (
                stored["codes"][:] if isinstance(stored, h5py.Group) else np.unique(stored[:], return_inverse=True)[1]
            )
        spatial = file["obsm/spatial"][:].astype(float)
        spatial[:, 0] += section * 2 * np.ptp(spatial, axis=0).max()
        return Case(
            x=read_matrix(file["X"]).astype(float),
            counts=read_matrix(file["layers/counts"]).astype(float),
            missing=read_matrix(file["layers/missing"]).astype(bool),
            size_factor=file["obs/size_factor"][:],
            spatial=spatial,
            section=section,
        )


def write(case: Case, masked: str, output: str, predicted: np.ndarray, sd: np.ndarray | None = None) -> None:
    """Copy ``masked.h5ad`` and add ``layers['imputed']`` (and ``imputed_sd``): at hidden entries, or all if none is.

    Every peer gets the same help: what is not finite becomes the gene's mean, what is negative becomes 0.
    """
    predicted = np.asarray(predicted, float)
    if predicted.shape != case.x.shape:
        raise SystemExit(f"expected predictions of shape {case.x.shape}, found {predicted.shape}")
    predicted = np.maximum(np.where(np.isfinite(predicted), predicted, case.gene_mean()), 0)
    asked = case.missing if case.missing.any() else np.ones_like(case.missing)  # with nothing hidden: every value
    layers = {"imputed": np.where(asked, predicted, case.x)}
    if sd is not None:
        layers["imputed_sd"] = np.where(asked, sd, 0)
    shutil.copyfile(masked, output)
    with h5py.File(output, "r+") as file:
        for name, values in layers.items():
            stored = file["layers"].create_dataset(name, data=values.astype(np.float32))
            stored.attrs["encoding-type"], stored.attrs["encoding-version"] = "array", "0.2.0"
        if case.embedding is not None:
            stored = file["obsm"].create_dataset("embedding", data=np.asarray(case.embedding, np.float32))
            stored.attrs["encoding-type"], stored.attrs["encoding-version"] = "array", "0.2.0"


def run(predict: Callable[[Case], np.ndarray | tuple[np.ndarray, np.ndarray]]) -> None:
    """Main program of a peer: ``run.py MASKED.h5ad IMPUTED.h5ad [its own options]``."""
    masked, output = sys.argv[1:3]
    case = read(masked)
    result = predict(case)
    write(case, masked, output, *(result if isinstance(result, tuple) else (result,)))


def as_array(matrix: np.ndarray | sp.spmatrix) -> np.ndarray:
    """Any matrix as an array."""
    return matrix.toarray() if sp.issparse(matrix) else np.asarray(matrix)


def read_matrix(stored: h5py.Group | h5py.Dataset) -> np.ndarray:
    """A matrix of a file, dense or CSR, as an array."""
    if isinstance(stored, h5py.Dataset):
        return stored[:]
    parts = (stored["data"][:], stored["indices"][:], stored["indptr"][:])
    return sp.csr_matrix(parts, shape=tuple(stored.attrs["shape"])).toarray()
