"""Where coordinates are found, and what --coordinates may name."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers import make_raw

import stmcdi_cli as stmcdi
from stmcdi_cli.io.readers import coordinates
from stmcdi_cli.io.readers.reader import Options

PAGE = Path(__file__).parents[3] / "docs" / "steps" / "import.md"


def moved(obsm=(), obs=(), shift=0):
    """Counts whose coordinates are elsewhere, each pair of columns further to the right than the one before."""
    raw = make_raw()
    xy = raw.obsm.pop("spatial")
    del raw.obs["section"]
    for key in obsm:
        raw.obsm[key] = xy
    for number, (x, y) in enumerate(obs):
        raw.obs[x], raw.obs[y] = xy[:, 0] + shift * number, xy[:, 1]
    return raw, xy


def placed(adata, given=None):
    """Coordinates that are found, and what is said about them."""
    options = Options(given)
    coordinates.place(adata, Path("in.h5ad"), options)
    return adata.obsm["spatial"], options.notes


@pytest.mark.parametrize("key", coordinates.IN_OBSM)
def test_keys_of_obsm(key):
    raw, xy = moved([key])
    found, notes = placed(raw)
    np.testing.assert_array_equal(found, xy)
    assert notes == [f"coordinates are those of obsm['{key}']"]


@pytest.mark.parametrize("pair", [*coordinates.PLACES, *coordinates.INDICES, ("X", "Y"), ("X_Centroid", "Y_Centroid")])
def test_pairs_of_columns(pair):
    raw, xy = moved(obs=[pair])
    found, notes = placed(raw)
    np.testing.assert_array_equal(found, xy)
    assert notes == [f"coordinates are those of obs['{pair[0]}', '{pair[1]}']"]


def test_pixels_come_before_indices_and_equal_ones_are_one():
    raw, xy = moved(obs=[("pxl_col_in_fullres", "pxl_row_in_fullres"), ("array_col", "array_row")], shift=5)
    np.testing.assert_array_equal(placed(raw)[0], xy)
    raw, xy = moved(["xy", "X_spatial"])
    np.testing.assert_array_equal(placed(raw)[0], xy)


def test_what_differs_is_to_be_named(h5ad, refused, tmp_path):
    raw, xy = moved(obs=[("x", "y"), ("center_x", "center_y")], shift=5)
    path = h5ad(raw)
    line = refused("import", path, tmp_path / "a.h5ad")
    assert "expected coordinates once, found obs['x', 'y'] and obs['center_x', 'center_y']; name one of them" in line
    np.testing.assert_array_equal(placed(raw, "center_x, center_y")[0], xy + [5, 0])


def test_none_lists_what_is_there(h5ad, refused, tmp_path):
    raw, xy = moved(["X_umap"], [("depth", "width")])
    path = h5ad(raw)
    line = refused("import", path, tmp_path / "a.h5ad")
    assert "found obsm with X_other, X_umap and obs with depth, width; name what holds them (--coordinates KEY" in line
    for name in ("X_umap", "depth,width"):
        np.testing.assert_array_equal(stmcdi.import_(path, coordinates=name).obsm["spatial"], xy)
    line = refused("import", path, tmp_path / "a.h5ad", "--coordinates", "places.csv")
    assert "expected places.csv to be a file, a key of obsm or columns of obs, found obsm with X_other" in line


def test_a_file_replaces_what_is_there(h5ad, tmp_path):
    raw = make_raw()
    pd.DataFrame({"x": 1.0, "y": np.arange(60)}, raw.obs_names).to_csv(tmp_path / "xy.txt", sep=";")
    adata = stmcdi.import_(h5ad(raw), coordinates=tmp_path / "xy.txt", quiet=True)
    assert adata.obsm["spatial"][7].tolist() == [1, 7]


def test_the_page_has_the_same_names():
    page = PAGE.read_text("utf-8")
    lines = [line for line in page.splitlines() if line.startswith(("| `obsm`", "| `obs`"))]
    named = [re.findall(r"`([^`]+)`", line.split("|")[2]) for line in lines]
    assert named == [
        ["spatial"],
        list(coordinates.IN_OBSM),
        [f"{x}, {y}" for x, y in coordinates.PLACES],
        [f"{x}, {y}" for x, y in coordinates.INDICES],
    ]
