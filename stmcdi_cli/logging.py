"""What a step says on stderr while it works: plain lines, or one JSON object per line (``--json-log``)."""

import io
import json
import logging
import os
import sys
import time
from dataclasses import dataclass
from typing import Any, TextIO


@dataclass
class Settings:
    """How much is said, and how; set by the command line.

    Attributes
    ----------
    step
        Name of the command.
    quiet
        Errors only.
    verbose
        Also what a step was asked to do and what it cost.
    json
        One JSON object per line.
    """

    step: str = ""
    quiet: bool = False
    verbose: bool = False
    json: bool = False


settings = Settings()


def note(message: str, **fields: Any) -> None:
    """Say something; `fields` are extra keys of the JSON object."""
    if settings.quiet:
        return
    if isinstance(sys.stderr, JsonLines):
        sys.stderr.entry(message, **fields)
    else:
        print(message, file=sys.stderr, flush=True)


def detail(message: str, **fields: Any) -> None:
    """Say something that only ``--verbose`` asks for."""
    if settings.verbose:
        note(message, **fields)


def colourful(stream: TextIO) -> bool:
    """Whether colours belong on a stream: on a terminal, unless NO_COLOR is set (no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


class JsonLines(io.TextIOBase):
    """Stands in for stderr: whatever is printed there, by us or by a library, becomes JSON, a line at a time.

    Parameters
    ----------
    stream
        The real stderr.
    step
        Name of the command.
    """

    def __init__(self, stream: TextIO, step: str) -> None:
        self.stream, self.step, self.rest = stream, step, ""

    def entry(self, message: str, level: str = "info", **fields: Any) -> None:
        """Write one object: time (UTC), level, step, message and whatever else is known."""
        if settings.quiet and level != "error":
            return
        now = time.time()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1000):03d}Z"
        line = {"time": stamp, "level": level, "step": self.step, "message": message, **fields}
        self.stream.write(json.dumps(line, ensure_ascii=False) + "\n")
        self.stream.flush()

    def write(self, text: str) -> int:
        """Take text; every whole line becomes an entry."""
        *lines, self.rest = (self.rest + text).split("\n")
        for line in lines:
            if line.strip():
                self.entry(line.strip())
        return len(text)

    def flush(self) -> None:
        """Nothing waits but an unfinished line."""

    def writable(self) -> bool:
        """Always."""
        return True


class Silence(io.TextIOBase):
    """Stands in for stderr under ``--quiet``: what is printed there is dropped.

    Parameters
    ----------
    stream
        The real stderr, for errors.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        """Drop it."""
        return len(text)

    def writable(self) -> bool:
        """Always."""
        return True


def start(step: str, *, quiet: bool, verbose: bool, as_json: bool) -> None:
    """Set how the step that begins now speaks."""
    settings.step, settings.quiet, settings.verbose, settings.json = step, quiet, verbose and not quiet, as_json
    if as_json:
        sys.stderr = JsonLines(sys.stderr, step)
    elif quiet:
        sys.stderr = Silence(sys.stderr)
    level = logging.INFO if settings.verbose else logging.ERROR if quiet else logging.WARNING
    logging.basicConfig(level=level, format="%(name)s: %(message)s", stream=sys.stderr, force=True)
    logging.getLogger().setLevel(logging.ERROR if quiet else logging.WARNING)
    logging.getLogger("stmcdi_cli").setLevel(level)


def stop() -> None:
    """Give stderr back."""
    if isinstance(sys.stderr, JsonLines | Silence):
        sys.stderr = sys.stderr.stream
    logging.getLogger("stmcdi_cli").setLevel(logging.NOTSET)
    settings.__init__()  # type: ignore[misc]
