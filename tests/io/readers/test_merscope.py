"""MERSCOPE: counts and cells in two tables, joined by numbers of 39 digits."""

import numpy as np
from helpers import dense
from platforms import COUNTS, GENES, XY, write_merscope

import stmcdi_cli as stmcdi


def test_counts_and_cells(tmp_path, caplog):
    caplog.set_level("INFO")
    adata = stmcdi.import_(write_merscope(tmp_path / "region_0"))
    np.testing.assert_array_equal(dense(adata.X), COUNTS[:, :-2])
    np.testing.assert_array_equal(adata.obsm["spatial"], XY)
    assert list(adata.var_names) == GENES
    assert adata.obs_names[3] == "110883424764611924400221639916314253472"
    assert adata.obs["fov"].tolist() == [0] * 20 + [1] * 20 and adata.obs["volume"].iloc[5] == 100.5
    assert "import: left out 2 control probes and blanks: Blank-1, Blank-2" in caplog.messages
    assert any(
        "obs['fov'] has 2 values; if these have coordinates of their own, give --section-key fov" in m
        for m in caplog.messages
    )


def test_files_with_the_names_of_a_run(tmp_path):
    folder = write_merscope(tmp_path / "region_0")
    (folder / "cell_by_gene.csv").rename(folder / "run_cell_by_gene_S1R1.csv")
    (folder / "cell_metadata.csv").rename(folder / "run_cell_metadata_S1R1.csv")
    np.testing.assert_array_equal(stmcdi.import_(folder, quiet=True).obsm["spatial"], XY)


def test_refusals(tmp_path, refused):
    folder, out = write_merscope(tmp_path / "region_0"), tmp_path / "a.h5ad"
    (folder / "second_cell_by_gene.csv").write_text("cell,A\n1,2\n")
    assert "expected one file of counts, found cell_by_gene.csv, second_cell_by_gene.csv" in refused(
        "import", folder, out
    )
    line = refused("import", folder / "second_cell_by_gene.csv", out)
    assert "expected second_cell_metadata.csv, the table of cells, beside it, found none; put it there" in line
    content = (folder / "cell_by_gene.csv").read_text().replace(",2,", ",many,", 1)
    (folder / "cell_by_gene.csv").write_text(content)
    line = refused("import", folder / "cell_by_gene.csv", out)
    assert "expected numbers only, found could not convert string to float: 'many' in column G" in line
