"""What can go wrong that is not our fault, and the exit code each ends in."""

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class StmcdiError(Exception):
    """An error whose message is all the user needs: what is wrong, where, and what to do."""

    exit_code = 1


class InputError(StmcdiError):
    """Bad input or bad usage."""

    exit_code = 2


class OptionError(InputError):
    """An option has a value that cannot be used, whatever the input holds."""


class DeviceMemoryError(StmcdiError):
    """The GPU ran out of memory; the workflow retries on this exit code with a smaller batch."""

    exit_code = 75


class Stopped(StmcdiError):
    """A signal asked the process to end, and it has written where it stands.

    The exit code is 128 and the signal's number, as in shells; the workflow retries on it.
    """

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message, exit_code)
        self.exit_code = exit_code

    def __str__(self) -> str:
        """Only what there is to read."""
        return str(self.args[0])


def one_line(text: object, most: int = 200) -> str:
    """Give a text, or an error's message, as one line of at most ``most`` characters."""
    return " ".join(str(text).split())[:most]


@contextmanager
def naming(path: str | os.PathLike[str]) -> "Iterator[None]":
    """Put the file's name before the message of an error that is about its content."""
    try:
        yield
    except OptionError:
        raise
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
