"""The command line in processes that start in milliseconds: forked from one that has imported everything."""

import faulthandler
import multiprocessing
import os
import resource
import sys
import tempfile
import traceback
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before the server starts: threads and forks do not go together
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["robustness_imports", "few_masks"])
LATE = 250
"""Seconds after which a process says what it is doing."""
LOST = 255
"""Exit code that multiprocessing gives where it has lost the real one."""
NETWORK = 99
"""Exit code of a process that was told to stay offline and did not."""


def start_server() -> None:
    """Start the process that the others are forked from, where there is none; it imports from the folders of this one.

    Python before 3.14 does not hand them over: then nothing is imported in advance, and each child takes seconds.
    """
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    try:
        forkserver.ensure_running()
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


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
    """``stmcdi ARGUMENTS``, running.

    Parameters
    ----------
    arguments
        The command line, without the program's name.
    said
        File that takes what it says.
    umask
        Permissions its files go without; by default this process's.
    offline
        End it with `NETWORK` if it opens a connection or looks up a name.
    environment
        Variables to set.
    processor
        Most seconds of a processor it may take; the system kills it then.
    """

    def __init__(
        self,
        arguments: list[object],
        said: Path,
        umask: int | None = None,
        offline: bool = False,
        environment: dict[str, str] | None = None,
        processor: int | None = None,
    ) -> None:
        self.said = said
        said.write_bytes(b"")
        words = [str(word) for word in arguments]
        settings = (umask, offline, environment or {}, processor, os.getcwd())
        start_server()
        self.process: BaseProcess = _CONTEXT.Process(target=_main, args=(words, str(said), *settings))
        self.process.start()

    def wait(self, seconds: float = 60) -> Ended:
        """Wait for its end; one that does not come in time is killed."""
        self.process.join(seconds)
        late = self.process.is_alive()
        if late:
            self.kill()
        text, _, last = self.said.read_text("utf-8", errors="replace").partition("\0")
        code, peak = map(int, last.split() or (LOST, 0))
        if self.process.exitcode != LOST:
            code = self.process.exitcode
        return Ended(None if late else code, text, peak)

    def stop(self, number: int, seconds: float = 60) -> Ended:
        """Send a signal that it can do something about, and wait for its end."""
        os.kill(self.process.pid or 0, number)
        return self.wait(seconds)

    def kill(self) -> None:
        """SIGKILL: it can do nothing about it."""
        self.process.kill()
        self.process.join()


def run(arguments: list[object], said: Path, seconds: float = 60, **settings: Any) -> Ended:
    """Run ``stmcdi ARGUMENTS`` to its end."""
    return Child(arguments, said, **settings).wait(seconds)


def run_code(code: str, said: Path, offline: bool) -> int | None:
    """Run Python code in the same surroundings; gives its exit code."""
    start_server()
    process = _CONTEXT.Process(target=_code, args=(code, offline))
    process.start()
    process.join(60)
    return process.exitcode


def _code(code: str, offline: bool) -> None:
    if offline:
        sys.addaudithook(_no_network)
    exec(code)


def _no_network(event: str, arguments: tuple[Any, ...]) -> None:
    internet = event == "socket.connect" and isinstance(arguments[1], tuple)  # not the name of a local socket
    if internet or event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "urllib.Request"):
        os._exit(NETWORK)


def _main(
    arguments: list[str],
    said: str,
    umask: int | None,
    offline: bool,
    environment: dict[str, str],
    processor: int | None,
    folder: str,
) -> None:
    handle = os.open(said, os.O_WRONLY | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(handle, stream)
    os.chdir(folder)
    os.environ.update(environment)
    tempfile.tempdir = None
    if umask is not None:
        os.umask(umask)
    if offline:
        sys.addaudithook(_no_network)
    if processor is not None:
        resource.setrlimit(resource.RLIMIT_CPU, (processor, processor))
    faulthandler.dump_traceback_later(LATE, file=handle)  # where it hangs, if it does

    from stmcdi_cli.cli import main

    code = 0
    try:
        main(arguments)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except Exception:  # noqa: BLE001 - said here, so that the last word is how much memory was taken
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os.write(handle, b"\0%d %d" % (code, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024))
    sys.exit(code)
