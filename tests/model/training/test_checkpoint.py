import json
import os
import re
import shutil
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import stmcdi_cli as stmcdi
from stmcdi_cli.errors import Stopped
from stmcdi_cli.model import save_load
from stmcdi_cli.model.training import checkpoint as module
from stmcdi_cli.model.training.checkpoint import Checkpoint

FILES = {"model.safetensors", "config.yaml", "history.tsv"}


@pytest.fixture(scope="module")
def masked():
    counts = stmcdi.simulate(n_spots=40, n_genes=16, depth=300, seed=3)
    return stmcdi.hold_out(stmcdi.build_graph(stmcdi.normalize(counts)), seed=0)[0]


@pytest.fixture(scope="module")
def with_reference():
    tissue = stmcdi.simulate(n_spots=90, n_genes=36, depth=300, seed=3)
    panel, cells = tissue[:40, :24].copy(), tissue[40:].copy()
    return stmcdi.build_graph(stmcdi.normalize(stmcdi.add_reference(panel, cells)))


PRESETS = {"default": {"epochs": 4, "batch_size": 12}, "paper": {"preset": "paper", "epochs": 2, "batch_size": 16}}


def train(adata, path, preset="default", **options):
    return stmcdi.train(adata, path, **{"device": "cpu", "quiet": True, **PRESETS[preset], **options})


def content(path):
    """All but how long it took."""
    return {file.name: re.sub(rb"\n *seconds: .*", b"", file.read_bytes()) for file in path.iterdir()}


class Killed(BaseException):
    """Nothing can catch a SIGKILL; hardly anything catches this."""


@pytest.mark.parametrize(("data", "preset"), [*(("masked", name) for name in PRESETS), ("with_reference", "default")])
def test_goes_on_to_the_same_model_wherever_it_was_stopped(data, tmp_path, monkeypatch, preset, request):
    masked = request.getfixturevalue(data)
    checkpoints, parts = tmp_path / "checkpoints", []
    checkpoints.mkdir()
    write, stop_at = Checkpoint.write, None

    def keep(self):
        write(self)
        parts.append(len(self.state))
        shutil.copy2(self.path, checkpoints / str(len(parts)))
        if len(parts) == stop_at:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "write", keep)
        train(masked, tmp_path / "whole", preset, checkpoint_every=0)
        whole, lengths, n = content(tmp_path / "whole"), list(parts), len(parts)
        stop_at = n // 2
        kept = (checkpoints / str(stop_at)).read_bytes()
        parts.clear()
        with pytest.raises(Killed):
            train(masked, tmp_path / "model", preset, checkpoint_every=0)
    assert {path.name for path in tmp_path.iterdir()} == {"whole", "checkpoints", ".model.checkpoint"}
    assert (tmp_path / ".model.checkpoint").read_bytes() == kept  # so those of the whole training are as good
    borders = [k for k in range(1, n) if lengths[k] > lengths[k - 1]]  # where a part begins
    assert len(borders) >= {"default": 5, "paper": 1}[preset]
    for k in sorted({*borders, n // 2, n}):
        shutil.copy2(checkpoints / str(k), tmp_path / ".model.checkpoint")
        train(masked, tmp_path / "model", preset)
        assert content(tmp_path / "model") == whole, k
        assert not (tmp_path / ".model.checkpoint").exists()
        shutil.rmtree(tmp_path / "model")


@pytest.fixture
def stopped(masked, tmp_path, monkeypatch, tmp_path_factory):
    """A training that was stopped in the middle; its checkpoint. All tests get copies of the same one."""
    kept = tmp_path_factory.getbasetemp() / "stopped"
    if not kept.exists():
        with monkeypatch.context() as patch:
            save = module.Stage.save

            def stop(self, state):
                save(self, state)
                if self.name == "networks" and callable(state) and state()["epoch"] == 3:
                    raise Killed

            patch.setattr(module.Stage, "save", stop)
            with pytest.raises(Killed):
                train(masked, tmp_path / "model", checkpoint_every=0)
        (tmp_path / ".model.checkpoint").rename(kept)
    return Path(shutil.copy2(kept, tmp_path / ".model.checkpoint"))


def test_says_that_it_goes_on(masked, stopped, tmp_path, caplog):
    train(masked, tmp_path / "model", quiet=False)
    assert f"train: going on from {stopped}" in caplog.messages
    assert "epoch 3," not in caplog.text and caplog.text.count("epoch 4,") == 1  # rows of the history are told once
    assert {path.name for path in tmp_path.iterdir()} == {"model"}


CHANGES = {
    "seed": {"seed": 1},
    "settings": {"batch_size": 10},
    "preset": {"preset": "paper", "epochs": 1},
}


@pytest.mark.parametrize("kind", [*CHANGES, "data", "version", "damaged", "foreign", "no resume"])
def test_never_goes_on_from_another_training(masked, stopped, tmp_path, monkeypatch, caplog, kind):
    options = CHANGES.get(kind, {})
    if kind == "data":
        masked = masked.copy()
        masked.X.data[0] = np.log1p(2 * np.expm1(masked.X.data[0]))  # one count twice as high
    if kind == "version":
        monkeypatch.setattr(module, "__version__", "0.0.0")
    if kind == "damaged":
        stopped.write_bytes(stopped.read_bytes()[:-1000])
    if kind == "foreign":
        save_file({"0": torch.zeros(2)}, stopped, {"stmcdi": json.dumps({"key": [], "state": 3})})
    if kind == "no resume":
        options = {"resume": False}
    train(masked, tmp_path / "model", quiet=False, **options)
    line = f"train: {stopped} is {'no checkpoint' if kind == 'damaged' else 'of other data, settings or software'}"
    assert (f"{line}; starting afresh" in caplog.messages) == (kind != "no resume")
    assert {path.name for path in tmp_path.iterdir()} == {"model"}
    if kind in ("seed", "data"):
        train(masked, tmp_path / "fresh", **options)
        assert content(tmp_path / "model") == content(tmp_path / "fresh")


@pytest.mark.parametrize("change", ["structure", "strides", "tensors"])
def test_a_checkpoint_with_the_right_key_and_a_wrong_content_is_not_gone_on_from(tmp_path, change):
    state = {"a": {1: torch.arange(6.0).reshape(2, 3).T, "b": [None, 2.5, True, (1, "x")]}}
    checkpoint = Checkpoint(tmp_path / "c", "key")
    checkpoint.state = state
    checkpoint.write()
    again = Checkpoint(tmp_path / "c", "key")
    assert "going on" in again.load()
    assert torch.equal(again.state["a"][1], state["a"][1])
    assert again.state["a"][1].stride() == state["a"][1].stride()
    assert again.state["a"]["b"] == [None, 2.5, True, [1, "x"]]
    packed = {
        "structure": {"a": 3},
        "strides": {"tensor": "0", "stride": [10**12, 1]},
        "tensors": {"tensor": "7", "stride": [1]},
    }[change]
    save_file({"0": torch.zeros(2, 2)}, tmp_path / "c", {"stmcdi": json.dumps({"key": "key", "state": packed})})
    other = Checkpoint(tmp_path / "c", "key")
    assert "is no checkpoint; starting afresh" in other.load()
    assert other.state == {}


def test_it_is_private_and_no_pickle(stopped):
    assert stopped.stat().st_mode & 0o777 == 0o600
    data = stopped.read_bytes()
    assert b"PK\x03\x04" not in data[:8] and data[8:9] == b"{"
    length = int.from_bytes(data[:8], "little")
    assert "stmcdi" in json.loads(data[8 : 8 + length])["__metadata__"]


def test_it_is_written_by_time(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    checkpoint = Checkpoint(tmp_path / "c", "key", every=60)
    stage = checkpoint.stage("a")
    for now[0], n in ((59.0, 0), (61.0, 1), (100.0, 1), (122.0, 2)):
        stage.save(lambda: {"now": now[0]})
        if n:
            again = Checkpoint(tmp_path / "c", "key")
            again.load()
            assert again.state["a"]["now"] == {1: 61.0, 2: 122.0}[n]
        else:
            assert not (tmp_path / "c").exists()


def test_what_a_kill_left_while_writing_is_removed_in_the_end(masked, stopped, tmp_path):
    rest = tmp_path / "..model.checkpoint.abcd_123.part"
    rest.mkdir()
    (rest / "lock").write_text("")
    (rest / ".model.checkpoint").write_text("half")
    train(masked, tmp_path / "model")
    assert {path.name for path in tmp_path.iterdir()} == {"model"}


def test_a_full_disk_does_not_stop_a_training(masked, tmp_path, monkeypatch, caplog):
    def full(handle):
        raise OSError(28, os.strerror(28))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        checkpoint = Checkpoint(tmp_path / "c", "key", every=0)
        checkpoint.stage("a").save({"x": torch.zeros(3)})
    assert caplog.messages == [
        f"train: no checkpoint: {tmp_path / 'c'}: cannot be written (No space left on device); "
        "free space or choose another place"
    ]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("earlier", [False, True])
def test_a_stop_promises_no_checkpoint_that_is_not_there(tmp_path, monkeypatch, earlier):
    checkpoint = Checkpoint(tmp_path / "c", "key", every=1e9)
    if earlier:
        checkpoint.write()

    def full(handle):
        raise OSError(28, os.strerror(28))

    with monkeypatch.context() as patch, pytest.raises(Stopped) as stopped, checkpoint.stoppable():
        patch.setattr(os, "fsync", full)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)
    assert stopped.value.exit_code == 128 + signal.SIGTERM
    promised = f"the same command goes on from {tmp_path / 'c'}" if earlier else "without a checkpoint to go on from"
    assert str(stopped.value) == f"stopped by SIGTERM; {promised}"


@pytest.mark.parametrize("reason", [OSError(1, "Operation not permitted"), OSError(30, "Read-only file system")])
def test_a_checkpoint_that_cannot_be_removed_does_not_fail_a_training(masked, h5ad, cli, tmp_path, monkeypatch, reason):
    unlink = Path.unlink

    def refuse(self, missing_ok=False):
        if self.suffix == ".checkpoint":
            raise reason
        unlink(self, missing_ok)

    monkeypatch.setattr(Path, "unlink", refuse)
    options = ["--epochs", 1, "--device", "cpu", "--checkpoint-every", 0]
    result = cli("train", h5ad(masked), tmp_path / "model", *options)
    assert result.exit_code == 0, result.output
    line = f"train: {tmp_path / '.model.checkpoint'}: cannot be removed ({reason.strerror}); it is no longer needed\n"
    assert result.stderr.count(line) == 1 and result.stderr.endswith(line)
    assert set(content(tmp_path / "model")) == FILES
    save_load.load(tmp_path / "model")


def test_a_folder_in_the_place_of_the_checkpoint_does_not_fail_a_training(masked, tmp_path, caplog):
    (tmp_path / "c").mkdir()
    train(masked, tmp_path / "model", epochs=1, checkpoint=tmp_path / "c", checkpoint_every=0, quiet=False)
    said = caplog.text
    assert f"train: {tmp_path / 'c'} is no checkpoint; starting afresh\n" in said
    assert f"train: no checkpoint: {tmp_path / 'c'}: cannot be written (Is a directory)" in said
    assert f"train: {tmp_path / 'c'}: cannot be removed (Is a directory); it is no longer needed\n" in said
    assert set(content(tmp_path / "model")) == FILES


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2])
@pytest.mark.parametrize("changing", [False, True])
def test_a_signal_writes_where_it_stands_and_ends_with_its_code(tmp_path, number, changing):
    checkpoint = Checkpoint(tmp_path / "c", "key", every=1e9)
    stage = checkpoint.stage("a")
    reached = []
    with pytest.raises(Stopped) as stopped, checkpoint.stoppable():
        if changing:  # the state is known at the next step only
            stage.save(lambda: pytest.fail("nobody needs it"))
            os.kill(os.getpid(), number)
            time.sleep(0.01)
            reached.append(1)
            stage.save(lambda: {"x": 2})
        else:
            stage.save({"x": 1})
            os.kill(os.getpid(), number)
            time.sleep(10)
        reached.append(2)
    assert reached == ([1] if changing else [])
    assert stopped.value.exit_code == 128 + number
    assert f"stopped by {signal.Signals(number).name}; the same command goes on from" in str(stopped.value)
    again = Checkpoint(tmp_path / "c", "key")
    again.load()
    assert again.state == {"a": {"x": 1 + changing}}
    assert signal.getsignal(number) is signal.SIG_DFL


def test_other_listeners_and_other_threads_are_left_alone(tmp_path):
    def mine(number, frame):
        pass

    signal.signal(signal.SIGUSR1, mine)
    try:
        with Checkpoint(tmp_path / "c").stoppable():
            assert signal.getsignal(signal.SIGUSR1) is mine
            assert signal.getsignal(signal.SIGUSR2) is not signal.SIG_DFL
        failures = []

        def elsewhere():
            try:
                with Checkpoint(tmp_path / "c").stoppable():
                    pass
            except ValueError as error:
                failures.append(error)

        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        assert not failures
    finally:
        signal.signal(signal.SIGUSR1, signal.SIG_DFL)


def test_the_checkpoint_goes_where_it_is_asked_to_go(masked, tmp_path, monkeypatch):
    seen = []
    write = Checkpoint.write
    monkeypatch.setattr(Checkpoint, "write", lambda self: (write(self), seen.append(self.path.exists())))
    train(masked, tmp_path / "model", checkpoint=tmp_path / "deep" / "er" / "c", checkpoint_every=0)
    assert all(seen) and len(seen) > 5
    assert list((tmp_path / "deep" / "er").iterdir()) == []


def test_other_values_do_not_count():
    """Entries flagged as missing may hold anything: the model does not see them, nor does the key."""
    from stmcdi_cli.model.tissue import Tissue
    from stmcdi_cli.model.training.checkpoint import key_of

    counts = stmcdi.simulate(n_spots=40, n_genes=12, depth=300, seed=3)
    masked = stmcdi.hold_out(stmcdi.build_graph(stmcdi.normalize(counts)), seed=0)[0]
    keys = []
    for garbage in (0, 5):
        x = masked.X.toarray()
        x[masked.layers["missing"].toarray()] = garbage
        other = masked.copy()
        other.X = np.asarray(x)
        keys.append(key_of(Tissue.from_anndata(other), {"seed": 0}))
    assert keys[0] == keys[1] != key_of(Tissue.from_anndata(masked), {"seed": 1})
