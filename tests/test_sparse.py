from types import SimpleNamespace

import numpy as np
import pytest
import scipy.sparse as sp
from helpers import dense
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from stmcdi_cli import sparse
from stmcdi_cli.errors import InputError

shapes = st.tuples(st.integers(1, 9), st.integers(1, 7))
matrices = shapes.flatmap(
    lambda shape: st.tuples(arrays(np.float32, shape, elements=st.sampled_from([0, 1, 2.5, -3])), arrays(bool, shape))
)


@pytest.fixture(autouse=True, params=[1, 10, sparse.CHUNK_ENTRIES])
def chunk(request, monkeypatch):
    """Every answer must be the same whatever the number of rows taken at a time."""
    monkeypatch.setattr(sparse, "CHUNK_ENTRIES", request.param)


fast = settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))


@fast
@given(matrices)
def test_masking_and_picking_values(pair):
    values, mask = pair
    matrix, entries = sparse.to_csr(values), sparse.to_csr(mask, bool)
    np.testing.assert_array_equal(dense(sparse.mask_out(matrix, entries)), np.where(mask, 0, values))
    np.testing.assert_array_equal(sparse.values_at(matrix, entries), values[mask])
    np.testing.assert_array_equal(sparse.values_at(values, entries), values[mask])
    np.testing.assert_array_equal(dense(sparse.mask_from_chunks([mask], mask.shape[1])), mask)
    np.testing.assert_array_equal(dense(sparse.mask_from_chunks(list(mask[:, None]), mask.shape[1])), mask)
    np.testing.assert_array_equal(dense(matrix), values)  # not changed


@fast
@given(matrices)
def test_scaling_rows(pair):
    values, _ = pair
    divisor = np.arange(1, len(values) + 1) / 2
    scaled = sparse.scale_rows(sparse.to_csr(values), divisor)
    np.testing.assert_allclose(dense(scaled), values / divisor[:, None], rtol=1e-6)
    np.testing.assert_allclose(sparse.row_sums(scaled), (values / divisor[:, None]).sum(1), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(sparse.column_sums(scaled), (values / divisor[:, None]).sum(0), rtol=1e-5, atol=1e-6)


def test_a_tidy_matrix_is_shared_and_an_untidy_one_copied():
    tidy = sp.csr_matrix(np.array([[0, 1], [2, 0]], np.float32))
    assert np.shares_memory(sparse.to_csr(tidy).data, tidy.data)
    untidy = sp.csr_matrix((np.array([1, 0, 2], np.float32), [1, 0, 0], [0, 2, 3]), shape=(2, 2))
    result = sparse.to_csr(untidy)
    assert result.nnz == 2 and untidy.nnz == 3 and list(untidy.indices) == [1, 0, 0]


def test_chunks_cover_every_row_once():
    for shape in ((0, 5), (1, 5), (23, 3), (5, 10**9)):
        rows = [row for part in sparse.row_chunks(shape) for row in range(part.start, part.stop)]
        assert rows == list(range(shape[0]))


def test_x_is_no_layer():
    """AnnData 0.13 lists it among the layers."""
    matrix = sp.csr_matrix((2, 2))
    assert list(sparse.layers_of(SimpleNamespace(layers={None: matrix, "counts": matrix}))) == ["counts"]


def test_a_mask_of_texts_is_refused(raw):
    """Every text is true, "False" as well."""
    raw.layers["missing"] = np.where(raw.X.toarray() > 3, "True", "False")
    with pytest.raises(InputError, match="True and False in layers.'missing'., found texts"):
        sparse.missing_mask(raw)
