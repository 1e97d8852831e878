"""The command line in processes that start in milliseconds: forked from one that has imported everything."""

import multiprocessing
import os
import resource
import sys
import traceback
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before the server starts: threads and forks do not go together
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["robustness_imports"])


@dataclass
class Ended:
    """How a process ended.

    Attributes
    ----------
    code
        Exit code; negative: the signal that ended it; None: it ran longer than allowed.
    said
        What it wrote to stdout and stderr.
    peak
        Most memory it held, in bytes, imports included; 0 where it did not end by itself.
    """

    code: int | None
    said: str
    peak: int = 0


class Child:
    """``stmcdi ARGUMENTS``, running; what it says goes to a file of that name."""

    def __init__(self, arguments: list[object], said: Path, umask: int | None = None) -> None:
        self.said = said
        said.write_bytes(b"")
        words = [str(word) for word in arguments]
        self.process: BaseProcess = _CONTEXT.Process(target=_main, args=(words, str(said), umask, os.getcwd()))
        self.process.start()

    def wait(self, seconds: float = 60) -> Ended:
        """Wait for its end; one that does not come in time is killed."""
        self.process.join(seconds)
        late = self.process.is_alive()
        if late:
            self.kill()
        text, _, peak = self.said.read_text("utf-8", errors="replace").partition("\0")
        return Ended(None if late else self.process.exitcode, text, int(peak or 0))

    def stop(self, number: int, seconds: float = 60) -> Ended:
        """Send a signal that it can do something about, and wait for its end."""
        os.kill(self.process.pid or 0, number)
        return self.wait(seconds)

    def kill(self) -> None:
        """SIGKILL: it can do nothing about it."""
        self.process.kill()
        self.process.join()


def run(arguments: list[object], said: Path, seconds: float = 60, umask: int | None = None) -> Ended:
    """Run ``stmcdi ARGUMENTS`` to its end."""
    return Child(arguments, said, umask).wait(seconds)


def _main(arguments: list[str], said: str, umask: int | None, folder: str) -> None:
    handle = os.open(said, os.O_WRONLY | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(handle, stream)
    os.chdir(folder)
    if umask is not None:
        os.umask(umask)

    from stmcdi_cli.cli import main

    try:
        main(arguments)
    except Exception:  # noqa: BLE001 - said here, so that the last word is how much memory was taken
        traceback.print_exc()
        sys.exit(1)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os.write(handle, b"\0%d" % (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024))
