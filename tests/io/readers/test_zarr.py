"""AnnData in zarr, as anndata of any age writes it, in a folder and zipped."""

import shutil
import zipfile

import numpy as np
import pytest
from helpers import ZARR_FORMATS, dense, make_raw, write_zarr
from platforms import COUNTS, N_GENES, N_SPOTS, XY, write_zarr_array

import stmcdi_cli as stmcdi


@pytest.mark.parametrize("zarr_format", ZARR_FORMATS)
def test_anndata_in_zarr(zarr_format, tmp_path):
    raw = make_raw()
    write_zarr(raw, tmp_path / "raw.zarr", zarr_format)
    adata = stmcdi.import_(tmp_path / "raw.zarr")
    np.testing.assert_array_equal(dense(adata.X), dense(raw.X))
    np.testing.assert_array_equal(adata.obsm["spatial"], raw.obsm["spatial"])
    assert list(adata.obs["section"]) == list(raw.obs["section"])


@pytest.fixture
def store(tmp_path):
    """A store of format 2."""
    write_zarr(make_raw(), tmp_path / "raw.zarr", 2)
    return tmp_path / "raw.zarr"


def zipped(store, path, top=""):
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(store.rglob("*")):
            if file.is_file():
                archive.write(file, top + file.relative_to(store).as_posix())
    return path


@pytest.mark.parametrize("top", ["", "raw.zarr/"])
def test_a_zipped_store(top, store, tmp_path):
    path = zipped(store, tmp_path / "raw.zarr.zip", top)
    shutil.rmtree(store)
    adata = stmcdi.import_(path)
    np.testing.assert_array_equal(dense(adata.X), dense(make_raw().X))
    assert adata.uns["stmcdi"]["import"]["parameters"]["format"] == "zarr"


def test_a_store_of_before_anndata_wrote_attributes_at_the_top(store):
    for name in (".zattrs", ".zmetadata"):
        (store / name).unlink(missing_ok=True)
    np.testing.assert_array_equal(dense(stmcdi.import_(store).X), dense(make_raw().X))


def test_frames_as_records_as_anndata_before_0_7_wrote_them(tmp_path):
    obs = np.array([(f"s{i}".encode(), i % 2) for i in range(N_SPOTS)], [("index", "S5"), ("batch", "i1")])
    var = np.array([(f"g{i}".encode(),) for i in range(N_GENES)], [("index", "S5")])
    with zipfile.ZipFile(tmp_path / "old.zip", "w") as archive:
        for name in ("", "obsm/"):
            archive.writestr(f"{name}.zgroup", '{"zarr_format": 2}')
        for name, values in {"X": COUNTS.astype("f4"), "obs": obs, "var": var, "obsm/spatial": XY}.items():
            write_zarr_array(archive, name, values)
    adata = stmcdi.import_(tmp_path / "old.zip")
    np.testing.assert_array_equal(dense(adata.X), COUNTS)
    np.testing.assert_array_equal(adata.obsm["spatial"], XY)
    assert list(adata.obs_names[:2]) == ["s0", "s1"] and adata.obs["batch"].tolist() == [0, 1] * 20


def test_archives_that_are_damaged_or_name_files_outside(store, refused, tmp_path):
    out = tmp_path / "a.h5ad"
    path = zipped(store, tmp_path / "raw.zarr.zip")
    content = path.read_bytes()
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("../outside", "x")
    assert "expected files within the archive, found '../outside'" in refused("import", path, out)
    path.write_bytes(content[: len(content) // 2])
    assert "raw.zarr.zip: " in refused("import", path, out, "--format", "zarr")
