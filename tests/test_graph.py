import numpy as np
import pytest

from stmcdi_cli.graph import adjacency, edges


def nearest(xy, section, k):
    return adjacency(edges(xy, section, n_neighbors=k), len(xy))


def test_nearest_spots_stay_in_their_section():
    xy = np.array([[0.0, 0], [1, 0], [2, 0], [0, 0.1], [1, 0.1], [2, 0.1]])
    section = np.array([0, 0, 0, 1, 1, 1])
    found = nearest(xy, section, 1)
    assert found.shape == (6, 6) and found.nnz == 6 and found.dtype == np.float32 and found.format == "csr"
    assert list(found.indices) == [1, found[1].indices[0], 1, 4, found[4].indices[0], 4]
    assert found[1].indices[0] in (0, 2) and found[4].indices[0] in (3, 5)
    assert nearest(xy, section, 20).sum() == 12  # no more than there are
    assert nearest(xy[:2], np.array([0, 1]), 3).nnz == 0


@pytest.mark.parametrize("n_places", [1, 3, 40])
def test_nearest_spots_are_the_nearest_whatever_lies_at_the_same_place(n_places):
    random = np.random.default_rng(n_places)
    xy = random.integers(0, 9, (n_places, 2)).astype(float)[random.integers(0, n_places, 40)]
    section = random.integers(0, 3, 40)
    found = edges(xy, section, n_neighbors=4)
    assert (found.source != found.target).all() and (section[found.source] == section[found.target]).all()
    np.testing.assert_array_equal(found.length, np.linalg.norm(xy[found.source] - xy[found.target], axis=1))
    for spot in range(40):
        others = np.flatnonzero((section == section[spot]) & (np.arange(40) != spot))
        distance = np.sort(np.linalg.norm(xy[others] - xy[spot], axis=1))[:4]
        np.testing.assert_array_equal(np.sort(found.length[found.source == spot]), distance)
        assert len(set(found.target[found.source == spot])) == len(distance)


@pytest.mark.parametrize("method", ["knn", "radius", "delaunay", "grid"])
def test_a_section_of_one_spot_has_no_edge(method):
    xy = np.array([[0.0, 0], [5, 0], [5, 1], [6, 0]])
    found = edges(xy, np.array([0, 1, 1, 1]), method, radius=3.0)
    assert len(found.source) and 0 not in {*found.source, *found.target}
    assert not len(edges(xy[:1], np.zeros(1, int), method, radius=3.0).source)
