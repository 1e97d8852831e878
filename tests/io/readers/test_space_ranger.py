"""Folders as Space Ranger writes them; other readers of the same folders must agree."""

import gzip
import shutil

import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scipy.io
import scipy.sparse as sp
from helpers import dense
from platforms import COUNTS, N_GENES, N_SPOTS, positions, write_matrix, write_space_ranger

import stmcdi_cli as stmcdi


@pytest.fixture
def space_ranger(tmp_path):
    """Write an output folder of Space Ranger."""

    def write(kind="tissue_positions.csv", folder=tmp_path / "sample" / "outs"):
        return write_space_ranger(folder, kind)

    return write


@pytest.mark.parametrize("kind", ["tissue_positions.csv", "tissue_positions_list.csv", "tissue_positions.parquet"])
def test_space_rangers_folder_of_any_version(kind, space_ranger):
    folder = space_ranger(kind)
    adata = stmcdi.import_(folder, quiet=True)
    np.testing.assert_array_equal(dense(adata.X), COUNTS)
    assert adata.X.format == "csr" and adata.X.dtype == np.float32
    assert list(adata.obs_names[:2]) == ["ACGT0000-1", "ACGT0001-1"]
    np.testing.assert_array_equal(adata.obsm["spatial"][9], [507, 110])  # x is the column of pixels, y the row
    assert adata.obs["array_row"].iloc[9] == 1 and adata.var["gene_ids"].iloc[3] == "ENSG00003"
    assert list(adata.var_names[2:4]) == ["GENE2", "GENE2-1"]
    record = adata.uns["stmcdi"]["import"]
    assert record["parameters"]["format"] == "space-ranger" and len(record["input_sha256"]) == 64


def test_scanpy_and_squidpy_read_the_same(space_ranger):
    folder = space_ranger()
    squidpy = pytest.importorskip("squidpy")
    ours = stmcdi.import_(folder, quiet=True)
    theirs = squidpy.read.visium(folder, library_id="sample")
    np.testing.assert_array_equal(dense(ours.X), dense(theirs.X))
    np.testing.assert_array_equal(ours.obsm["spatial"], theirs.obsm["spatial"])
    assert list(ours.obs_names) == list(theirs.obs_names)
    assert ours.uns["spatial"]["sample"]["scalefactors"] == theirs.uns["spatial"]["sample"]["scalefactors"]
    np.testing.assert_array_equal(dense(sc.read_10x_h5(folder / "filtered_feature_bc_matrix.h5").X), dense(ours.X))


def test_the_image_lies_under_the_spots_in_squidpy(space_ranger, tmp_path):
    import matplotlib.pyplot as plt
    import squidpy as sq

    adata = stmcdi.import_(space_ranger(), quiet=True)
    adata.write_h5ad(tmp_path / "raw.h5ad")
    sq.pl.spatial_scatter(sc.read_h5ad(tmp_path / "raw.h5ad"), color="GENE1")
    assert len(plt.gcf().axes[0].images) == 1
    plt.close("all")


def test_the_path_may_be_the_run_its_outs_or_the_matrix(space_ranger):
    folder = space_ranger()
    names = [
        list(stmcdi.import_(path, quiet=True).obs_names)
        for path in (folder.parent, folder, folder / "filtered_feature_bc_matrix.h5")
    ]
    assert names[0] == names[1] == names[2]


def test_only_genes_in_tissue_are_kept(space_ranger):
    folder = space_ranger()
    write_matrix(folder / "filtered_feature_bc_matrix.h5", ["Gene Expression"] * 20 + ["Antibody Capture"] * 5)
    table = positions()
    table.loc[table["barcode"] == "ACGT0004-1", "in_tissue"] = 0
    table.to_csv(folder / "spatial" / "tissue_positions.csv", index=False)
    adata = stmcdi.import_(folder, quiet=True)
    assert adata.shape == (N_SPOTS - 1, 20) and "ACGT0004-1" not in adata.obs_names


def test_the_matrix_as_a_folder(space_ranger):
    folder = space_ranger()
    (folder / "filtered_feature_bc_matrix.h5").unlink()
    mtx = folder / "filtered_feature_bc_matrix"
    mtx.mkdir()
    with gzip.open(mtx / "matrix.mtx.gz", "wb") as file:
        scipy.io.mmwrite(file, sp.coo_matrix(COUNTS.T))
    with gzip.open(mtx / "features.tsv.gz", "wt") as file:
        file.writelines(f"ENSG{i:05d}\tGENE{i}\tGene Expression\n" for i in range(N_GENES))
    with gzip.open(mtx / "barcodes.tsv.gz", "wt") as file:
        file.writelines(f"ACGT{i:04d}-1\n" for i in range(N_SPOTS))
    np.testing.assert_array_equal(dense(stmcdi.import_(folder).X), COUNTS)


def test_refusals(space_ranger, refused, tmp_path):
    out, folder = tmp_path / "out.h5ad", space_ranger()
    table = positions(0).iloc[1:]
    table.to_csv(folder / "spatial" / "tissue_positions.csv", index=False)
    assert "found none for ACGT0039-1; matrix and positions are of different runs" in refused("import", folder, out)
    (folder / "spatial" / "tissue_positions.csv").write_text("a,b\n1,2\n")
    assert "not a table of positions" in refused("import", folder, out)
    shutil.rmtree(folder / "spatial")
    assert "expected one of tissue_positions.parquet" in refused("import", folder, out)
    (folder / "filtered_feature_bc_matrix.h5").write_text("x")
    assert "not a matrix of Space Ranger" in refused("import", folder, out)


def test_parquet_without_its_package_is_refused(space_ranger, monkeypatch, refused, tmp_path):
    def absent(path):
        raise ImportError("No module named 'pyarrow'")

    folder = space_ranger("tissue_positions.parquet")
    monkeypatch.setattr(pd, "read_parquet", absent)
    assert "pip install 'stmcdi[parquet]'" in refused("import", folder, tmp_path / "out.h5ad")
