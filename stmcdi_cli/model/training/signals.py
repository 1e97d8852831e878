"""Signals that ask a process to end, which schedulers send some time before they kill it."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1", "SIGUSR2") if hasattr(signal, name))


@contextmanager
def listening(stop: Callable[[int], None]) -> Iterator[None]:
    """Within, call a function with the number of each signal that would end this process instead.

    Signals that somebody else listens to are left alone, and so are all outside the main thread.
    """
    mine = threading.current_thread() is threading.main_thread()
    changed = [number for number in SIGNALS if mine and signal.getsignal(number) is signal.SIG_DFL]
    for number in changed:
        signal.signal(number, lambda number, _frame: stop(number))
    try:
        yield
    finally:
        for number in changed:
            signal.signal(number, signal.SIG_DFL)
