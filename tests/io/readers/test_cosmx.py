"""CosMx: cells are numbered in each field of view."""

import numpy as np
import pytest
from helpers import dense
from platforms import COUNTS, GENES, XY, write_cosmx

import stmcdi_cli as stmcdi


@pytest.mark.parametrize("ending", ["csv", "csv.gz"])
def test_counts_and_cells(ending, tmp_path, caplog):
    caplog.set_level("INFO")
    adata = stmcdi.import_(write_cosmx(tmp_path / "flat", ending))
    np.testing.assert_array_equal(dense(adata.X), COUNTS[:, :-2])
    np.testing.assert_array_equal(adata.obsm["spatial"], XY)
    assert list(adata.var_names) == GENES and list(adata.obs_names[19:21]) == ["1_20", "2_1"]
    assert adata.obs["fov"].tolist() == [1] * 20 + [2] * 20 and adata.obs["cell"].iloc[20] == "c_1_2_1"
    assert "import: left out 2 control probes and blanks: NegPrb3, SystemControl1" in caplog.messages
    assert any("left out 2 rows of Run_exprMat_file" in line for line in caplog.messages)
    assert "import: coordinates are those of obs['CenterX_global_px', 'CenterY_global_px']" in caplog.messages


def test_refusals(tmp_path, refused):
    folder, out = write_cosmx(tmp_path / "flat"), tmp_path / "a.h5ad"
    path = folder / "Run_metadata_file.csv"
    text = path.read_text()
    path.write_text(text.replace("cell_ID", "number"))
    assert "expected columns fov and cell_ID, found fov, number" in refused("import", folder, out)
    path.write_text(text + text.splitlines()[-1] + "\n")
    assert "expected each cell once, found 2_20 more than once; remove repeats" in refused("import", folder, out)
