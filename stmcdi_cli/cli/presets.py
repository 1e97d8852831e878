"""``stmcdi presets``: the settings that ``--preset`` stands for."""

import click

from stmcdi_cli.cli.options import PRESET, example


@click.group("presets", no_args_is_help=False)
def presets() -> None:
    """Look at the settings of models: the built-in ones, and those in files of your own."""


@presets.command("show", epilog=example("presets show default > mine.yaml"))
@click.argument("preset", type=PRESET)
def show(preset: str) -> None:
    """Print every setting of a preset as YAML; a FILE of yours is checked first, and printed with its base."""
    from stmcdi_cli.steps._presets import preset_as_yaml

    click.echo(preset_as_yaml(preset), nl=False)
