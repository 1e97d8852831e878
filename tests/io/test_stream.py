import os
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pytest
import scipy.sparse as sp
from helpers import dense, make_raw, same

from stmcdi_cli import anndata_keys as keys
from stmcdi_cli import resources, sparse
from stmcdi_cli.errors import InputError, OptionError
from stmcdi_cli.io import output, stream
from stmcdi_cli.io.h5ad import DeferredErrorFile, copy_without, matrices, open_h5ad, write_h5ad
from stmcdi_cli.io.stream import Stream


@pytest.fixture
def full() -> ad.AnnData:
    """Every kind of matrix."""
    adata = make_raw()
    adata.layers["missing"] = sp.csr_matrix(np.random.default_rng(0).random(adata.shape) < 0.3)
    adata.layers["dense"] = adata.X.toarray() / 3
    adata.layers["by_column"] = adata.X.tocsc()
    adata.layers["counts"] = adata.X.astype(np.int64)
    adata.raw = adata[:, :30].copy()
    adata.obsp["graph"] = sp.random(60, 60, 0.1, format="csr", random_state=0)
    return adata


def doubled(adata: ad.AnnData, names=(keys.X, "dense", "missing")) -> Stream:
    """A step that makes some matrices anew."""

    def blocks():
        for rows in sparse.row_chunks(adata.shape):
            block = {name: sparse.read_rows(matrices(adata)[name], rows) for name in names}
            yield {name: part if part.dtype == bool else part * 2 for name, part in block.items()}

    return Stream(copy_without(adata, names), blocks())


@pytest.mark.parametrize("entries", [1, 7 * 40, 2**22])
def test_a_stream_is_the_same_in_memory_and_in_a_file_whatever_the_chunk(full, h5ad, tmp_path, monkeypatch, entries):
    source = h5ad(full)
    expected = stream.to_memory(doubled(full))
    monkeypatch.setattr(sparse, "CHUNK_ENTRIES", entries)
    same(stream.to_memory(doubled(full)), expected)
    with open_h5ad(source) as adata:
        stream.write({tmp_path / "out.h5ad": doubled(adata)})
    back = ad.read_h5ad(tmp_path / "out.h5ad")
    expected.obs["note"] = expected.obs["note"].astype("category")
    same(back, expected)
    np.testing.assert_array_equal(dense(back.X), 2 * dense(full.X))
    assert (
        back.layers["missing"].dtype == bool and back.X.dtype == np.float32 and back.layers["counts"].dtype == np.int64
    )
    assert back.layers["by_column"].format == "csc" and isinstance(back.layers["dense"], np.ndarray)
    np.testing.assert_array_equal(dense(back.raw.X), dense(full.raw.X))
    assert back.raw.var.equals(full.raw.var)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["input.h5ad", "out.h5ad"]


def test_a_file_is_encoded_as_anndata_does_it(full, h5ad, tmp_path):
    with open_h5ad(h5ad(full)) as adata:
        stream.write({tmp_path / "out.h5ad": doubled(adata)})
    write_h5ad(stream.to_memory(doubled(full)), tmp_path / "whole.h5ad")

    def structure(path):
        found = {}
        with h5py.File(path) as file:
            file.visititems(
                lambda name, item: found.update(
                    {name: (dict(map(str_of, item.attrs.items())), getattr(item, "dtype", None))}
                )
            )
            found["/"] = dict(map(str_of, file.attrs.items()))
        return found

    def str_of(pair):
        return pair[0], str(pair[1])

    assert structure(tmp_path / "out.h5ad") == structure(tmp_path / "whole.h5ad")


def test_matrices_stay_on_disk(full, h5ad):
    with open_h5ad(h5ad(full)) as adata:
        assert all(map(sparse.on_disk, (adata.X, *adata.layers.values(), adata.raw.X)))
        for rows in (slice(0, 60), slice(10, 20), slice(59, 60), slice(20, 20)):
            np.testing.assert_array_equal(dense(sparse.read_rows(adata.X, rows)), dense(full.X[rows]))
            np.testing.assert_array_equal(sparse.read_rows(adata.layers["dense"], rows), full.layers["dense"][rows])
            np.testing.assert_array_equal(dense(sparse.missing_mask(adata, rows)), dense(full.layers["missing"][rows]))
        turned = sparse.as_row_major(adata.layers["by_column"])
        assert turned.format == "csr"
        np.testing.assert_array_equal(dense(turned), dense(full.X))


def test_a_file_that_says_what_it_lacks(raw, tmp_path):
    """As anndata's write_elem does it."""
    raw.X = None
    write_h5ad(raw, tmp_path / "a.h5ad")
    with open_h5ad(tmp_path / "a.h5ad") as adata:
        assert adata.X is None and adata.raw is None and not adata.layers


def test_chosen_rows_are_read_alone(full, h5ad):
    chosen = np.array([0, 3, 4, 31, 59])
    with open_h5ad(h5ad(full)) as adata:
        for name in ("dense", "counts"):
            np.testing.assert_array_equal(
                dense(sparse.select_rows(adata.layers[name], chosen)), dense(full.layers[name][chosen])
            )
        np.testing.assert_array_equal(dense(sparse.select_rows(full.X, chosen)), dense(full.X[chosen]))
        assert sparse.select_rows(adata.X, chosen[:0]).shape == (0, 40)


def test_columns_too_large_to_turn_are_refused(full, h5ad, monkeypatch):
    monkeypatch.setattr(resources, "room", lambda: 1000)
    with open_h5ad(h5ad(full)) as adata:
        with pytest.raises(InputError, match=r"by columns \(CSC\).*adata.X.tocsr\(\)"):
            sparse.as_row_major(adata.layers["by_column"])


@pytest.mark.parametrize("part", ["indices", "indptr"])
def test_rows_that_are_not_sound_are_refused(full, h5ad, part):
    source = h5ad(full)
    with h5py.File(source, "r+") as file:
        file[f"X/{part}"][20] = 10**6
    with open_h5ad(source) as adata, pytest.raises(InputError, match="a matrix cannot be read"):
        sparse.read_rows(adata.X, slice(0, 60))


def test_what_fails_halfway_leaves_the_old_files_and_no_other(full, h5ad, tmp_path):
    source = h5ad(full)
    for name in ("a.h5ad", "b.h5ad"):
        (tmp_path / name).write_text("old")

    def broken():
        yield {keys.X: full.X[:30]}
        raise InputError("expected no negative value")

    with open_h5ad(source) as adata:
        header = copy_without(adata, [keys.X])
        streams = Stream(header, iter([{keys.X: full.X[:30]}, {keys.X: full.X[30:]}])), Stream(header, broken())
        with pytest.raises(InputError, match="^expected no negative"):
            stream.write(dict(zip((tmp_path / "a.h5ad", tmp_path / "b.h5ad"), streams, strict=True)))
    assert (tmp_path / "a.h5ad").read_text() == (tmp_path / "b.h5ad").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 3


def test_a_write_error_names_its_file_and_ends_the_work_at_once(full, tmp_path, monkeypatch):
    made = []

    def blocks():
        for i in range(60):
            made.append(i)
            yield {keys.X: full.X[i : i + 1]}

    monkeypatch.setattr(DeferredErrorFile, "error", OSError(28, "No space left on device"))
    with pytest.raises(InputError, match=r"out.h5ad: cannot be written \(No space left on device\)"):
        stream.write({tmp_path / "out.h5ad": Stream(copy_without(full, [keys.X]), blocks())})
    assert list(tmp_path.iterdir()) == [] and len(made) == 1


def test_too_little_space_is_refused_before_work(full, tmp_path, monkeypatch):
    (tmp_path / "out.h5ad").write_text("old")
    usage = type("Usage", (), {"free": 2**20})
    monkeypatch.setattr(output.shutil, "disk_usage", lambda path: usage)
    made = []
    large = Stream(full, (made.append(block) for block in [{}]), size=3 * 2**30)
    with pytest.raises(InputError, match=r"out.h5ad: needs about 3.0 GiB, found 0.0 GiB free; free space"):
        stream.write({tmp_path / "out.h5ad": large})
    assert not made and (tmp_path / "out.h5ad").read_text() == "old"


def test_files_from_before_there_were_encodings_are_read(full, h5ad):
    source = h5ad(full)
    with h5py.File(source, "r+") as file:
        del file.attrs["encoding-type"], file.attrs["encoding-version"]
    with open_h5ad(source) as adata:
        np.testing.assert_array_equal(dense(sparse.read_rows(adata.X, slice(0, 60))), dense(full.X))


@pytest.mark.parametrize(
    ("text", "size"), [("4G", 4 * 2**30), ("500M", 500 * 2**20), ("1.5g", 3 * 2**29), ("2 GiB", 2**31), ("4096", 4096)]
)
def test_sizes_are_read(text, size):
    assert resources.parse(text) == size


@pytest.mark.parametrize("text", ["", "G", "-1G", "4 apples", "0", "1e9"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(OptionError, match="expected `memory_limit` as a size such as 4G"):
        resources.parse(text)


@pytest.fixture
def no_limit():
    yield resources.set_limit(None)
    resources.set_limit(None)


def test_the_limit_sets_the_rows_held_at_a_time(no_limit, monkeypatch):
    monkeypatch.setattr(resources, "resident", lambda: 200 * 2**20)
    usual = len(list(sparse.row_chunks((10**6, 1000))))
    resources.set_limit(400 * 2**20)
    assert len(list(sparse.row_chunks((10**6, 1000)))) > 2 * usual
    resources.check("a file")
    resources.set_limit(250 * 2**20)
    with pytest.raises(OptionError, match="at least 316M for a file, found `250M`; give more"):
        resources.check("a file")


def test_a_container_s_limit_is_found(no_limit, tmp_path, monkeypatch):
    group = tmp_path / "memory.max"
    monkeypatch.setattr(resources, "_limit_files", lambda: [group, tmp_path / "none"])
    free = resources.granted()
    group.write_text("max\n")
    assert resources.granted() == pytest.approx(free, rel=0.2)
    group.write_text(f"{2**28}\n")
    assert resources.granted() == 2**28 and resources.limit() == 2**27


def test_the_groups_of_a_process_are_found(monkeypatch):
    lines = {"/proc/self/cgroup": "4:memory:/job/1\n3:cpu,cpuacct:/job\n0::/user/x\n"}
    monkeypatch.setattr(resources, "_text", lambda path: lines.get(str(path), ""))
    root = Path("/sys/fs/cgroup")
    version_2 = [(2, root / "user/x"), (2, root / "user"), (2, root), (2, root)]
    assert resources._groups("cpu") == [(1, root / "cpu/job"), (1, root / "cpu"), (1, root / "cpu"), *version_2]
    limits = resources._limit_files()
    assert limits[0] == root / "memory/job/1/memory.limit_in_bytes" and root / "user/memory.max" in limits


@pytest.mark.parametrize(
    ("cpu_files", "cores"),
    [
        ({"cpu.max": "max 100000\n"}, 8),
        ({"cpu.max": "200000 100000\n"}, 2),
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu.max": "1000 100000\n"}, 1),
        ({"cpu.max": "6400000 100000\n"}, 8),
        ({"cpu.max": "damaged"}, 8),
        ({}, 8),
        ({"cpu.cfs_quota_us": "300000\n", "cpu.cfs_period_us": "100000\n"}, 3),
        ({"cpu.cfs_quota_us": "-1\n", "cpu.cfs_period_us": "100000\n"}, 8),
    ],
)
def test_threads_follow_the_quota_of_a_container(cpu_files, cores, tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    version = 1 if "cpu.cfs_quota_us" in cpu_files else 2
    monkeypatch.setattr(resources, "_groups", lambda _: [(version, tmp_path / "none"), (version, tmp_path)])
    for name, text in cpu_files.items():
        (tmp_path / name).write_text(text)
    assert resources.n_workers() == cores
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert resources.n_workers() == 5


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs Linux")
def test_the_memory_in_use_is_known():
    before = resources.resident()
    block = np.ones(2**24)
    assert resources.resident() - before > 0.9 * block.nbytes
