"""The step itself; its readers are tested in tests/io/readers."""

import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from helpers import make_raw
from platforms import N_SPOTS, write_space_ranger

import stmcdi_cli as stmcdi
from stmcdi_cli.errors import InputError


def test_visium_hd_bins(tmp_path, refused, cli):
    outs = tmp_path / "hd" / "outs"
    for side in ("002", "008", "016"):
        write_space_ranger(outs / "binned_outputs" / f"square_{side}um", "tissue_positions.parquet")
    adata = stmcdi.import_(outs, quiet=True)
    assert adata.n_obs == N_SPOTS and adata.uns["stmcdi"]["import"]["parameters"]["bin_um"] == 16
    assert list(adata.uns["spatial"]) == ["square_016um"]
    assert cli("import", tmp_path / "hd", tmp_path / "out.h5ad", "--bin-um", 8, "--quiet").exit_code == 0
    line = refused("import", outs, tmp_path / "b.h5ad", "--bin-um", "5")
    assert "expected bins of 5 micrometres, found 2, 8, 16; choose one (--bin-um)" in line


def test_h5ad_with_coordinates_elsewhere(h5ad, tmp_path):
    raw = make_raw()
    place = pd.DataFrame(raw.obsm["spatial"], raw.obs_names, ["x", "y"])
    del raw.obsm["spatial"]
    place.to_csv(tmp_path / "xy.tsv", sep="\t")
    adata = stmcdi.import_(h5ad(raw), coordinates=tmp_path / "xy.tsv")
    np.testing.assert_allclose(adata.obsm["spatial"], place)


def test_what_is_imported_goes_through_the_steps(cli, tmp_path):
    result = cli("import", write_space_ranger(tmp_path / "sample" / "outs"), tmp_path / "raw.h5ad")
    assert result.exit_code == 0 and result.stdout == ""
    assert result.stderr == "import: renamed repeated genes: GENE2\n"
    assert cli("normalize", tmp_path / "raw.h5ad", tmp_path / "n.h5ad").exit_code == 0
    assert cli("build-graph", tmp_path / "n.h5ad", tmp_path / "g.h5ad").exit_code == 0
    assert "import" in sc.read_h5ad(tmp_path / "g.h5ad").uns["stmcdi"]


def test_refusals(refused, tmp_path):
    out = tmp_path / "out.h5ad"
    assert "no such file" in refused("import", tmp_path / "none", out)
    (tmp_path / "empty").mkdir()
    assert "found a folder of none of them; give the folder that" in refused("import", tmp_path / "empty", out)
    with pytest.raises(InputError, match="expected `format` to be one of"):
        stmcdi.import_(tmp_path / "empty", format="rds")


@pytest.mark.parametrize("name", ["tissue_positions.csv", "cells.parquet"])
def test_of_one_of_an_output_s_files_the_folder_is_named(refused, tmp_path, name):
    outs = write_space_ranger(tmp_path / "sample" / "outs")
    (outs / name).write_bytes(b"barcode,in_tissue\nA,1\n")
    line = refused("import", outs / name, tmp_path / "out.h5ad")
    assert line.endswith(f"; or give the folder {outs}, an output of space-ranger")
    (outs / "notes.csv").write_bytes(b"a,b\n1,2\n")  # a file of another kind beside it
    assert "give the folder" not in refused("import", outs / "notes.csv", tmp_path / "out.h5ad")
    (tmp_path / name).write_bytes(b"barcode,in_tissue\nA,1\n")
    assert "give the folder" not in refused("import", tmp_path / name, tmp_path / "out.h5ad")


def test_sections_that_an_earlier_import_found_are_kept(h5ad, tmp_path):
    raw = make_raw()
    raw.obs_names = [f"{'ab'[i // 30]}_{i % 6}x{i // 6}" for i in range(60)]
    raw.to_df().to_csv(tmp_path / "counts.csv")
    first = stmcdi.import_(tmp_path / "counts.csv", quiet=True)
    again = stmcdi.import_(h5ad(first), quiet=True)
    assert again.uns["stmcdi"]["import"]["parameters"]["section_key"] == "section"
