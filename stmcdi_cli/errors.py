"""Errors that the user can do something about, and the exit code of each."""

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class StmcdiError(Exception):
    """An error whose message says what is wrong, where, and what to do; the command line prints no traceback."""

    exit_code = 1


class InputError(StmcdiError):
    """Wrong input or wrong usage."""

    exit_code = 2


class OptionError(InputError):
    """An option has a value that is wrong for any input."""


class OutputError(InputError):
    """An output cannot be written; the message names it, and no input is at fault."""


class DeviceMemoryError(StmcdiError):
    """The GPU ran out of memory; the workflow retries on this exit code with a smaller batch."""

    exit_code = 75


class Stopped(StmcdiError):
    """A signal asked the process to end, and it has written a checkpoint.

    The exit code is 128 plus the signal's number, as in shells; the workflow retries on it.
    """

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message, exit_code)
        self.exit_code = exit_code

    def __str__(self) -> str:
        """Give the message alone."""
        return str(self.args[0])


def one_line(text: object, most: int = 200) -> str:
    """Give a text, or an error's message, as one line of at most ``most`` characters."""
    return " ".join(str(text).split())[:most]


@contextmanager
def in_file(path: str | os.PathLike[str], wrong: str = "", remedy: str = "") -> "Iterator[None]":
    """Name the file in errors about its content.

    Parameters
    ----------
    path
        The file, or what the user calls the input.
    wrong, remedy
        What any other exception means, where a file is read: what is wrong, and what to do.

    Raises
    ------
    InputError
        The error of the block, after the file's name. An `OptionError` or `OutputError` is not about the file and stays
        as it is.
    """
    try:
        yield
    except InputError as error:
        if isinstance(error, (OptionError, OutputError)) or str(error).startswith(f"{path}: "):
            raise
        raise InputError(f"{path}: {error}") from error
    except Exception as error:
        if not wrong or isinstance(error, StmcdiError):
            raise
        raise InputError(f"{path}: {wrong} ({one_line(error)}); {remedy}") from error
