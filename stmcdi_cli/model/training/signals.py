"""Signals that ask a process to end; schedulers send them some time before they kill it."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1", "SIGUSR2") if hasattr(signal, name))


@contextmanager
def listening(stop: Callable[[int], None]) -> Iterator[None]:
    """Within, call `stop` with the number of each signal that would otherwise end this process.

    Signals that have a handler already keep it. Outside the main thread nothing is changed.
    """
    in_main = threading.current_thread() is threading.main_thread()
    changed = [number for number in SIGNALS if in_main and signal.getsignal(number) is signal.SIG_DFL]
    for number in changed:
        signal.signal(number, lambda number, _frame: stop(number))
    try:
        yield
    finally:
        for number in changed:
            signal.signal(number, signal.SIG_DFL)
