"""Errors in one line, with hints on typos."""

import difflib
import re
import sys
from collections.abc import Mapping, Sequence

import click

from stmcdi_cli import logging

LONGEST = 2000
"""Letters of an error line: names from a file may be of any length."""


def usage_message(error: click.UsageError) -> str:
    """An error of usage in one line: what is wrong, the nearest that is right, and where to look."""
    option, command = getattr(error, "option_name", None), getattr(error, "command_name", None)
    help_at = f"{error.ctx.command_path if error.ctx else 'stmcdi'} --help"
    if isinstance(error, click.NoSuchOption) and option:
        known = [flag for parameter in error.ctx.command.params for flag in parameter.opts] if error.ctx else []
        return f"no such option {option}{_hint(option, known)}; {help_at} lists them"
    message = error.message
    found = re.match(r"No such command '([^']*)'", message)
    if (command or found) and error.ctx and isinstance(error.ctx.command, click.Group):
        name = str(command or (found and found[1]))
        return f"no such step {name}{_hint(name, error.ctx.command.list_commands(error.ctx))}; {help_at} lists them"
    message = error.format_message().strip().rstrip(".")
    return f"{message[:1].lower()}{message[1:]}; see {help_at}" if "--help" not in message else message


def _hint(word: str, known: Sequence[str] | Mapping[str, str]) -> str:
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _say_error(where: str, message: str, exit_code: int) -> None:
    """One line on stderr, its beginning red on a terminal; what a file brought along cannot control the terminal."""
    message = "".join(letter if letter.isprintable() else "?" for letter in " ".join(message.split()))[:LONGEST]
    stream = sys.stderr
    if isinstance(stream, logging.JsonLines):
        stream.entry(message, level="error", exit_code=exit_code)
        return
    if isinstance(stream, logging.Silence):
        stream = stream.stream
    head = click.style(where, fg="red", bold=True) if logging.colourful(stream) else where
    click.echo(f"{head}: {message}", file=stream, color=True)
