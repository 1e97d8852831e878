"""Cells that Space Ranger 4 outlines."""

import numpy as np
import pytest
from helpers import dense
from platforms import COUNTS, N_SPOTS, write_segmented

import stmcdi_cli as stmcdi


@pytest.fixture
def cells(tmp_path):
    return write_segmented(tmp_path / "outs" / "segmented_outputs")


def test_counts_and_centres(cells):
    for path in (cells, cells.parent, cells.parent.parent):
        adata = stmcdi.import_(path, quiet=True)
        np.testing.assert_array_equal(dense(adata.X), COUNTS)
        np.testing.assert_allclose(adata.obsm["spatial"], [[i + 1, 10] for i in range(N_SPOTS)])
    assert adata.uns["stmcdi"]["import"]["parameters"]["format"] == "visium-cells"


def test_refusals(cells, refused, tmp_path):
    path, out = cells / "cell_segmentations.geojson", tmp_path / "a.h5ad"
    path.write_text(path.read_text().replace('"cell_id": 7}', '"cell_id": 700}'))
    line = refused("import", cells, out)
    assert "expected an outline of every cell, found none for cellid_000000007-1; matrix and outlines are of" in line
    path.write_text('{"features": [{"properties": {}}]}')
    assert "not the outlines of cells ('cell_id')" in refused("import", cells, out)
    path.unlink()
    assert "expected cell_segmentations.geojson beside it, found none" in refused("import", cells, out)
