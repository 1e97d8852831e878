import numpy as np
import pytest
import scipy.sparse as sp
import torch

from stmcdi_cli.model.latent.singular_vectors import singular_vectors, smoothest_first

SIDE = 16
N = SIDE * SIDE


@pytest.fixture(scope="module")
def edges():
    line = sp.diags_array([np.ones(SIDE - 1)] * 2, offsets=[-1, 1])
    return sp.csr_matrix(sp.kron(sp.eye_array(SIDE), line) + sp.kron(line, sp.eye_array(SIDE)))


def test_singular_vectors_are_those_of_the_whole_matrix():
    random = np.random.default_rng(0)
    matrix = random.normal(size=(N, 4)) * [9, 6, 4, 2] @ random.normal(size=(4, 40)) + 0.1 * random.normal(size=(N, 40))
    found = singular_vectors(lambda rows: torch.from_numpy(matrix[rows]).float(), N, 40, 4, seed=0).numpy()
    exact = np.linalg.svd(matrix)[0][:, :4]
    np.testing.assert_allclose(np.abs((found * exact).sum(0)), 1, atol=1e-3)


def test_what_reaches_far_is_taken_apart_from_what_does_not(edges):
    """A wave over the tissue, a chessboard and noise, mixed by a rotation."""
    row, column = np.divmod(np.arange(N), SIDE)
    parts = np.stack([np.sin(row / 4), np.random.default_rng(0).normal(size=N), (-1.0) ** (row + column)], axis=1)
    parts = np.linalg.qr(parts)[0]
    mixing = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    mixed = torch.from_numpy(parts @ mixing).float()
    found = smoothest_first(mixed, edges)
    np.testing.assert_allclose(np.abs((found.numpy() * parts).sum(0)), 1, atol=0.02)
    torch.testing.assert_close(found.T @ found, torch.eye(3))
    torch.testing.assert_close(smoothest_first(-mixed, edges), -found)
    torch.testing.assert_close(smoothest_first(mixed.flip(1), edges).abs(), found.abs())


def test_without_neighbours_nothing_is_rotated(edges):
    vectors = torch.randn(N, 3)
    assert smoothest_first(vectors, sp.csr_matrix(edges.shape)) is vectors
