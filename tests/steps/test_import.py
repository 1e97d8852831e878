"""Files as the platforms and packages write them; other readers of the same files must agree."""

import gzip
import json
import shutil

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scipy.io
import scipy.sparse as sp
from helpers import dense, make_raw

import stmcdi_cli as stmcdi
from stmcdi_cli.errors import InputError

N_SPOTS, N_GENES = 40, 25


@pytest.fixture(scope="module")
def counts():
    return np.random.default_rng(0).poisson(2, (N_SPOTS, N_GENES)).astype(np.int32)


def write_matrix(path, counts, kinds=None):
    """``filtered_feature_bc_matrix.h5`` as Space Ranger 1.0 and later write it: a CSC matrix, features x spots."""
    matrix = sp.csc_matrix(counts.T)
    names = [f"GENE{i}" for i in range(N_GENES)]
    names[3] = names[2]  # symbols repeat in real references
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix")
        group["barcodes"] = np.array([f"ACGT{i:04d}-1" for i in range(N_SPOTS)], "S")
        group["data"], group["indices"], group["indptr"] = matrix.data, matrix.indices.astype(np.int64), matrix.indptr
        group["shape"] = np.array(matrix.shape, np.int32)
        features = group.create_group("features")
        features["id"] = np.array([f"ENSG{i:05d}" for i in range(N_GENES)], "S")
        features["name"] = np.array(names, "S")
        features["feature_type"] = np.array(kinds or ["Gene Expression"] * N_GENES, "S")
        features["genome"] = np.array(["GRCh38"] * N_GENES, "S")
        features["_all_tag_keys"] = np.array(["genome"], "S")
        file.attrs["chemistry_description"] = "Spatial 3' v1"


def positions(extra=3):
    """Every position of the slide, in another order than the matrix's, some outside the tissue."""
    n = N_SPOTS + extra
    table = pd.DataFrame(
        {
            "barcode": [f"ACGT{i:04d}-1" for i in range(n)],
            "in_tissue": [1] * N_SPOTS + [0] * extra,
            "array_row": np.arange(n) // 8,
            "array_col": np.arange(n) % 8,
            "pxl_row_in_fullres": 100 + 10 * (np.arange(n) // 8),
            "pxl_col_in_fullres": 500 + 7 * (np.arange(n) % 8),
        }
    )
    return table.iloc[::-1]


@pytest.fixture
def space_ranger(tmp_path, counts):
    """Write an output folder; the version decides on the positions' file."""

    def write(kind="tissue_positions.csv", folder=tmp_path / "sample" / "outs"):
        from PIL import Image

        (folder / "spatial").mkdir(parents=True)
        write_matrix(folder / "filtered_feature_bc_matrix.h5", counts)
        path, table = folder / "spatial" / kind, positions()
        if kind.endswith("parquet"):
            table.to_parquet(path, index=False)
        else:
            table.to_csv(path, index=False, header=kind == "tissue_positions.csv")
        factors = {"spot_diameter_fullres": 9.0, "tissue_hires_scalef": 0.2, "fiducial_diameter_fullres": 14.0}
        (folder / "spatial" / "scalefactors_json.json").write_text(json.dumps(factors | {"tissue_lowres_scalef": 0.05}))
        for size, side in (("hires", 200), ("lowres", 50)):
            Image.new("RGB", (side, side), "pink").save(folder / "spatial" / f"tissue_{size}_image.png")
        return folder

    return write


@pytest.mark.parametrize("kind", ["tissue_positions.csv", "tissue_positions_list.csv", "tissue_positions.parquet"])
def test_space_rangers_folder_of_any_version(kind, space_ranger, counts):
    folder = space_ranger(kind)
    adata = stmcdi.import_(folder, quiet=True)
    np.testing.assert_array_equal(dense(adata.X), counts)
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


def test_only_genes_in_tissue_are_kept(space_ranger, counts):
    folder = space_ranger()
    write_matrix(folder / "filtered_feature_bc_matrix.h5", counts, ["Gene Expression"] * 20 + ["Antibody Capture"] * 5)
    table = positions()
    table.loc[table["barcode"] == "ACGT0004-1", "in_tissue"] = 0
    table.to_csv(folder / "spatial" / "tissue_positions.csv", index=False)
    adata = stmcdi.import_(folder, quiet=True)
    assert adata.shape == (N_SPOTS - 1, 20) and "ACGT0004-1" not in adata.obs_names


def test_the_matrix_as_a_folder(space_ranger, counts):
    folder = space_ranger()
    (folder / "filtered_feature_bc_matrix.h5").unlink()
    mtx = folder / "filtered_feature_bc_matrix"
    mtx.mkdir()
    with gzip.open(mtx / "matrix.mtx.gz", "wb") as file:
        scipy.io.mmwrite(file, sp.coo_matrix(counts.T))
    with gzip.open(mtx / "features.tsv.gz", "wt") as file:
        file.writelines(f"ENSG{i:05d}\tGENE{i}\tGene Expression\n" for i in range(N_GENES))
    with gzip.open(mtx / "barcodes.tsv.gz", "wt") as file:
        file.writelines(f"ACGT{i:04d}-1\n" for i in range(N_SPOTS))
    np.testing.assert_array_equal(dense(stmcdi.import_(folder).X), counts)


def test_visium_hd_bins(space_ranger, tmp_path, refused, cli):
    outs = tmp_path / "hd" / "outs"
    for side in ("002", "008", "016"):
        space_ranger("tissue_positions.parquet", outs / "binned_outputs" / f"square_{side}um")
    adata = stmcdi.import_(outs, quiet=True)
    assert adata.n_obs == N_SPOTS and adata.uns["stmcdi"]["import"]["parameters"]["bin_um"] == 16
    assert list(adata.uns["spatial"]) == ["square_016um"]
    assert cli("import", tmp_path / "hd", tmp_path / "out.h5ad", "--bin-um", 8, "--quiet").exit_code == 0
    line = refused("import", outs, tmp_path / "b.h5ad", "--bin-um", "5")
    assert "expected bins of 5 micrometres, found 2, 8, 16; choose one (--bin-um)" in line


def table_of(counts):
    return pd.DataFrame(counts, [f"s{i}" for i in range(N_SPOTS)], [f"g{i}" for i in range(N_GENES)])


@pytest.mark.parametrize("ending", ["csv", "tsv", "csv.gz", "tsv.gz"])
@pytest.mark.parametrize("way", ["spots in rows", "genes in rows"])
def test_tables_either_way_round_with_coordinates(ending, way, counts, tmp_path):
    table = table_of(counts)
    sep = "," if ending.startswith("csv") else "\t"
    (table if way == "spots in rows" else table.T).to_csv(tmp_path / f"counts.{ending}", sep=sep)
    xy = pd.DataFrame({"x": np.arange(N_SPOTS), "y": 3.5}, table.index)
    xy.iloc[::-1].to_csv(tmp_path / "xy.csv")
    adata = stmcdi.import_(tmp_path / f"counts.{ending}", coordinates=tmp_path / "xy.csv")
    np.testing.assert_array_equal(dense(adata.X), counts)
    np.testing.assert_array_equal(adata.obsm["spatial"], xy)
    assert list(adata.obs_names) == list(table.index) and list(adata.var_names) == list(table.columns)


@pytest.mark.parametrize("names", ["{}x{}", "slide1_{}x{}", "{}.5x{}.25"])
def test_places_in_the_names_of_spots(names, counts, tmp_path):
    table = table_of(counts)
    table.index = [names.format(i % 8, i // 8) for i in range(N_SPOTS)]
    for way, content in (("rows", table), ("columns", table.T)):
        content.to_csv(tmp_path / f"{way}.tsv", sep="\t")
        adata = stmcdi.import_(tmp_path / f"{way}.tsv")
        np.testing.assert_array_equal(adata.obsm["spatial"].astype(int)[9], [1, 1])
        np.testing.assert_array_equal(dense(adata.X), counts)


def test_places_in_columns(counts, tmp_path):
    table = table_of(counts)
    table.insert(2, "y", np.arange(N_SPOTS) * 2.0)
    table.insert(0, "x", 1.0)
    table.to_csv(tmp_path / "counts.csv")
    adata = stmcdi.import_(tmp_path / "counts.csv")
    assert adata.n_vars == N_GENES and adata.obsm["spatial"][3].tolist() == [1, 6]


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_anndata_in_zarr(zarr_format, tmp_path):
    raw, before = make_raw(), ad.settings.zarr_write_format
    try:
        ad.settings.zarr_write_format = zarr_format
        raw.write_zarr(tmp_path / "raw.zarr")
    finally:
        ad.settings.zarr_write_format = before
    adata = stmcdi.import_(tmp_path / "raw.zarr")
    np.testing.assert_array_equal(dense(adata.X), dense(raw.X))
    np.testing.assert_array_equal(adata.obsm["spatial"], raw.obsm["spatial"])
    assert list(adata.obs["section"]) == list(raw.obs["section"])


def test_h5ad_with_coordinates_elsewhere(h5ad, tmp_path):
    raw = make_raw()
    place = pd.DataFrame(raw.obsm["spatial"], raw.obs_names, ["x", "y"])
    del raw.obsm["spatial"]
    place.to_csv(tmp_path / "xy.tsv", sep="\t")
    adata = stmcdi.import_(h5ad(raw), coordinates=tmp_path / "xy.tsv")
    np.testing.assert_allclose(adata.obsm["spatial"], place)


@pytest.fixture(scope="module")
def spatialdata_store(tmp_path_factory):
    pytest.importorskip("spatialdata", reason="SPATIALDATA NOT TESTED: pip install 'stmcdi[spatialdata]'")
    import geopandas
    from shapely import Point
    from spatialdata import SpatialData
    from spatialdata.models import ShapesModel, TableModel

    raw = make_raw()
    xy = raw.obsm.pop("spatial")
    circles = geopandas.GeoDataFrame(
        {"geometry": [Point(*p) for p in xy], "radius": 3.0}, index=np.arange(len(xy))[::-1]
    )
    raw.obs["region"], raw.obs["spot"] = pd.Categorical(["spots"] * raw.n_obs), np.arange(raw.n_obs)[::-1]
    raw.uns, raw.varm = {}, {}
    table = TableModel.parse(raw, region="spots", region_key="region", instance_key="spot")
    path = tmp_path_factory.mktemp("store") / "tissue.zarr"
    SpatialData(shapes={"spots": ShapesModel.parse(circles)}, tables={"table": table, "other": table.copy()}).write(
        path
    )
    return path, raw, xy


def test_spatialdata(spatialdata_store, refused, tmp_path):
    path, raw, xy = spatialdata_store
    adata = stmcdi.import_(path, table="table")
    np.testing.assert_array_equal(dense(adata.X), dense(raw.X))
    np.testing.assert_allclose(adata.obsm["spatial"], xy)
    adata.write_h5ad(tmp_path / "a.h5ad")
    assert "expected one table, found " in refused("import", path, tmp_path / "out.h5ad")
    assert "expected a table cells, found " in refused("import", path, tmp_path / "out.h5ad", "--table", "cells")


def test_what_is_imported_goes_through_the_steps(space_ranger, cli, tmp_path):
    result = cli("import", space_ranger(), tmp_path / "raw.h5ad")
    assert result.exit_code == 0 and result.stdout == ""
    assert result.stderr == "import: renamed repeated genes: GENE2\n"
    assert cli("normalize", tmp_path / "raw.h5ad", tmp_path / "n.h5ad").exit_code == 0
    assert cli("build-graph", tmp_path / "n.h5ad", tmp_path / "g.h5ad").exit_code == 0
    assert "import" in sc.read_h5ad(tmp_path / "g.h5ad").uns["stmcdi"]


def test_refusals(space_ranger, refused, counts, tmp_path):
    out = tmp_path / "out.h5ad"
    assert "no such file" in refused("import", tmp_path / "none", out)
    (tmp_path / "empty").mkdir()
    assert "neither Space Ranger's output" in refused("import", tmp_path / "empty", out)
    folder = space_ranger()
    table = positions(0).iloc[1:]
    table.to_csv(folder / "spatial" / "tissue_positions.csv", index=False)
    assert "found none for ACGT0039-1; matrix and positions are of different runs" in refused("import", folder, out)
    (folder / "spatial" / "tissue_positions.csv").write_text("a,b\n1,2\n")
    assert "not a table of positions" in refused("import", folder, out)
    shutil.rmtree(folder / "spatial")
    assert "expected one of tissue_positions.parquet" in refused("import", folder, out)
    (folder / "filtered_feature_bc_matrix.h5").write_text("x")
    assert "not a matrix of Space Ranger" in refused("import", folder, out)
    counted = tmp_path / "counts.csv"
    table_of(counts).to_csv(counted)
    assert "expected coordinates in columns x and y or in names such as 12x7" in refused("import", counted, out)
    xy = tmp_path / "xy.csv"
    xy.write_text("name,x,y\ns0,1,2\n")
    assert "expected a row for every spot" in refused("import", counted, out, "--coordinates", xy)
    xy.write_text("name,x,y\ns0,1,2\ns0,1,2\n")
    assert "expected each spot once" in refused("import", counted, out, "--coordinates", xy)
    xy.write_text("name,a,b,c\ns0,1,2,3\n")
    assert "expected columns x and y, found a, b, c" in refused("import", counted, out, "--coordinates", xy)
    xy.write_text("name;x;y\ns0;1;2\n")
    assert "found one column; rename it" in refused("import", counted, out, "--coordinates", xy)
    table_of(counts).assign(note="x", x=1.0, y=2.0).to_csv(counted)
    assert "expected numbers only" in refused("import", counted, out)
    assert "expected `format` to be one of" in str(
        pytest.raises(InputError, stmcdi.import_, counted, format="loom").value
    )


@pytest.mark.parametrize("package", ["pyarrow", "spatialdata"])
def test_an_absent_optional_package_is_named(package, space_ranger, spatialdata_store, monkeypatch, refused, tmp_path):
    import builtins

    real = builtins.__import__

    def without(name, *arguments, **options):
        if name.split(".")[0] == package:
            raise ImportError(f"No module named '{package}'")
        return real(name, *arguments, **options)

    path = space_ranger("tissue_positions.parquet") if package == "pyarrow" else spatialdata_store[0]
    if package == "pyarrow":
        monkeypatch.setattr(pd, "read_parquet", lambda path: without("pyarrow"))
    monkeypatch.setattr(builtins, "__import__", without)
    extra = {"pyarrow": "parquet", "spatialdata": "spatialdata"}[package]
    assert f"pip install 'stmcdi[{extra}]'" in refused("import", path, tmp_path / "out.h5ad")
