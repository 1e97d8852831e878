"""Kill a command at random moments, as batch systems do, and see that nothing is lost and nothing is left."""

import hashlib
import os
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from child import Child, run

from stmcdi_cli.io.output import LOCK, UNLOCKED_FOR


def survives(
    arguments: list[object],
    folder: Path,
    same: Callable[[Path, Path], None],
    *,
    kills: int,
    keep: Callable[[Path], bool] = lambda path: False,
    seed: int = 1,
) -> dict[str, int]:
    """Assert that a command survives SIGKILL: each output is whole or as before, and the same command then succeeds.

    Parameters
    ----------
    arguments
        The command, all of whose outputs lie in `folder`.
    folder
        An empty folder. In every second round it holds the outputs of the round before, in the others nothing.
    same
        Asserts that two outputs hold the same: one of the uninterrupted run, and one of the same name.
    kills
        How many times to kill.
    keep
        Tells what a killed process may leave for the next to go on with, such as a checkpoint.
    seed
        Of the random moments; with 1 the first is early, so that even few kills of a quick command come before its end.

    Returns
    -------
    How many kills came before, within and after the writing (as far as it can be seen from outside).
    """
    moments, said = random.Random(seed), folder.parent / f"{folder.name}.said"
    run(["--version"], said)  # starts the server that children are forked from
    began = time.monotonic()
    ended = run(arguments, said, 300)
    assert ended.code == 0, ended
    duration = time.monotonic() - began
    names = _names(folder)
    reference = folder.parent / f"{folder.name}.reference"
    folder.rename(reference)
    folder.mkdir()

    found = {"before": 0, "while writing": 0, "after": 0}
    for number in range(kills):
        if number % 2:
            _clear(folder)
        before = {name: _content(folder / name) for name in _names(folder)}
        child = Child(arguments, said)
        if number % 4 < 2:
            child.process.join(moments.uniform(0, duration))
        else:  # the moments that matter most are short: wait for them
            _wait_for_part(child, folder, duration)
            child.process.join(moments.uniform(0, 0.05))
        writing = any(folder.glob(".*.part"))
        alive = child.process.is_alive()
        child.kill()
        found["after" if not alive else "while writing" if writing else "before"] += 1
        for name in names:
            if (folder / name).exists() and _content(folder / name) != before.get(name):
                same(reference / name, folder / name)  # complete
            else:
                assert (folder / name).exists() == (name in before), f"{name} is gone"
        assert all(name in names or _stray(name) or keep(folder / name) for name in _names(folder)), _names(folder)

        _let_a_minute_pass(folder)
        ended = run(arguments, said, 300)
        assert ended.code == 0, ended
        assert _names(folder) == names, "stray files"
        for name in names:
            same(reference / name, folder / name)
    return found


def _wait_for_part(child: Child, folder: Path, duration: float) -> None:
    end = time.monotonic() + 10 * duration + 10
    while child.process.is_alive() and not any(folder.glob(".*.part")) and time.monotonic() < end:
        time.sleep(0.001)


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def _stray(name: str) -> bool:
    return name.startswith(".") and name.endswith(".part")


def _let_a_minute_pass(folder: Path) -> None:
    """Age folders that a process made and had no time to lock: after a minute they are removed (`io.output`)."""
    then = time.time() - UNLOCKED_FOR - 1
    for path in folder.glob(".*.part"):
        if not (path / LOCK).exists():
            os.utime(path, (then, then))


def _content(path: Path) -> str:
    """Digest of a file, or of all in a folder."""
    parts = sorted(path.rglob("*")) if path.is_dir() else [path]
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.name.encode())
        digest.update(part.read_bytes() if part.is_file() else b"")
    return digest.hexdigest()


def _clear(folder: Path) -> None:
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
