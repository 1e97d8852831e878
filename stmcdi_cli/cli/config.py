"""``--config FILE``: options from a YAML file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from stmcdi_cli.cli.messages import hint
from stmcdi_cli.errors import InputError, one_line


def load_config(ctx: click.Context, option: click.Parameter, path: Path | None) -> None:
    """Take defaults from a YAML file: its keys are options of all steps, or names of steps with options of their own.

    Raises
    ------
    click.UsageError
        The file cannot be read, or a key is no option.
    """
    if path is None:
        return
    try:
        _set_defaults(ctx, path)
    except InputError as error:
        raise click.UsageError(str(error), ctx) from error


def _set_defaults(ctx: click.Context, path: Path) -> None:
    from stmcdi_cli.io.text import read_yaml

    try:
        content = read_yaml(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as YAML ({one_line(error, 150)}); correct it") from error
    if not isinstance(content, Mapping | None):
        raise InputError(f"{path}: expected options with values, found {type(content).__name__}; write `name: value`")
    steps: Mapping[str, click.Command] = ctx.parent.command.commands if ctx.parent else {}  # type: ignore[attr-defined]
    known = {name: _settable(step) for name, step in steps.items()}
    everywhere = {name for names in known.values() for name in names}
    here = _settable(ctx.command)
    settings: dict[str, Any] = {}
    for key, value in (content or {}).items():
        name = str(key).replace("_", "-")
        if name in known and isinstance(value, Mapping):
            for inner, inner_value in value.items():
                option = str(inner).replace("_", "-")
                if option not in known[name]:
                    raise InputError(f"{path}: {name} has no option {inner}{hint(option, known[name])}")
                if steps[name] is ctx.command:
                    settings[option] = inner_value
        elif name not in everywhere:
            raise InputError(f"{path}: no step has an option {key}{hint(name, [*everywhere, *known])}")
        elif name in here:
            settings.setdefault(name, value)
    for name, value in settings.items():
        if isinstance(value, Mapping):
            raise InputError(
                f"{path}: expected a value for {name}, found a mapping; write options of a step under its name"
            )
    ctx.default_map = {here[name]: value for name, value in settings.items() if value is not None}


def _settable(command: click.Command) -> dict[str, str]:
    """Give the options of a command that a file may set: their names as typed, without dashes, and their parameters."""
    shared = {"config"}
    return {
        flag.removeprefix("--"): str(option.name)
        for option in command.params
        if isinstance(option, click.Option) and option.name not in shared
        for flag in option.opts
        if flag.startswith("--")
    }
