"""Progress of long work: a bar on a terminal, now and then a plain line in a log file."""

import logging
import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from stmcdi_cli.logging import shows_bars

logger = logging.getLogger(__name__)

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
    if shows_bars():
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
            fields = {"done": done, "total": total, "rate": round(rate, 3), "seconds_left": round(left, 1)}
            logger.info("%s", line, extra={"fields": fields})
            last = now
        yield item


class Meter:
    """Progress of work that says itself how far it is, with numbers; a context, so that the bar ends with the work.

    Parameters
    ----------
    label, unit
        What is done, and to what.
    quiet
        Show nothing.
    """

    def __init__(self, label: str, unit: str, *, quiet: bool = False) -> None:
        self.label, self.unit, self.quiet = label, unit, quiet
        self.shown, self.last = 0, 0.0
        self.bar: Any = None
        self.start: tuple[int, float] | None = None

    def show(self, done: int, total: int, **numbers: float) -> None:
        """Tell that `done` of at most `total` are done; in a log, the first three times and then now and then."""
        if self.quiet:
            return
        said = {name: f"{value:.6g}" for name, value in numbers.items()}
        if shows_bars():
            from tqdm import tqdm

            self.bar = self.bar or tqdm(desc=self.label, unit=self.unit, total=total, initial=done, leave=False)
            self.bar.update(done - self.bar.n)
            self.bar.set_postfix(said)
            return
        now = time.monotonic()
        first, began = self.start = self.start or (done, now)
        if self.shown < 3 or now - self.last >= _LINE_EVERY:
            parts = [f"{self.unit} {done}", *(f"{name} {value}" for name, value in said.items())]
            fields: dict[str, float] = {"done": done, "total": total, **numbers}
            if done > first and now > began:
                rate = (done - first) / (now - began)
                parts += [f"{rate:.1f}/s", f"{(total - done) / rate:.0f} s left at most"]
                fields |= {"rate": round(rate, 3), "seconds_left": round((total - done) / rate, 1)}
            logger.info("%s: %s", self.label, ", ".join(parts), extra={"fields": fields})
            self.shown, self.last = self.shown + 1, now

    def __enter__(self) -> "Meter":
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()
