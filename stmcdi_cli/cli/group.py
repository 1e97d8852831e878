"""What all commands share: common options, log messages, errors in one line, exit codes."""

import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from click.shell_completion import get_completion_class

from stmcdi_cli import __version__, resources
from stmcdi_cli.cli.config import load_config
from stmcdi_cli.cli.messages import print_error, usage_message
from stmcdi_cli.errors import StmcdiError, one_line
from stmcdi_cli.logging import Settings, configuration, configure, on_stderr

logger = logging.getLogger(__name__)

SHELLS = ("bash", "zsh", "fish")
ABORTED = 130  # as shells report a program stopped by Ctrl-C


_NO_COMMAND: Any = getattr(click.exceptions, "NoArgsIsHelpError", ())
"""A group without a command, whose message is the help; Click before 8.2 prints that by itself."""


class Step(click.Command):
    """A command with the options that every step has (`common_options`)."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        own = {option.name: option for option in self.params if isinstance(option, click.Option)}
        if "quiet" in own:  # the step's function has it as well
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
        """Run the step; log its settings, time and memory with ``--verbose``."""
        step = str(ctx.info_name)
        given = {**ctx.params, **ctx.meta.get("stmcdi.common", {})}
        level = logging.WARNING if given.get("quiet") else logging.DEBUG if given.get("verbose") else logging.INFO
        configure(Settings(step=step, level=level, json=bool(given.get("json_log"))))
        began = time.monotonic()
        typed = {name: _typed(value) for name, value in ctx.params.items() if value not in (None, ())}
        settings = ", ".join(f"{name}={value}" for name, value in typed.items())
        fields: dict[str, Any] = {"version": __version__}
        logger.debug("%s: stmcdi %s, %s", step, __version__, settings, extra={"fields": fields})
        result = super().invoke(ctx)
        seconds, memory = time.monotonic() - began, resources.peak() / 1e6
        fields = {"seconds": round(seconds, 1)}
        logger.debug("%s: done in %.1f s, %.0f MB at most", step, seconds, memory, extra={"fields": fields})
        return result


class Steps(click.Group):
    """The group of all steps: errors take one line, those about usage with a hint."""

    command_class = Step

    def list_commands(self, ctx: click.Context) -> list[str]:
        """List the commands in the order of the work."""
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the step; an error of its options or its input is printed in one line."""
        try:
            return super().invoke(ctx)
        except StmcdiError as error:
            print_error(f"stmcdi {ctx.invoked_subcommand}", str(error), error.exit_code)
            sys.exit(error.exit_code)
        except ImportError as error:
            if "failed to map segment" not in str(error):
                raise
            advice = f"too little memory to load the libraries ({one_line(error)}); allow more (ulimit -v unlimited)"
            print_error(f"stmcdi {ctx.invoked_subcommand}", advice, 2)
            sys.exit(2)
        except KeyboardInterrupt as error:
            if configuration().json:  # Click would write an empty line, which is not JSON
                raise click.Abort from error
            raise

    def main(  # type: ignore[override]
        self, args: Sequence[str] | None = None, *, standalone_mode: bool = True, **settings: Any
    ) -> Any:
        """Run the command line and end the process with the exit code."""
        settings["prog_name"] = settings.get("prog_name") or "stmcdi"  # not "python -m ..."
        with on_stderr():
            if not standalone_mode:
                return super().main(args, standalone_mode=False, **settings)
            try:
                result = super().main(args, standalone_mode=False, **settings)
            except click.UsageError as error:
                if isinstance(error, _NO_COMMAND):
                    click.echo(error.format_message(), err=True)
                    sys.exit(2)
                where = error.ctx.command_path if error.ctx else "stmcdi"
                print_error(where, usage_message(error), 2)
                sys.exit(2)
            except click.ClickException as error:
                print_error("stmcdi", error.format_message(), error.exit_code)
                sys.exit(error.exit_code)
            except click.Abort:
                print_error("stmcdi", "stopped", ABORTED)
                sys.exit(ABORTED)
        sys.exit(result if isinstance(result, int) else 0)


def common_options() -> list[click.Option]:
    """Give the options of every step that are not parameters of its function."""

    def remember(ctx: click.Context, option: click.Parameter, value: Any) -> None:
        ctx.meta.setdefault("stmcdi.common", {})[option.name] = value

    def flag(*names: str, help: str) -> click.Option:
        return click.Option(names, is_flag=True, expose_value=False, callback=remember, show_default=False, help=help)

    return [
        click.Option(
            ["--config"],
            type=click.Path(path_type=Path),
            is_eager=True,
            expose_value=False,
            callback=load_config,
            help="YAML file with options; the command line wins.",
        ),
        flag("--json-log", help="Progress, notes and errors as one JSON object per line, on stderr."),
        flag("-v", "--verbose", help="Say what is done and what it costs."),
        flag("-q", "--quiet", help="Say nothing but warnings and errors."),
    ]


def _typed(value: Any) -> str:
    """Give a value as it is typed; a long list as its length."""
    if not isinstance(value, list | tuple):
        return str(value)
    return f"[{len(value)}]" if len(value) > 5 else " ".join(map(str, value))


def print_completion(ctx: click.Context, option: click.Parameter, shell: str | None) -> None:
    """Print the script with which a shell completes commands and options, and exit."""
    if shell is None or ctx.resilient_parsing:
        return
    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(ctx.command, {}, "stmcdi", "_STMCDI_COMPLETE").source())
    ctx.exit()
