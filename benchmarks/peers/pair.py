"""What peers share that predict unmeasured genes: read a panel and its reference, write what the peer predicts.

Runs in the peer's own environment, so it needs numpy, scipy and h5py alone. A peer is a function of a `Pair` that gives
predictions of the hidden genes, spots x genes on the scale of ``x`` (log1p), or (predictions, low, high), where low and
high are to hold 90 % of the true values::

    import pair

    pair.run(lambda both: SomeModel().fit(both.reference_x, both.reference_hidden_x).predict(both.x))
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass

import adapter
import h5py
import numpy as np

NEIGHBORS = 6
SMOOTHING = 0.4  # share of the neighbours' mean, as factor_analysis/run.py has it


@dataclass
class Pair:
    """What a method may know. All matrices are dense; genes are in the same order on both sides.

    Attributes
    ----------
    counts
        Counts of the panel, spots x visible genes.
    reference, reference_hidden
        Counts of the reference, cells x visible genes and x hidden ones. Cells without any visible gene are left out.
    genes, hidden
        Names of the visible and the hidden genes.
    spatial
        Coordinates of the panel's spots.
    """

    counts: np.ndarray
    reference: np.ndarray
    reference_hidden: np.ndarray
    genes: list[str]
    hidden: list[str]
    spatial: np.ndarray

    @property
    def x(self) -> np.ndarray:
        """Expression of the panel: counts scaled to the median total of its spots, log1p."""
        return np.log1p(self.counts * self._scale(self.counts))

    @property
    def reference_x(self) -> np.ndarray:
        """Expression of the reference's cells, visible genes, scaled to the same total as the panel's spots."""
        return np.log1p(self.reference * self._scale(self.reference))

    @property
    def reference_hidden_x(self) -> np.ndarray:
        """Their expression of the hidden genes, by the same factors."""
        return np.log1p(self.reference_hidden * self._scale(self.reference))

    def _scale(self, counts: np.ndarray) -> np.ndarray:
        """Factor of each row; totals are of visible genes, the only ones that both sides have."""
        return np.median(self.counts.sum(1)) / np.maximum(counts.sum(1, keepdims=True), 1e-12)

    def neighbors(self, k: int) -> np.ndarray:
        """The k nearest other spots of each spot, nearest first [n, k]."""
        from scipy.spatial import cKDTree

        return cKDTree(self.spatial).query(self.spatial, k=k + 1)[1][:, 1:]

    def smoothed(self, values: np.ndarray) -> np.ndarray:
        """Values of each spot, drawn towards the mean of its nearest neighbours'."""
        return (1 - SMOOTHING) * values + SMOOTHING * values[self.neighbors(NEIGHBORS)].mean(1)


def read(panel: str, reference: str) -> Pair:
    """Read both files without anndata, whose versions differ between peers."""
    with h5py.File(panel, "r") as file:
        counts, genes, spatial = _counts(file), _names(file["var"]), file["obsm/spatial"][:].astype(float)
    with h5py.File(reference, "r") as file:
        of_cells, names = _counts(file), _names(file["var"])
    hidden = sorted(set(names) - set(genes))
    column = {name: place for place, name in enumerate(names)}
    both, alone = (of_cells[:, [column[name] for name in part]] for part in (genes, hidden))
    use = both.sum(1) > 0
    return Pair(counts, both[use], alone[use], genes, hidden, spatial)


def write(pair: Pair, panel: str, output: str, predicted: np.ndarray, *interval: np.ndarray) -> None:
    """Write the panel's spots x hidden genes with ``layers['imputed']``, and ``imputed_q05`` and ``imputed_q95``.

    Every peer gets the same help: what is not finite becomes the gene's mean in the reference, what is negative 0.
    """
    shape = (len(pair.counts), len(pair.hidden))
    if np.shape(predicted) != shape:
        raise SystemExit(f"expected predictions of shape {shape}, found {np.shape(predicted)}")
    predicted = np.where(np.isfinite(predicted), predicted, pair.reference_hidden_x.mean(0))
    layers = dict(zip(("imputed", "imputed_q05", "imputed_q95"), (predicted, *interval), strict=False))
    with h5py.File(output, "w") as file, h5py.File(panel, "r") as source:
        _mark(file, "anndata", "0.1.0")
        source.copy("obs", file)
        table = file.create_group("var")
        _mark(table, "dataframe", "0.2.0")
        table.attrs["_index"] = "_index"
        table.attrs.create("column-order", [], dtype=h5py.string_dtype())
        _mark(table.create_dataset("_index", data=pair.hidden, dtype=h5py.string_dtype()), "string-array", "0.2.0")
        _mark(file.create_group("layers"), "dict", "0.1.0")
        for name, values in layers.items():
            stored = file["layers"].create_dataset(name, data=np.maximum(values, 0).astype(np.float32))
            _mark(stored, "array", "0.2.0")


def run(predict: Callable[[Pair], np.ndarray | tuple[np.ndarray, ...]]) -> None:
    """Main program of a peer: ``run.py PANEL.h5ad REFERENCE.h5ad IMPUTED.h5ad [its own options]``."""
    panel, reference, output = sys.argv[1:4]
    pair = read(panel, reference)
    result = predict(pair)
    write(pair, panel, output, *(result if isinstance(result, tuple) else (result,)))


def _counts(file: h5py.File) -> np.ndarray:
    return adapter.read_matrix(file["X"]).astype(float)


def _names(table: h5py.Group) -> list[str]:
    return list(table[table.attrs["_index"]].asstr()[:])


def _mark(stored: h5py.Group | h5py.Dataset, encoding: str, version: str) -> None:
    stored.attrs["encoding-type"], stored.attrs["encoding-version"] = encoding, version
