"""Zarr stores as anndata and spatialdata write them."""

import builtins
from contextlib import nullcontext

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from helpers import dense, make_raw

import stmcdi_cli as stmcdi

FORMATS = (2, 3) if hasattr(ad.settings, "zarr_write_format") else (2,)  # AnnData before 0.12 writes format 2 only


@pytest.mark.parametrize("zarr_format", FORMATS)
def test_anndata_in_zarr(zarr_format, tmp_path):
    raw = make_raw()
    with ad.settings.override(zarr_write_format=zarr_format) if len(FORMATS) > 1 else nullcontext():
        raw.write_zarr(tmp_path / "raw.zarr")
    adata = stmcdi.import_(tmp_path / "raw.zarr")
    np.testing.assert_array_equal(dense(adata.X), dense(raw.X))
    np.testing.assert_array_equal(adata.obsm["spatial"], raw.obsm["spatial"])
    assert list(adata.obs["section"]) == list(raw.obs["section"])


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
