"""Loom files, read with h5py alone."""

import h5py
import numpy as np
from helpers import dense
from platforms import COUNTS, XY, write_loom

import stmcdi_cli as stmcdi


def test_counts_layers_and_attributes(tmp_path, monkeypatch):
    from stmcdi_cli.io.readers import loom

    monkeypatch.setattr(loom, "CHUNK_ENTRIES", 8 * 25)  # a few cells at a time
    adata = stmcdi.import_(write_loom(tmp_path / "a.loom"), quiet=True)
    np.testing.assert_array_equal(dense(adata.X), COUNTS)
    np.testing.assert_array_equal(dense(adata.layers["spliced"]), COUNTS // 2)
    np.testing.assert_array_equal(adata.obsm["spatial"], XY)
    assert list(adata.obs_names[:2]) == ["c0", "c1"] and list(adata.var_names[:2]) == ["G0", "G1"]
    assert adata.var["Accession"].iloc[4] == "ENSG4" and adata.obsm["embedding"].shape == (40, 2)
    assert adata.uns["stmcdi"]["import"]["parameters"]["format"] == "loom"


def test_a_loom_without_places_lists_what_it_has(tmp_path, refused):
    with h5py.File(write_loom(tmp_path / "a.loom"), "r+") as file:
        file["col_attrs"].move("X", "depth")
    line = refused("import", tmp_path / "a.loom", tmp_path / "a.h5ad")
    assert "found obsm with embedding and obs with Y, depth; name what holds them (--coordinates KEY of obsm" in line
    named = stmcdi.import_(tmp_path / "a.loom", coordinates="depth,Y", quiet=True)
    np.testing.assert_array_equal(named.obsm["spatial"], XY)


def test_attributes_of_another_length_are_refused(tmp_path, refused):
    with h5py.File(write_loom(tmp_path / "a.loom"), "r+") as file:
        file["col_attrs/short"] = [1, 2]
    assert "short has 2 values for 40" in refused("import", tmp_path / "a.loom", tmp_path / "a.h5ad")
