"""SpatialData stores: spots lie at the centres of what their table annotates."""

import builtins

import numpy as np
import pandas as pd
import pytest
from helpers import dense, make_raw

import stmcdi_cli as stmcdi


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


def test_spatialdata_without_its_package_is_refused(spatialdata_store, monkeypatch, refused, tmp_path):
    real = builtins.__import__

    def without(name, *arguments, **options):
        if name.split(".")[0] == "spatialdata":
            raise ImportError("No module named 'spatialdata'")
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    assert "pip install 'stmcdi[spatialdata]'" in refused("import", spatialdata_store[0], tmp_path / "out.h5ad")


@pytest.fixture
def write(tmp_path):
    """Write a store with a table of 15 spots for each region; gives its path and the counts."""
    pytest.importorskip("spatialdata", reason="SPATIALDATA NOT TESTED: pip install 'stmcdi[spatialdata]'")
    import anndata as ad
    from spatialdata import SpatialData
    from spatialdata.models import TableModel

    def write(first=0, **elements):
        regions = [name for part in elements.values() for name in part]
        counts = np.random.default_rng(0).poisson(2, (9 * len(regions), 5)).astype(np.float32)
        table = ad.AnnData(counts, obs=pd.DataFrame(index=[f"s{i}" for i in range(len(counts))]))
        table.obs["region"] = pd.Categorical(np.repeat(regions, 9))
        table.obs["id"] = np.tile(np.arange(first, first + 9)[::-1], len(regions))
        table = TableModel.parse(table, region=regions, region_key="region", instance_key="id")
        SpatialData(**elements, tables={"table": table}).write(tmp_path / "tissue.zarr")
        return tmp_path / "tissue.zarr", counts

    return write


def circles(**systems):
    from spatialdata.models import ShapesModel

    xy = np.arange(18.0).reshape(9, 2)
    return ShapesModel.parse(xy, geometry=0, radius=1, transformations=systems)


def test_one_coordinate_system_of_any_name(write, caplog):
    from spatialdata.transformations import Identity, Scale

    caplog.set_level("INFO")
    half = Scale([0.5, 0.5], axes=("x", "y"))
    path, counts = write(shapes={"spots": circles(sample1=Identity(), sample1_downscaled_hires=half)})
    adata = stmcdi.import_(path)
    np.testing.assert_array_equal(dense(adata.X), counts)
    np.testing.assert_array_equal(adata.obsm["spatial"], np.arange(18.0).reshape(9, 2)[::-1])
    assert "import: coordinates are the centres of spots, in the system sample1" in caplog.messages


def test_regions_with_systems_of_their_own_are_sections(write):
    from spatialdata.transformations import Identity

    path, _ = write(shapes={"left": circles(one=Identity()), "right": circles(two=Identity())})
    adata = stmcdi.import_(path, quiet=True)
    assert adata.uns["stmcdi"]["import"]["parameters"]["section_key"] == "region"
    source, target = stmcdi.build_graph(adata).obsp["spatial_connectivities"].nonzero()
    assert (source // 9 == target // 9).all()


def test_several_systems_without_a_common_plain_one_are_refused(write, refused, tmp_path):
    from spatialdata.transformations import Scale

    half, third = (Scale([size, size], axes=("x", "y")) for size in (0.5, 0.3))
    path, _ = write(shapes={"spots": circles(a=half, b=third)})
    line = refused("import", path, tmp_path / "a.h5ad")
    assert "expected one coordinate system, found a, b; give a table of coordinates (--coordinates FILE)" in line


def test_a_table_that_annotates_labels(write):
    from spatialdata.models import Labels2DModel
    from spatialdata.transformations import Scale

    labels = np.zeros((40, 40), np.int32)
    for cell in range(9):
        labels[2 + 12 * (cell // 3) :, 3 + 12 * (cell % 3) :][:4, :4] = 10 + cell
    scaled = {"sample1": Scale([2.0, 2.0], axes=("x", "y"))}
    path, _ = write(10, labels={"cells": Labels2DModel.parse(labels, dims=("y", "x"), transformations=scaled)})
    xy = stmcdi.import_(path, quiet=True).obsm["spatial"]
    np.testing.assert_array_equal(xy[[0, 1, 8]], [[58, 56], [34, 56], [10, 8]])


def test_a_row_without_its_shape_is_refused(write, refused, tmp_path):
    from spatialdata.transformations import Identity

    path, _ = write(1, shapes={"spots": circles(sample1=Identity())})
    line = refused("import", path, tmp_path / "a.h5ad")
    assert "expected a shape for every row of the table, found none for s0; remove these rows" in line
