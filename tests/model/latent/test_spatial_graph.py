import numpy as np
import scipy.sparse as sp

from stmcdi_cli.model.latent.spatial_graph import SpatialGraph

SIDE = 24
N = SIDE * SIDE


def grid(side=SIDE):
    """Graph of a square grid: up to four neighbours each."""
    line = sp.diags([np.ones(side - 1)] * 2, [-1, 1])
    return sp.csr_matrix(sp.kron(sp.eye(side), line) + sp.kron(line, sp.eye(side)), dtype=np.float32)


def test_sections_in_other_units_have_the_same_field():
    lengths = sp.block_diag([0.5 * grid(10), 300 * grid(10)], format="csr")
    graph = SpatialGraph(sp.block_diag([grid(10), grid(10)], format="csr"), lengths)
    np.testing.assert_allclose(graph.area[:100], graph.area[100:])
    assert np.abs(graph.weights[:100, :100] - graph.weights[100:, 100:]).max() < 1e-12


def test_the_unit_of_coordinates_changes_nothing():
    """Also where it is a metre and spots are micrometres apart; and spots in one place stay neighbours."""
    lengths = grid()
    lengths.data[np.random.default_rng(0).random(lengths.nnz) < 0.1] = 0
    plain = SpatialGraph(grid(), lengths)
    for unit in (1e-6, 1e3):
        scaled = SpatialGraph(grid(), sp.csr_matrix((lengths.data * unit, lengths.indices, lengths.indptr), (N, N)))
        np.testing.assert_allclose(scaled.weights.data, plain.weights.data, rtol=1e-5)
        assert scaled.weights.nnz == grid().nnz


def test_the_parameters_are_fitted_where_spots_have_neighbours():
    """Cells of a reference without coordinates have no edges, and say nothing about a range."""
    graph = SpatialGraph(sp.block_diag([grid(30), sp.csr_matrix((9000, 9000))], format="csr"))
    spots = np.concatenate([patch.spots for patch in graph.patches])
    assert len(spots) == 800 and spots.max() < 900
    islands = SpatialGraph(sp.block_diag([np.ones((2, 2)) - np.eye(2)] * 500, format="csr"))
    assert [len(patch.spots) for patch in islands.patches] == [200] * 4
    alone = SpatialGraph(sp.csr_matrix((30, 30), dtype=np.float32))
    assert [len(patch.spots) for patch in alone.patches] == [30]


def test_weights_of_a_graph_of_another_tool_count():
    """Not only their pattern; and doubling all of them changes nothing."""
    plain, weighted = grid(), grid()
    weighted.data[:] = 1 + 0.5 * (weighted.indices + np.repeat(np.arange(N), np.diff(weighted.indptr)) > N)
    lengths = 3.0 * grid()
    usual, other, doubled = (SpatialGraph(each, lengths) for each in (plain, weighted, 2 * weighted))
    np.testing.assert_allclose(other.area, usual.area)
    assert np.abs(other.weights - usual.weights).max() > 0.1
    np.testing.assert_allclose(other.weights.data, doubled.weights.data)
