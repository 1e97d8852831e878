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
from platforms import COUNTS, N_GENES, N_SPOTS, positions, write_matrix, write_mex, write_space_ranger

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


def rename(folder, **names):
    for old, new in names.items():
        source = next(path for path in folder.rglob("*") if path.name.startswith(old))
        source.rename(source.parent / new)


def same_counts(path):
    adata = stmcdi.import_(path, quiet=True)
    np.testing.assert_array_equal(dense(adata.X), COUNTS)
    np.testing.assert_array_equal(adata.obsm["spatial"][9], [507, 110])
    return adata


def test_names_of_download_pages_and_geo(space_ranger):
    folder = space_ranger()
    rename(folder, filtered="V1_Brain_filtered_feature_bc_matrix.h5")
    assert same_counts(folder).uns["stmcdi"]["import"]["parameters"]["format"] == "space-ranger"
    with gzip.open(folder / "GSM1_tissue_positions.csv.gz", "wt") as file:
        file.write((folder / "spatial" / "tissue_positions.csv").read_text())
    shutil.rmtree(folder / "spatial")
    rename(folder, V1_Brain="GSM1_filtered_feature_bc_matrix.h5")
    same_counts(folder)
    same_counts(folder / "GSM1_filtered_feature_bc_matrix.h5")


def test_files_of_several_samples_in_one_folder(space_ranger, refused, tmp_path):
    folder = space_ranger()
    shutil.copy(folder / "filtered_feature_bc_matrix.h5", folder / "B_filtered_feature_bc_matrix.h5")
    line = refused("import", folder, tmp_path / "a.h5ad")
    assert "expected one sample, found B_filtered_feature_bc_matrix.h5, filtered_feature_bc_matrix.h5; give one" in line
    same_counts(folder / "B_filtered_feature_bc_matrix.h5")


def test_the_raw_matrix_gives_the_spots_in_tissue(space_ranger, caplog):
    caplog.set_level("INFO")
    folder = space_ranger()
    rename(folder, filtered="raw_feature_bc_matrix.h5")
    table = positions()
    table.loc[table["barcode"].isin(["ACGT0004-1", "ACGT0005-1"]), "in_tissue"] = 0
    table.to_csv(folder / "spatial" / "tissue_positions.csv", index=False)
    assert stmcdi.import_(folder).n_obs == N_SPOTS - 2
    assert "import: left out 2 spots outside the tissue" in caplog.messages


@pytest.mark.parametrize("header", [True, False])
def test_gzipped_positions_with_or_without_header(header, space_ranger):
    folder = space_ranger()
    (folder / "spatial" / "tissue_positions.csv").unlink()
    positions().to_csv(folder / "spatial" / "tissue_positions_list.csv.gz", index=False, header=header)
    same_counts(folder)


@pytest.mark.parametrize("names", ["features.tsv", "genes.tsv"])
def test_an_unpacked_matrix(names, space_ranger):
    folder = space_ranger()
    (folder / "filtered_feature_bc_matrix.h5").unlink()
    mex = folder / "filtered_feature_bc_matrix"
    write_mex(mex, (names, "barcodes.tsv", "matrix.mtx"), 2 if names == "genes.tsv" else 3)
    for path in (folder, mex, mex / "matrix.mtx"):
        assert list(same_counts(path).var_names[:2]) == ["GENE0", "GENE1"]


def test_the_texts_of_geo_without_a_folder_of_their_own(space_ranger):
    folder = space_ranger()
    (folder / "filtered_feature_bc_matrix.h5").unlink()
    write_mex(folder, [f"GSM1_S1_{name}" for name in ("features.tsv", "barcodes.tsv", "matrix.mtx")])
    same_counts(folder)


def test_other_features_are_left_out_and_said(space_ranger, caplog):
    caplog.set_level("INFO")
    folder = space_ranger()
    write_matrix(folder / "filtered_feature_bc_matrix.h5", ["Gene Expression"] * 20 + ["Antibody Capture"] * 5)
    stmcdi.import_(folder)
    assert "import: left out features that are no genes: 5 Antibody Capture" in caplog.messages


def test_coordinates_may_come_from_a_table_instead(space_ranger, tmp_path):
    folder = space_ranger()
    shutil.rmtree(folder / "spatial")
    pd.DataFrame({"x": 1.0, "y": range(N_SPOTS)}, [f"ACGT{i:04d}-1" for i in range(N_SPOTS)]).to_csv(
        tmp_path / "xy.csv"
    )
    adata = stmcdi.import_(folder, coordinates=tmp_path / "xy.csv", quiet=True)
    assert adata.obsm["spatial"][7].tolist() == [1, 7]


def test_refusals(space_ranger, refused, tmp_path):
    out, folder = tmp_path / "out.h5ad", space_ranger()
    table = positions(0).iloc[1:]
    table.to_csv(folder / "spatial" / "tissue_positions.csv", index=False)
    assert "found none for ACGT0039-1; matrix and positions are of different runs" in refused("import", folder, out)
    pd.concat([positions(), positions()[:1]]).to_csv(folder / "spatial" / "tissue_positions.csv", index=False)
    assert "not a table of positions (ACGT0042-1 is in it several times)" in refused("import", folder, out)
    positions().replace(507, "far").to_csv(folder / "spatial" / "tissue_positions.csv", index=False)
    assert "not a table of positions (could not convert string to float: 'far'" in refused("import", folder, out)
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


def test_the_matrix_under_any_name(space_ranger):
    folder = space_ranger()
    rename(folder, filtered="counts.h5")
    same_counts(folder / "counts.h5")
