"""Progress of long work: a bar on a terminal, now and then a plain line in a log file."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from stmcdi_cli.log import note

T = TypeVar("T")

_LINE_EVERY = 10.0  # seconds


def progress(items: Iterable[T], total: int, label: str, unit: str, *, quiet: bool = False) -> Iterator[T]:
    """Yield `items` and show how far the work is.

    Parameters
    ----------
    items
        What is worked through.
    total
        How many there are.
    label, unit
        What is done, and to what.
    quiet
        Show nothing.
    """
    if quiet:
        yield from items
        return
    if sys.stderr.isatty():
        from tqdm import tqdm

        yield from tqdm(items, total=total, desc=label, unit=unit, leave=False)
        return
    began = last = time.monotonic()
    for done, item in enumerate(items, start=1):
        now = time.monotonic()
        if now - last >= _LINE_EVERY:
            rate = done / (now - began)
            left = (total - done) / rate
            line = f"{label}: {unit} {done}/{total}, {rate:.1f}/s, {left:.0f} s left"
            note(line, done=done, total=total, rate=round(rate, 3), seconds_left=round(left, 1))
            last = now
        yield item
