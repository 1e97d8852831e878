"""How log records reach stderr: one line of text each, or one JSON object each (``--json-log``).

Every module logs to ``logging.getLogger(__name__)``, below the logger ``stmcdi_cli``: notes and progress at level INFO,
details at DEBUG. The command line writes all records and Python warnings to stderr (`on_stderr`). In Python, notes and
progress are written to stderr as well, until the application configures logging: then they go where it wants them.
"""

import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import wraps
from typing import ParamSpec, TextIO, TypeVar

PACKAGE = "stmcdi_cli"

P = ParamSpec("P")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Settings:
    """What is logged, and how.

    Attributes
    ----------
    step
        Name of the command, for JSON.
    level
        Least level of this package's records. Those of other packages need WARNING at least, and ERROR where notes of
        this package are not shown.
    json
        One JSON object per line.
    """

    step: str = ""
    level: int = logging.INFO
    json: bool = False


_settings = Settings()


def configure(settings: Settings) -> None:
    """Set what this process logs, and how."""
    global _settings
    _settings = settings
    logging.getLogger(PACKAGE).setLevel(settings.level)
    others = logging.WARNING if settings.level <= logging.INFO else logging.ERROR
    logging.getLogger().setLevel(others)


def configuration() -> Settings:
    """What this process logs now, and how; for `on_stderr` in another process."""
    return replace(_settings, level=logging.getLogger(PACKAGE).getEffectiveLevel())


@contextmanager
def on_stderr(settings: Settings = _settings) -> Iterator[None]:
    """Write all log records and Python warnings to stderr; at the end the logging is as it was before."""
    global _settings
    root, package = logging.getLogger(), logging.getLogger(PACKAGE)
    before = _settings, root.level, package.level
    handler = StderrHandler()
    root.addHandler(handler)
    logging.captureWarnings(True)
    try:
        configure(settings)
        yield
    finally:
        logging.captureWarnings(False)
        root.removeHandler(handler)
        _settings, root_level, package_level = before
        root.setLevel(root_level)
        package.setLevel(package_level)


def quietly(function: Callable[P, Result]) -> Callable[P, Result]:
    """Make a function with a keyword ``quiet`` say nothing but warnings where that is True, nor what it calls."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> Result:
        package = logging.getLogger(PACKAGE)
        before = package.level
        if kwargs.get("quiet"):
            package.setLevel(max(package.getEffectiveLevel(), logging.WARNING))
        try:
            return function(*args, **kwargs)
        finally:
            package.setLevel(before)

    return call


def log_left_out(step: str, what: str, total: int, reasons: Mapping[str, int]) -> None:
    """Say how many of something a step keeps, and why it leaves out the others; nothing where it keeps all."""
    if any(reasons.values()):
        logging.getLogger(__name__).info("%s: %s", step, left_out_text(f"{what} kept", total, reasons))


def left_out_text(what: str, total: int, reasons: Mapping[str, int]) -> str:
    """How many of something are kept, and how many are left out for each reason."""
    why = ", ".join(f"{number} {reason}" for reason, number in reasons.items() if number)
    return f"{total - sum(reasons.values())} of {total} {what}; left out: {why}"


def shows_bars() -> bool:
    """Whether progress is shown as a bar: on a terminal, unless it is to be JSON or nothing."""
    return sys.stderr.isatty() and not _settings.json and logging.getLogger(PACKAGE).isEnabledFor(logging.INFO)


def uses_colours(stream: TextIO) -> bool:
    """Whether colours belong on a stream: on a terminal, unless NO_COLOR is set (no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


class TextFormatter(logging.Formatter):
    """A line of text: what is said, after the name of the logger where another package says it."""

    def format(self, record: logging.LogRecord) -> str:
        """Give the record's text."""
        text = super().format(record).rstrip()
        named = record.name == "py.warnings" or record.name.startswith(PACKAGE)  # Python warnings name their place
        return text if named else f"{record.name}: {text}"


class JsonFormatter(logging.Formatter):
    """A JSON object: time (UTC), level, step, message, and the record's ``fields``."""

    def format(self, record: logging.LogRecord) -> str:
        """Give the record as JSON, in one line."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"
        line = {
            "time": stamp,
            "level": record.levelname.lower(),
            "step": _settings.step,
            "message": super().format(record).strip(),
        }
        return json.dumps(line | getattr(record, "fields", {}), ensure_ascii=False)


class StderrHandler(logging.StreamHandler):
    """Writes to what ``sys.stderr`` is at the moment, in the format that the settings ask for."""

    text, json = TextFormatter(), JsonFormatter()

    def __init__(self) -> None:
        logging.Handler.__init__(self)  # that of StreamHandler keeps today's sys.stderr

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        """Where it writes."""
        return sys.stderr

    def format(self, record: logging.LogRecord) -> str:
        """Give the record as text or as JSON."""
        return (self.json if _settings.json else self.text).format(record)


class DefaultHandler(StderrHandler):
    """Writes records of this package to stderr while the application has not configured logging."""

    def filter(self, record: logging.LogRecord) -> bool:  # type: ignore[override]
        """Whether nothing else writes the record."""
        return not logging.getLogger().handlers and bool(super().filter(record))


def show_by_default() -> None:
    """Write notes and progress to stderr from now on; what the application has set for the package's logger is kept."""
    logger = logging.getLogger(PACKAGE)
    if not logger.handlers:
        logger.addHandler(DefaultHandler())
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.INFO)
