"""SpaGE with conformal intervals, after the idea of TISSUE (Sun et al. 2024): errors of visible genes set the width.

Visible genes are left out a tenth at a time and predicted as hidden ones are. An error counts in units of how far the
gene's predictions differ among the spot and its nearest spots; the errors' fifth and ninety-fifth percentiles, in four
groups of entries by predicted value, are the interval's ends.
"""

import numpy as np
import pair
import spage

FOLDS, AROUND, GROUPS = 10, 15, 4
FLOOR = 0.1
"""Share of the gene's spread that is added to the difference among neighbours, which may be 0."""


def predict(both: pair.Pair) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    around = both.neighbors(AROUND)
    left_out = predict_left_out(both)
    unit = local_spread(left_out, around)
    error = (both.x - left_out) / unit
    predicted = spage.predict(both)
    ends = np.quantile(left_out, np.linspace(0, 1, GROUPS + 1)[1:-1])
    group_of_error, group = np.digitize(left_out, ends), np.digitize(predicted, ends)
    low, high = (
        np.array([np.quantile(error[group_of_error == number], level) for number in range(GROUPS)])
        for level in (0.05, 0.95)
    )
    unit = local_spread(predicted, around)
    return predicted, predicted + low[group] * unit, predicted + high[group] * unit


def predict_left_out(both: pair.Pair) -> np.ndarray:
    """Predictions of the visible genes, each without what is known of it in the panel."""
    cells, spots, result = both.reference_x, both.x, np.empty_like(both.x)
    genes = np.random.default_rng(0).permutation(spots.shape[1])
    for part in np.array_split(genes, FOLDS):
        rest = np.setdiff1d(genes, part)
        result[:, part] = spage.from_neighbors(cells[:, rest], spots[:, rest], cells[:, part])
    return result


def local_spread(predicted: np.ndarray, around: np.ndarray) -> np.ndarray:
    """How far predictions of nearby spots are from a spot's own, root mean square."""
    squares = np.zeros_like(predicted)
    for neighbor in around.T:
        squares += (predicted[neighbor] - predicted) ** 2
    spread = np.maximum(predicted.std(0), 1e-6)
    return np.sqrt(squares / around.shape[1]) + FLOOR * spread
