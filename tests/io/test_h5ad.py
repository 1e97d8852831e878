import os

import anndata as ad
import numpy as np
import pytest
from helpers import make_raw, same

from stmcdi_cli import provenance
from stmcdi_cli.cli import files
from stmcdi_cli.errors import InputError
from stmcdi_cli.io import text
from stmcdi_cli.io.h5ad import DeferredErrorFile, read_h5ad, shallow_copy, write_h5ad, write_h5ads
from stmcdi_cli.io.output import atomic_file, atomic_folder, check_output


def test_a_file_comes_back_as_it_was(raw, tmp_path):
    raw.raw = raw
    write_h5ad(raw, tmp_path / "a.h5ad")
    back = read_h5ad(tmp_path / "a.h5ad")
    raw.obs["note"] = raw.obs["note"].astype("category")  # what anndata makes of repeated words
    same(back, raw)
    assert back.raw.shape == raw.shape
    assert [path.name for path in tmp_path.iterdir()] == ["a.h5ad"]


def test_files_are_shared_as_the_umask_says(raw, tmp_path):
    write_h5ad(raw, tmp_path / "a.h5ad")
    umask = os.umask(0)
    os.umask(umask)
    assert (tmp_path / "a.h5ad").stat().st_mode & 0o777 == 0o666 & ~umask


def test_what_is_no_anndata_is_refused(tmp_path):
    import h5py

    with pytest.raises(InputError, match="no such file"):
        read_h5ad(tmp_path / "none.h5ad")
    (tmp_path / "text.h5ad").write_text("spot,gene\n")
    with pytest.raises(InputError, match="not an HDF5 file"):
        read_h5ad(tmp_path / "text.h5ad")
    with h5py.File(tmp_path / "other.h5ad", "w") as file:
        file["x"] = [1, 2]
    with pytest.raises(InputError, match="no obs and var"):
        read_h5ad(tmp_path / "other.h5ad")
    make_raw().write_h5ad(tmp_path / "good.h5ad")
    output = (tmp_path / "good.h5ad").read_bytes()
    (tmp_path / "cut.h5ad").write_bytes(output[: len(output) // 2])
    with pytest.raises(InputError, match="cut.h5ad"):
        read_h5ad(tmp_path / "cut.h5ad")


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    (tmp_path / "out.txt").write_text("old")
    with pytest.raises(RuntimeError), atomic_file(tmp_path / "out.txt") as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


def test_a_link_given_as_output_stays_and_its_target_is_written(raw, tmp_path):
    there, here = tmp_path / "there", tmp_path / "here"
    there.mkdir()
    here.mkdir()
    (there / "out.h5ad").write_text("old")
    (here / "link.h5ad").symlink_to("../there/out.h5ad")
    (here / "new.h5ad").symlink_to(there / "new.h5ad")
    (here / "model").symlink_to(there / "model")
    for name in ("link.h5ad", "new.h5ad"):
        check_output(here / name)
        write_h5ad(raw, here / name)
        assert (here / name).is_symlink()
    same(read_h5ad(there / "out.h5ad"), read_h5ad(there / "new.h5ad"))
    for _ in range(2):
        with atomic_folder(here / "model") as folder:
            (folder / "part").write_text("")
    assert (here / "model").is_symlink()
    assert sorted(path.name for path in there.rglob("*")) == ["model", "new.h5ad", "out.h5ad", "part"]
    with atomic_file(here / "link.h5ad", private=True) as temporary:  # a checkpoint: the link may be somebody else's
        temporary.write_text("")
    assert not (here / "link.h5ad").is_symlink()
    (there / "out.h5ad").unlink()
    (here / "input.h5ad").symlink_to(there / "new.h5ad")
    with pytest.raises(InputError, match="is also an input"):
        check_output(here / "input.h5ad", there / "new.h5ad")


def test_an_output_that_cannot_be_one_is_refused(raw, tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "lost").symlink_to("none/file")
    for refuse in (check_output, lambda path: write_h5ad(raw, path)):
        with pytest.raises(InputError, match="loop: cannot be written .Too many levels of symbolic links"):
            refuse(tmp_path / "loop")
    with pytest.raises(InputError, match="none: no such folder"):
        check_output(tmp_path / "lost")
    with pytest.raises(InputError, match="null: is not a regular file; give the output another name"):
        check_output("/dev/null")
    assert (tmp_path / "loop").is_symlink()


def test_the_system_refusing_to_write_is_one_line(raw, tmp_path, monkeypatch):
    (tmp_path / "out.h5ad").write_text("old")

    monkeypatch.setattr(DeferredErrorFile, "error", OSError(28, "No space left on device"))
    with pytest.raises(InputError, match=r"out.h5ad: cannot be written \(No space left on device\); free space"):
        write_h5ad(raw, tmp_path / "out.h5ad")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


def test_several_files_are_written_together_or_not_at_all(raw, tmp_path):
    broken = raw.copy()
    broken.uns["function"] = len  # nothing h5ad can hold
    with pytest.raises(Exception, match="function|write"):
        write_h5ads({tmp_path / "a.h5ad": raw, tmp_path / "b.h5ad": broken})
    assert list(tmp_path.iterdir()) == []
    write_h5ads({tmp_path / "a.h5ad": raw, tmp_path / "b.h5ad": raw})
    assert len(list(tmp_path.iterdir())) == 2


def test_a_shallow_copy_shares_matrices_and_nothing_else(raw):
    raw.layers["counts"] = raw.X.copy()
    copy = shallow_copy(raw)
    assert copy.X is raw.X and copy.layers["counts"] is raw.layers["counts"]
    copy.obs["new"] = 1
    copy.layers["new"] = raw.X
    copy.uns["new"] = 1
    copy.obsp["new"] = np.eye(raw.n_obs)
    copy.X = raw.X * 2
    assert "new" not in raw.obs and "new" not in raw.layers and "new" not in raw.uns and "new" not in raw.obsp
    assert raw.X.sum() * 2 == copy.X.sum()


def test_records_add_up(raw):
    provenance.record(raw, "one", {"seed": 1, "layer": None})
    provenance.record(raw, "two", {"of": "all"})
    record = raw.uns["stmcdi"]
    assert set(record) == {"one", "two"} and record["one"]["parameters"] == {"seed": 1}
    assert isinstance(record["one"]["version"], str)


def test_names_are_read_line_by_line(tmp_path):
    (tmp_path / "names.txt").write_bytes("\ufeffACTB\r\n\r\n# comment\r\n GAPDH \r\n".encode())
    assert text.read_names(tmp_path / "names.txt") == ["ACTB", "GAPDH"]
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not UTF-8"):
        text.read_names(tmp_path / "binary")


def test_outputs_that_cannot_be_are_refused_first(raw, h5ad, tmp_path):
    source = h5ad(raw)
    for output, message in (
        (source, "also an input"),
        (tmp_path / "." / "input.h5ad", "also an input"),
        (tmp_path, "is a folder"),
        (tmp_path / "none" / "a.h5ad", "no such folder"),
    ):
        with pytest.raises(InputError, match=message):
            check_output(output, source)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match="not writable"):
        check_output(tmp_path / "a.h5ad")


def test_the_checksum_is_that_of_the_input(raw, h5ad, tmp_path):
    import hashlib

    from stmcdi_cli.steps.normalize import normalize

    source = h5ad(raw)
    files.transform(normalize, source, tmp_path / "out.h5ad")
    record = ad.read_h5ad(tmp_path / "out.h5ad").uns["stmcdi"]["normalize"]
    assert record["input_sha256"] == hashlib.sha256(source.read_bytes()).hexdigest()
