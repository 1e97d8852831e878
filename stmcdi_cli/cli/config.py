"""``--config FILE``: options from a YAML file."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import click

from stmcdi_cli.cli.messages import hint
from stmcdi_cli.errors import InputError, one_line

WHOLE = "run"
"""The command that does the work of several."""
INCLUDED = ("normalize", "select-hvg", "build-graph", "hold-out", "train", "impute", "evaluate")
"""Steps whose work it does."""


def load_config(ctx: click.Context, option: click.Parameter, path: Path | None) -> None:
    """Take defaults from a YAML file: its keys are options, or names of steps with options of their own.

    A key at the top is an option of this command, or of another step that the file has a part for.

    Raises
    ------
    click.UsageError
        The file cannot be read, or an entry has no effect.
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
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; check the path") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as YAML ({one_line(error, 150)}); correct it") from error
    if not isinstance(content, Mapping | None):
        raise InputError(f"{path}: expected options with values, found {type(content).__name__}; write `name: value`")
    steps: Mapping[str, click.Command] = ctx.parent.command.commands if ctx.parent else {}  # type: ignore[attr-defined]
    known = {name: _settable(step) for name, step in steps.items()}
    here, command = _settable(ctx.command), str(ctx.command.name)
    general, parts = _general_and_parts(content or {}, known, path)
    whole = "leave it out, or use the steps one by one"
    for name in parts:
        if command == WHOLE and name in INCLUDED:
            raise InputError(f"{path}: {command} takes no options of {name}; {whole}")
    shared = {option for name in parts for option in known[name]}
    for name in general:
        if name not in here and name not in shared:
            having = next(step for step, options in known.items() if name in options)
            remedy = whole if command == WHOLE else f"if it is for {having}, write it under {having}:"
            raise InputError(f"{path}: {command} has no option {name}; {remedy}")
    settings = {name: value for name, value in general.items() if name in here} | parts.get(command, {})
    for name, value in settings.items():
        if isinstance(value, Mapping):
            raise InputError(
                f"{path}: expected a value for {name}, found a mapping; write options of a step under its name"
            )
    multiple = {option.name for option in ctx.command.params if getattr(option, "multiple", False)}
    ctx.default_map = {here[name]: _typed(value, here[name] in multiple) for name, value in settings.items()}


def _typed(value: Any, multiple: bool) -> Any:
    """Give a value as it is typed: a list as names between commas, unless the option is given once per name."""
    return ",".join(map(str, value)) if isinstance(value, list) and not multiple else value


def _near(name: str, known: Iterable[str]) -> str:
    """Say how an option is written here that is a flag with "no-" on the command line, or name the nearest one."""
    flag = name.removeprefix("no-")
    return f"; write {flag}: false" if flag != name and flag in known else hint(name, list(known))


def _general_and_parts(
    content: Mapping[Any, Any], known: Mapping[str, Mapping[str, str]], path: Path
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Give what stands at the top of a file, and what stands under the names of steps; refuse what no step has."""
    everywhere = {name for names in known.values() for name in names}
    general: dict[str, Any] = {}
    parts: dict[str, dict[str, Any]] = {}
    for key, value in content.items():
        name = _option(key)
        if name in known and isinstance(value, Mapping):
            part = parts.setdefault(name, {})
            for inner, inner_value in value.items():
                if _option(inner) not in known[name]:
                    raise InputError(f"{path}: {name} has no option {inner}{_near(_option(inner), known[name])}")
                _add(part, inner, inner_value, path)
        elif name not in everywhere:
            raise InputError(f"{path}: no step has an option {key}{_near(name, [*everywhere, *known])}")
        else:
            _add(general, key, value, path)
    return general, parts


def _add(settings: dict[str, Any], key: Any, value: Any, path: Path) -> None:
    name = _option(key)
    if name in settings:
        raise InputError(f"{path}: {name} is given twice; leave one out")
    if value is None:
        raise InputError(f"{path}: expected a value for {key}, found none; give one, or leave it out")
    settings[name] = value


def _option(key: Any) -> str:
    """Name of an option as it is typed, without the dashes in front."""
    return str(key).replace("_", "-")


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
