"""Files made to do harm: refused in one line, before much memory is taken."""

import os
import signal
import subprocess
import sys
import threading
import time
import zlib

import child
import h5py
import numpy as np
import pytest
from helpers import make_raw

from stmcdi_cli.errors import InputError
from stmcdi_cli.io import h5ad, safety


def declare(file, name, shape, **options):
    if name in file:
        del file[name]
    return file.create_dataset(name, shape, **options)


def huge_dense(file):
    declare(file, "X", (10**6, 10**6), dtype="f4", chunks=(1000, 1000), compression="gzip").attrs.update(
        {"encoding-type": "array", "encoding-version": "0.2.0"}
    )


def huge_by_repacking(file):
    """Zeros that gzip packs twice: a few bytes for gigabytes."""
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_chunk((2**27,))
    properties.set_deflate(9)
    properties.set_deflate(9)
    space = h5py.h5s.create_simple((2**32,))
    identifier = h5py.h5d.create(file["uns"].id, b"zeros", h5py.h5t.NATIVE_DOUBLE, space, properties)
    for start in range(0, 2**32, 2**27):
        identifier.write_direct_chunk((start,), zlib.compress(zlib.compress(bytes(2**20))))


def huge_indices(file):
    del file["X"]
    group = file.create_group("X")
    group.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": (60, 40)})
    for name, kind in (("data", "f4"), ("indices", "i4"), ("indptr", "i8")):
        group.create_dataset(name, (2**40,), dtype=kind, chunks=(2**16,), compression="gzip")


def huge_chunk(file):
    declare(file, "uns/chunk", (2**31,), dtype="i1", chunks=(2**31,)).id.write_direct_chunk((0,), bytes(2**22))


def deep(file):
    group = file["uns"]
    for _ in range(100):
        group = group.create_group("a")


def circle(file):
    file["uns/circle"] = file["uns"]


def soft_circle(file):
    file["uns/a"] = h5py.SoftLink("/uns/b")
    file["uns/b"] = h5py.SoftLink("/uns/a")


def dangling(file):
    file["uns/a"] = h5py.SoftLink("/nowhere")


def link_to_outside(file):
    file["uns/passwords"] = h5py.ExternalLink("/etc/passwd", "/")


def raw_storage_outside(file):
    file.create_dataset("uns/passwords", (100,), dtype="i1", external=[("/etc/passwd", 0, 100)])


def virtual(file):
    layout = h5py.VirtualLayout((100,), dtype="i1")
    layout[:] = h5py.VirtualSource("/etc/other.h5", "x", (100,))
    file.create_virtual_dataset("uns/virtual", layout)


def references(file):
    declare(file, "uns/r", (3,), dtype=h5py.ref_dtype)[0] = file["X"].ref


def ragged(file):
    declare(file, "uns/r", (3,), dtype=h5py.vlen_dtype("f8"))[0] = [1, 2]


def opaque(file):
    file["uns/o"] = np.void(b"x" * 10)


def named_type(file):
    file["uns/t"] = np.dtype("f8")


def long_attribute(file):
    file.create_group("uns/a").attrs.create("long", np.zeros(200_000, "i1"))


def unknown_filter(file):
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_chunk((10,))
    properties.set_filter(32015, h5py.h5z.FLAG_OPTIONAL, (3,))
    h5py.h5d.create(file["uns"].id, b"z", h5py.h5t.NATIVE_DOUBLE, h5py.h5s.create_simple((10,)), properties)


STRUCTURES = {
    huge_dense: "bytes stored for 4000000000000 at /X",
    huge_by_repacking: "bytes stored for 34359738368",
    huge_indices: "bytes stored for",
    huge_chunk: "chunks of at most 1 GiB",
    deep: "at most 32 groups within each other",
    circle: "one name for each object, found a second one at /uns/circle",
    soft_circle: "expected no links, found one at /uns/a",
    dangling: "expected no links",
    link_to_outside: "expected no links, found one at /uns/passwords",
    raw_storage_outside: "all data within the file, found those of /uns/passwords outside",
    virtual: "all data within the file",
    references: "numbers and text, found another kind of data at /uns/r",
    ragged: "numbers and text",
    opaque: "numbers and text",
    named_type: "groups and data sets only",
    long_attribute: "short attributes, found a long one, long, at /uns/a",
    unknown_filter: "expected compression with gzip, found filter",
}


@pytest.mark.parametrize("change", STRUCTURES, ids=lambda change: change.__name__)
def test_hostile_structures_are_refused_before_they_are_read(change, tmp_path):
    path = tmp_path / "a.h5ad"
    make_raw().write_h5ad(path)
    with h5py.File(path, "r+", libver="latest") as file:
        change(file)
    assert path.stat().st_size < 2**24
    for step, outputs in (("normalize", ["b.h5ad"]), ("import", ["b.h5ad"]), ("hold-out", ["b.h5ad", "c.h5ad"])):
        ended = child.run([step, path, *(tmp_path / name for name in outputs)], tmp_path / "said", 20)
        assert ended.code == 2 and ended.said.count("\n") == 1, ended
        assert STRUCTURES[change] in ended.said, ended.said
        assert ended.peak < 2**30, f"{ended.peak / 2**20:.0f} MiB"
    assert sorted(os.listdir(tmp_path)) == ["a.h5ad", "said"]


def test_text_that_many_names_share_takes_no_more_than_is_allowed(tmp_path):
    """HDF5 stores a text once and may point to it a million times: a bomb that no one sees before it is read."""
    path = tmp_path / "a.h5ad"
    make_raw().write_h5ad(path)
    with h5py.File(path, "r+") as file:
        names = declare(file, "uns/bomb", (200_000,), dtype=h5py.string_dtype())
        names.attrs.update({"encoding-type": "string-array", "encoding-version": "0.2.0"})
        names[0] = "x" * 2**20
        place = names.id.get_offset()
    content = bytearray(path.read_bytes())
    content[place : place + 16 * 200_000] = content[place : place + 16] * 200_000
    path.write_bytes(content)
    ended = child.run(["normalize", path, tmp_path / "b.h5ad"], tmp_path / "said", 60)
    assert ended.code == 2 and ended.said.count("\n") == 1, ended
    assert ended.peak < 2.5 * 2**30, f"{ended.peak / 2**20:.0f} MiB"


def test_files_of_very_many_parts_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "a.h5ad"
    make_raw().write_h5ad(path)
    monkeypatch.setattr(safety, "MAX_OBJECTS", 10)
    with pytest.raises(InputError, match="expected at most 10 groups and data sets, found more"):
        h5ad.read_h5ad(path)


def test_sound_files_pass_and_their_size_is_known(tmp_path):
    path = tmp_path / "a.h5ad"
    raw = make_raw()
    raw.raw = raw
    raw.uns["table"] = np.array([(1, 2.5)], dtype=[("a", "i4"), ("b", "f8")])  # as rank_genes_groups leaves
    raw.uns["flags"] = np.array([True, False])
    raw.layers["dense"] = np.zeros(raw.shape)
    for compression in (None, "gzip", "lzf"):
        raw.write_h5ad(path, compression=compression)
        with h5py.File(path) as file:
            size = safety.check_hdf5(file)
        assert raw.layers["dense"].nbytes < size < 10 * raw.layers["dense"].nbytes
        h5ad.read_h5ad(path)


def test_memory_is_bounded_and_given_back():
    with pytest.raises(MemoryError), safety.memory_limited(0):
        np.ones(2**29)
    np.ones(2**20)


def test_what_pandas_takes_at_its_first_text_does_not_count():
    code = (
        "import numpy as np; import pandas as pd; from stmcdi_cli.io import safety\n"
        "with safety.memory_limited(2**20): pd.Index(['a', 'b']); np.ones(2**26)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_damaged_files_are_named(tmp_path):
    path = tmp_path / "a.h5ad"
    make_raw().write_h5ad(path)
    content = bytearray(path.read_bytes())
    content[600:1200] = b"\xff" * 600
    path.write_bytes(content)
    with pytest.raises(InputError, match="a.h5ad: "):
        h5ad.read_h5ad(path)


def test_damage_on_which_hdf5_never_ends_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(safety, "TIME_LIMIT", 1)
    file = tmp_path / "raw.h5ad"
    make_raw().write_h5ad(file)
    content = bytearray(file.read_bytes())
    heap = content.find(b"GCOL")  # where HDF5 keeps texts: it goes from one to the next by their lengths
    content[heap + 16 : heap + 2064] = bytes(2048)
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"raw\.h5ad: damaged \(reading it does not end\); make the file again"):
        h5ad.read_h5ad(file)


def test_damage_on_which_hdf5_waits_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(safety, "TIME_LIMIT", 1)
    monkeypatch.setattr(safety, "WALL_PER_PROCESSOR", 1)
    monkeypatch.setattr(safety, "_read_texts", lambda file: time.sleep(60))
    make_raw().write_h5ad(tmp_path / "raw.h5ad")
    with pytest.raises(InputError, match=r"raw\.h5ad: damaged \(reading it does not end\); make the file again"):
        h5ad.read_h5ad(tmp_path / "raw.h5ad")


def test_an_action_that_ends_completes():
    assert safety.completes_in_subprocess(lambda: None, 5)


def test_an_exception_completes_and_prints_nothing(capfd):
    assert safety.completes_in_subprocess(lambda: 1 / 0, 5)
    assert safety.completes_in_subprocess(lambda: exit(3), 5)
    assert capfd.readouterr() == ("", "")


def test_a_crash_does_not_complete():
    assert not safety.completes_in_subprocess(lambda: os.kill(os.getpid(), signal.SIGSEGV), 5)


def test_a_process_killed_by_the_system_says_nothing_about_the_action():
    assert safety.completes_in_subprocess(lambda: os.kill(os.getpid(), signal.SIGKILL), 5)


def test_an_endless_loop_is_stopped():
    def turn():
        while True:
            pass

    assert not safety.completes_in_subprocess(turn, 1)


def sleep():
    time.sleep(60)


def read_an_empty_pipe():
    os.read(os.pipe()[0], 1)


def take_a_lock_twice():
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()


def ignore_signals():
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    time.sleep(60)


@pytest.fixture
def forked(monkeypatch):
    """Numbers of the processes that are forked."""
    numbers, fork = [], os.fork
    monkeypatch.setattr(os, "fork", lambda: numbers.append(fork()) or numbers[-1])
    return numbers


@pytest.mark.parametrize("wait", [sleep, read_an_empty_pipe, take_a_lock_twice, ignore_signals])
def test_an_action_that_waits_for_ever_is_killed(wait, forked):
    before = time.monotonic()
    assert not safety.completes_in_subprocess(wait, 5, wall=0.2)
    assert time.monotonic() - before < 30
    with pytest.raises(ProcessLookupError):
        os.kill(forked[0], 0)


def test_the_process_is_killed_if_the_waiting_is_interrupted(forked, monkeypatch):
    def interrupt(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(safety.time, "sleep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        safety.completes_in_subprocess(read_an_empty_pipe, 5)
    with pytest.raises(ProcessLookupError):
        os.kill(forked[0], 0)


def test_nothing_of_the_action_is_kept():
    made = []
    assert safety.completes_in_subprocess(lambda: made.append(1), 5)
    assert not made


def test_a_group_in_place_of_a_part_of_a_sparse_matrix_is_refused(h5ad, refused, tmp_path):
    path = h5ad(make_raw())
    with h5py.File(path, "r+") as file:
        del file["X/indptr"]
        file.create_group("X/indptr")
    line = refused("build-graph", path, tmp_path / "out.h5ad")
    assert line.endswith("expected a sparse matrix in X, found a damaged one; write the file again")
