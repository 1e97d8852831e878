"""Errors in one line, with hints on typos."""

import difflib
import logging
import re
import sys
from collections.abc import Mapping, Sequence

import click

from stmcdi_cli.errors import one_line
from stmcdi_cli.logging import configuration, uses_colours

logger = logging.getLogger(__name__)

LONGEST = 2000
"""Characters of an error line: names from a file may be of any length."""


def usage_message(error: click.UsageError) -> str:
    """An error of usage in one line: what is wrong, the nearest that is right, and where to look."""
    option, command = getattr(error, "option_name", None), getattr(error, "command_name", None)
    help_at = f"{error.ctx.command_path if error.ctx else 'stmcdi'} --help"
    if isinstance(error, click.NoSuchOption) and option:
        known = [flag for parameter in error.ctx.command.params for flag in parameter.opts] if error.ctx else []
        return f"no such option {option}{hint(option, known)}; {help_at} lists them"
    message = error.message
    found = re.match(r"No such command '([^']*)'", message)
    if (command or found) and error.ctx and isinstance(error.ctx.command, click.Group):
        name = str(command or (found and found[1]))
        return f"no such step {name}{hint(name, error.ctx.command.list_commands(error.ctx))}; {help_at} lists them"
    message = error.format_message().strip().rstrip(".")
    return f"{message[:1].lower()}{message[1:]}; see {help_at}" if "--help" not in message else message


def hint(word: str, known: Sequence[str] | Mapping[str, str]) -> str:
    """Name the known word that is nearest to one with a typo; nothing where none is near."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def print_error(where: str, message: str, exit_code: int) -> None:
    """Log an error in one line; no control character that came from a file reaches the terminal.

    Parameters
    ----------
    where
        The command; in text it comes first, red on a terminal.
    message, exit_code
        What is wrong, and what the process ends with.
    """
    message = "".join(letter if letter.isprintable() else "?" for letter in one_line(message, LONGEST))
    fields = {"exit_code": exit_code}
    if not configuration().json:
        where = click.style(where, fg="red", bold=True) if uses_colours(sys.stderr) else where
        message = f"{where}: {message}"
    logger.error("%s", message, extra={"fields": fields})
