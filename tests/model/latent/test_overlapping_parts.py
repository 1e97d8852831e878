import numpy as np
import pytest
import scipy.sparse as sp

from stmcdi_cli.model.latent.overlapping_parts import overlapping_parts


def strip(height, width):
    def line(n):
        return sp.diags_array([np.ones(n - 1)] * 2, offsets=[-1, 1])

    return sp.csr_matrix(sp.kron(sp.eye_array(height), line(width)) + sp.kron(line(height), sp.eye_array(width)))


GRAPHS = {
    "a square": strip(20, 20),
    "a strip": strip(4, 90),
    "two sections": sp.csr_matrix(sp.block_diag([strip(12, 12), strip(15, 10)])),
    "spots without neighbours": sp.csr_matrix((90, 90)),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_every_spot_belongs_to_one_part(name):
    edges = GRAPHS[name]
    parts = overlapping_parts(edges, 60, 3)
    own = [part.spots[part.own] for part in parts]
    assert np.array_equal(np.sort(np.concatenate(own)), np.arange(edges.shape[0]))
    assert max(map(len, own)) <= 60 and len(parts) <= 2 * edges.shape[0] / 60 + 1
    reach = sp.csr_matrix(sp.eye_array(edges.shape[0]) + edges) ** 3
    for part, mine in zip(parts, own, strict=True):
        assert np.array_equal(part.spots, np.flatnonzero(reach[mine].sum(0)))  # no less and no more than 3 steps away
    again = overlapping_parts(edges, 60, 3)
    assert all(np.array_equal(one.spots, two.spots) for one, two in zip(parts, again, strict=True))


def test_few_spots_are_one_part():
    (part,) = overlapping_parts(GRAPHS["a square"], 400, 3)
    assert np.array_equal(part.spots, np.arange(400)) and part.own.all()


def test_parts_are_round_enough():
    """Or most of what is computed for a part would be around it."""
    parts = overlapping_parts(strip(60, 60), 500, 4)
    assert np.mean([len(part.spots) / part.own.sum() for part in parts]) < 2
