from pathlib import Path

import numpy as np

from stmcdi_cli.io.partial import Parts, kept_in


def test_parts_that_cannot_be_removed_do_not_fail_the_work(tmp_path, monkeypatch, caplog):
    """Another user's files in a shared work folder, or a file system that has become read-only."""

    def refuse(path, missing_ok=False):
        raise PermissionError(13, "Permission denied")

    folder = tmp_path / "parts"
    with monkeypatch.context() as patch:
        with kept_in(folder) as parts:
            parts.begin({"seed": 1})
            parts.save("0-5", {"x": np.ones(3)})
            patch.setattr(Path, "unlink", refuse)
        assert caplog.messages == [f"{folder}: cannot be removed (Permission denied); it is no longer needed"]
    again = Parts(folder)
    again.begin({"seed": 1})
    np.testing.assert_array_equal(again.load("0-5")["x"], np.ones(3))
    again.remove()
    assert not folder.exists()


def test_a_folder_from_a_process_killed_while_it_wrote_the_key_is_taken(tmp_path):
    folder = tmp_path / "parts"
    (folder / ".key.abc.part").mkdir(parents=True)
    folder.chmod(0o700)
    parts = Parts(folder)
    parts.begin({"seed": 1})
    parts.save("0-5", {"x": np.ones(3)})
    assert parts.count() == 1
    parts.remove()
    assert not folder.exists()


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    folder = tmp_path / "parts"
    folder.mkdir(0o700)
    (folder / "notes.part").write_text("mine")
    parts = Parts(folder)
    parts.begin({"seed": 1})
    parts.save("0-5", {"x": np.ones(3)})
    parts.remove()
    assert [path.name for path in folder.iterdir()] == ["notes.part"]


def test_two_processes_with_one_folder_never_take_each_others_parts(tmp_path):
    """As two analyses of samples of one name do that share a work directory."""
    one, other = Parts(tmp_path / "parts"), Parts(tmp_path / "parts")
    one.begin({"seed": 1})
    one.save("0-5", {"x": np.ones(3)})
    other.begin({"seed": 2})  # takes the folder
    assert other.load("0-5") is None and other.count() == 0
    one.save("5-9", {"x": np.ones(3)})
    other.save("0-5", {"x": np.zeros(3)})
    assert other.load("5-9") is None and other.count() == 1
    np.testing.assert_array_equal(one.load("5-9")["x"], np.ones(3))
    assert one.load("0-5") is None  # drawn again
    one.remove()
    np.testing.assert_array_equal(other.load("0-5")["x"], np.zeros(3))
    other.remove()
    assert not (tmp_path / "parts").exists()
