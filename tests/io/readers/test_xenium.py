"""Xenium: genes without control probes, cells with what the instrument says about them."""

import numpy as np
import pytest
from helpers import dense
from platforms import COUNTS, GENES, XY, cell_name, write_xenium

import stmcdi_cli as stmcdi


@pytest.mark.parametrize(("matrix", "cells"), [("h5", "csv.gz"), ("h5", "parquet"), ("zarr", "csv.gz")])
def test_counts_and_cells(matrix, cells, tmp_path, caplog):
    caplog.set_level("INFO")
    adata = stmcdi.import_(write_xenium(tmp_path / "outs", matrix, cells))
    np.testing.assert_array_equal(dense(adata.X), COUNTS[:, :-2])
    np.testing.assert_array_equal(adata.obsm["spatial"], XY)
    assert list(adata.var_names) == GENES and adata.var["gene_ids"].iloc[3] == "ENSG00003"
    assert adata.obs_names[7] == cell_name(7) and adata.obs["cell_area"].iloc[0] == 50
    assert adata.uns["stmcdi"]["import"]["parameters"]["format"] == "xenium"
    kinds = {"h5": "1 Negative Control Probe, 1 Unassigned Codeword"}.get(
        matrix, "1 negative_control_probe, 1 unassigned_codeword"
    )
    assert f"import: left out features that are no genes: {kinds}" in caplog.messages
    assert "import: coordinates are those of obs['x_centroid', 'y_centroid']" in caplog.messages


def test_the_name_that_the_instruments_pages_give_as_example():
    from stmcdi_cli.io.readers.xenium import cell_name

    assert cell_name(1437536272, 1) == "ffkpbaba-1"


def test_the_input_may_be_the_matrix_and_may_have_the_samples_name_in_front(tmp_path):
    folder = write_xenium(tmp_path / "outs")
    for file in list(folder.iterdir()):
        file.rename(folder / f"GSM1_{file.name}")
    by_file = stmcdi.import_(folder / "GSM1_cell_feature_matrix.h5", quiet=True)
    np.testing.assert_array_equal(dense(by_file.X), dense(stmcdi.import_(folder, quiet=True).X))


def test_refusals(tmp_path, refused):
    folder = write_xenium(tmp_path / "outs")
    (folder / "cells.csv.gz").rename(folder / "elsewhere.csv.gz")
    line = refused("import", folder, tmp_path / "a.h5ad")
    assert "expected cells.csv.gz beside it, found none; give Xenium's whole output" in line
    (folder / "cells.csv").write_text(f"cell_id,x_centroid,y_centroid\n{cell_name(0)},1,2\n")
    assert "expected a row for every spot, found none for" in refused("import", folder, tmp_path / "a.h5ad")
    (tmp_path / "empty").mkdir()
    line = refused("import", tmp_path / "empty", tmp_path / "a.h5ad", "--format", "xenium")
    assert "expected cell_feature_matrix.h5 or .zarr.zip, found none" in line
