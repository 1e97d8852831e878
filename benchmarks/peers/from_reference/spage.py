"""SpaGE (Abdelaal et al. 2020), written after the paper: neighbours in principal vectors that both sides share."""

import numpy as np
import pair
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import scale

VECTORS = 30
"""Principal components of each side, at most half as many as genes: the paper's choice for panels of its size."""
LEAST_SIMILARITY = 0.3
NEIGHBORS = 50


def predict(both: pair.Pair) -> np.ndarray:
    return from_neighbors(both.reference_x, both.x, both.reference_hidden_x)


def from_neighbors(cells: np.ndarray, spots: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Predict what is asked [cells, genes] at spots, from the expression of shared genes in cells and spots."""
    cells, spots = scale(cells), scale(spots)
    vectors = principal_vectors(cells, spots)
    search = NearestNeighbors(n_neighbors=NEIGHBORS, metric="cosine").fit(cells @ vectors)
    distance, nearest = search.kneighbors(spots @ vectors)
    weight = np.where(distance < 1, 1 - distance / np.maximum(distance.sum(1, keepdims=True), 1e-12), 0)
    weight /= np.maximum(weight.sum(1, keepdims=True), 1e-12)
    return np.einsum("nk,nkg->ng", weight, asked[nearest])


def principal_vectors(cells: np.ndarray, spots: np.ndarray) -> np.ndarray:
    """Directions of the cells' components [genes, vectors] that the spots' components share, by cosine."""
    n_vectors = min(VECTORS, cells.shape[1] // 2)
    of_cells, of_spots = (PCA(n_vectors, svd_solver="full").fit(side).components_ for side in (cells, spots))
    rotation, similarity, _ = np.linalg.svd(of_cells @ of_spots.T)
    shared = max(int((similarity >= LEAST_SIMILARITY).sum()), 2)
    return of_cells.T @ rotation[:, :shared]
