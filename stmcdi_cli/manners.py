"""Manners that all commands share: common options, settings from a file, errors in one line, hints on typos."""

import difflib
import re
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from click.shell_completion import get_completion_class

from stmcdi_cli import __version__, log
from stmcdi_cli.errors import InputError, StmcdiError

SHELLS = ("bash", "zsh", "fish")
LONGEST = 2000
"""Letters of an error line: names from a file may be of any length."""
ABORTED = 130  # as shells report a program stopped by Ctrl-C


class Step(click.Command):
    """A command with the options that every step has; see `common_options`."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        own = {option.name: option for option in self.params if isinstance(option, click.Option)}
        if "quiet" in own:  # the function behind has it too
            own["quiet"].opts.append("-q")
        self.params += [option for option in common_options() if option.name not in own]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the step's own options first."""
        shared = {"config", "json_log", "verbose", "quiet"}
        own: list[tuple[str, str]] = []
        common: list[tuple[str, str]] = []
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None and isinstance(parameter, click.Option):
                (common if parameter.name in shared or "--help" in parameter.opts else own).append(record)
        for title, records in (("Options", own), ("Common options", common)):
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the step; with ``--verbose`` say what it was asked to do and what it cost."""
        given = {**ctx.params, **ctx.meta.get("stmcdi.common", {})}
        quiet, verbose, as_json = (bool(given.get(name)) for name in ("quiet", "verbose", "json_log"))
        log.start(str(ctx.info_name), quiet=quiet, verbose=verbose, as_json=as_json)
        began = time.monotonic()
        try:
            typed = {name: _typed(value) for name, value in ctx.params.items() if value not in (None, ())}
            settings = ", ".join(f"{name}={value}" for name, value in typed.items())
            log.detail(f"{ctx.info_name}: stmcdi {__version__}, {settings}", version=__version__)
            result = super().invoke(ctx)
            seconds, memory = time.monotonic() - began, _peak_memory()
            log.detail(f"{ctx.info_name}: done in {seconds:.1f} s, {memory:.0f} MB at most", seconds=round(seconds, 1))
            return result
        except StmcdiError as error:
            _say_error(f"stmcdi {ctx.info_name}", str(error), error.exit_code)
            sys.exit(error.exit_code)
        finally:
            log.stop()


class Steps(click.Group):
    """The group of all steps: errors of usage take one line, typos get a hint."""

    command_class = Step

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Show the commands in the order of the work, not of the alphabet."""
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the step; what its options refuse while they are read ends in one line, too."""
        try:
            return super().invoke(ctx)
        except StmcdiError as error:
            _say_error(f"stmcdi {ctx.invoked_subcommand}", str(error), error.exit_code)
            sys.exit(error.exit_code)

    def main(  # type: ignore[override]
        self, args: Sequence[str] | None = None, *, standalone_mode: bool = True, **settings: Any
    ) -> Any:
        """Run the command line and end the process with the exit code."""
        settings["prog_name"] = settings.get("prog_name") or "stmcdi"  # not "python -m ..."
        if not standalone_mode:
            return super().main(args, standalone_mode=False, **settings)
        try:
            result = super().main(args, standalone_mode=False, **settings)
        except click.UsageError as error:
            where = error.ctx.command_path if error.ctx else "stmcdi"
            _say_error(where, usage_message(error), 2)
            sys.exit(2)
        except click.ClickException as error:
            _say_error("stmcdi", error.format_message(), error.exit_code)
            sys.exit(error.exit_code)
        except click.Abort:
            _say_error("stmcdi", "stopped", ABORTED)
            sys.exit(ABORTED)
        sys.exit(result if isinstance(result, int) else 0)


def common_options() -> list[click.Option]:
    """Options of every step that are not the function's."""

    def remember(ctx: click.Context, option: click.Parameter, value: Any) -> None:
        ctx.meta.setdefault("stmcdi.common", {})[option.name] = value

    return [
        click.Option(
            ["--config"],
            type=click.Path(path_type=Path),
            is_eager=True,
            expose_value=False,
            callback=take_config,
            help="YAML file with options; the command line wins.",
        ),
        click.Option(
            ["--json-log"],
            is_flag=True,
            expose_value=False,
            callback=remember,
            show_default=False,
            help="Progress, notes and errors as one JSON object per line, on stderr.",
        ),
        click.Option(
            ["-v", "--verbose"],
            is_flag=True,
            expose_value=False,
            callback=remember,
            show_default=False,
            help="Say what is done and what it costs.",
        ),
        click.Option(
            ["-q", "--quiet"],
            is_flag=True,
            expose_value=False,
            callback=remember,
            show_default=False,
            help="Say nothing but errors.",
        ),
    ]


def take_config(ctx: click.Context, option: click.Parameter, path: Path | None) -> None:
    """Let a YAML file set defaults: keys are options, at the top for all steps, or under a step's name for it alone.

    Raises
    ------
    InputError
        The file cannot be read, or a key is no option.
    """
    if path is None:
        return
    try:
        _take_config(ctx, path)
    except InputError as error:
        raise click.UsageError(str(error), ctx) from error


def _take_config(ctx: click.Context, path: Path) -> None:
    from stmcdi_cli.texts import read_yaml

    try:
        content = read_yaml(path)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: cannot be read as YAML ({' '.join(str(error).split())[:150]}); correct it"
        ) from error
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
                    raise InputError(f"{path}: {name} has no option {inner}{_hint(option, known[name])}")
                if steps[name] is ctx.command:
                    settings[option] = inner_value
        elif name not in everywhere:
            raise InputError(f"{path}: no step has an option {key}{_hint(name, [*everywhere, *known])}")
        elif name in here:
            settings.setdefault(name, value)
    for name, value in settings.items():
        if isinstance(value, Mapping):
            raise InputError(
                f"{path}: expected a value for {name}, found a mapping; options of a step stand under its name"
            )
    ctx.default_map = {here[name]: value for name, value in settings.items() if value is not None}


def _settable(command: click.Command) -> dict[str, str]:
    """Options of a command a file may set: name as typed, without dashes, to name of the parameter."""
    shared = {"config"}
    return {
        flag.removeprefix("--"): str(option.name)
        for option in command.params
        if isinstance(option, click.Option) and option.name not in shared
        for flag in option.opts
        if flag.startswith("--")
    }


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
    if isinstance(stream, log.JsonLines):
        stream.entry(message, level="error", exit_code=exit_code)
        return
    if isinstance(stream, log.Silence):
        stream = stream.stream
    head = click.style(where, fg="red", bold=True) if log.colourful(stream) else where
    click.echo(f"{head}: {message}", file=stream, color=True)


def _typed(value: Any) -> str:
    """A value as it is typed; a long list as its length."""
    if not isinstance(value, list | tuple):
        return str(value)
    return f"[{len(value)}]" if len(value) > 5 else " ".join(map(str, value))


def _peak_memory() -> float:
    """Most memory the process has held, in MB."""
    try:
        import resource
    except ImportError:  # not on Windows
        return float("nan")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)


def print_completion(ctx: click.Context, option: click.Parameter, shell: str | None) -> None:
    """Print the script that makes a shell complete commands and options, and end."""
    if shell is None or ctx.resilient_parsing:
        return
    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(ctx.command, {}, "stmcdi", "_STMCDI_COMPLETE").source())
    ctx.exit()
