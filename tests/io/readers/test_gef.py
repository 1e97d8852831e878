"""Stereo-seq's GEF: bins and cells."""

import h5py
import numpy as np
import pytest
from helpers import dense
from platforms import COUNTS, N_GENES, N_SPOTS, XY, write_cell_gef, write_gef, write_gem

import stmcdi_cli as stmcdi

GENES = [f"G{i}" for i in range(N_GENES)]


@pytest.mark.parametrize("version", [3, 4])
@pytest.mark.parametrize("side", [1, 3])
def test_bins_are_those_of_the_same_counts_as_gem(version, side, tmp_path, monkeypatch):
    monkeypatch.setattr("stmcdi_cli.io.readers.bins.LINES", 11)
    adata = stmcdi.import_(write_gef(tmp_path / "chip.gef", version), bin=side, quiet=True)
    same = stmcdi.import_(write_gem(tmp_path / "chip.gem.gz", "0.2"), bin=side, quiet=True)
    assert list(adata.obs_names) == list(same.obs_names) and set(adata.var_names) == set(GENES)
    np.testing.assert_array_equal(dense(adata[:, GENES].X), dense(same[:, GENES].X))
    np.testing.assert_array_equal(adata.obsm["spatial"], same.obsm["spatial"])
    if version == 4:
        assert adata.var.loc["G3", "gene_ids"] == "ENSG3"


@pytest.mark.parametrize("version", [3, 4])
def test_cells(version, tmp_path):
    adata = stmcdi.import_(write_cell_gef(tmp_path / "chip.cellbin.gef", version), quiet=True)
    assert list(adata.obs_names) == [str(7 + i) for i in range(N_SPOTS)]
    np.testing.assert_array_equal(dense(adata[:, GENES].X), COUNTS)
    np.testing.assert_array_equal(adata.obsm["spatial"], XY.astype(int))
    assert (adata.obs["area"] == 300).all()


def test_refusals(tmp_path, refused):
    path, out = write_gef(tmp_path / "chip.gef"), tmp_path / "a.h5ad"
    with h5py.File(path, "a") as file:
        file["geneExp/bin1/gene"][0] = file["geneExp/bin1/gene"][1]
    assert "cannot be read as GEF (genes and counts do not fit each other)" in refused("import", path, out)
    with h5py.File(path, "a") as file:
        del file["geneExp/bin1"]
    assert "expected the counts of single spots in geneExp/bin1, found none" in refused("import", path, out)
    path = write_cell_gef(tmp_path / "cells.gef")
    with h5py.File(path, "a") as file:
        del file["cellBin/cellExp"]
    assert "cannot be read as GEF" in refused("import", path, out)
