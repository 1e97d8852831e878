"""What all commands have in common, tried in real processes where it matters."""

import os
import re
import resource
import subprocess
import sys

import click
import pytest

from stmcdi_cli.cli import main
from stmcdi_cli.cli.group import Step

COMMANDS = sorted(name for name, command in main.commands.items() if isinstance(command, Step))
PYTHON = [sys.executable, "-m", "stmcdi_cli.cli"]


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"]])
def test_help_takes_little_time(arguments):
    """Processor time, and the best of three: other work on the machine shall not count."""
    times = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([*PYTHON, *arguments], check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(times) < 0.3, times


@pytest.mark.parametrize("name", COMMANDS)
def test_common_options_are_in_every_step(name, cli):
    text = cli(name, "--help").stdout
    common = text[text.index("Common options:") :]
    for flags in ("--config PATH", "--json-log", "-v, --verbose", "-q, --quiet", "-h, --help"):
        assert flags in common
    assert text.index("Options:") < text.index("Common options:") < text.index("Example:")


def test_an_option_is_spelled_and_typed_the_same_in_every_step():
    seen = {}
    for command in main.commands.values():
        for option in command.params:
            if isinstance(option, click.Option):
                flags = tuple(sorted(option.opts + option.secondary_opts))
                assert all(re.fullmatch(r"--[a-z][a-z0-9-]*|-[a-z]", flag) for flag in flags), flags
                assert option.name == max(option.opts, key=len)[2:].replace("-", "_") or option.name == "names"
                kind = option.type.name if not isinstance(option.type, click.Choice) else "choice"
                seen.setdefault(option.name, set()).add((flags, kind))
    different = {name: kinds for name, kinds in seen.items() if len(kinds) > 1}
    # Those of simulate are a number; `add-reference --genes` is a file, `join --genes` a choice.
    assert set(different) <= {"baseline", "n_genes", "genes"}, different


def test_verbose_tells_settings_and_cost_and_quiet_nothing(cli, tmp_path):
    out = tmp_path / "a.h5ad"
    options = ("--n-spots", 40, "--n-genes", 20)
    said = cli("simulate", out, *options, "-v").stderr.splitlines()
    assert "n_spots=40" in said[0] and re.search(r"done in [\d.]+ s, \d+ MB at most", said[1]) and len(said) == 2
    assert cli("simulate", out, *options).stderr == ""
    said = cli("join", out, out, tmp_path / "b.h5ad", "--name", "one", "--name", "two", "-v").stderr
    assert f"names=one two, inputs={out} {out}, output=" in said
    result = cli("simulate", tmp_path / "no" / "a.h5ad", *options, "-q")
    assert "no such folder" in result.stderr and result.exit_code == 2  # errors are never quiet


def test_quiet_silences_notes_of_every_step(cli, h5ad, raw, tmp_path):
    from stmcdi_cli import build_graph, normalize

    source = h5ad(build_graph(normalize(raw)))
    arguments = ("baseline", source, tmp_path / "out.h5ad", "--method", "gene-mean")
    assert "no entry is missing" in cli(*arguments).stderr
    assert cli(*arguments, "-q").stderr == ""


@pytest.mark.parametrize("kind", ["bash", "zsh", "fish"])
def test_completion_scripts_are_printed(kind, cli):
    result = cli("--completion", kind)
    assert result.exit_code == 0 and "_STMCDI_COMPLETE" in result.stdout


@pytest.mark.parametrize(
    ("words", "expected"),
    [("stmcdi tr", "train"), ("stmcdi impute --tar", "--target"), ("stmcdi impute --target z", "zeros")],
)
def test_bash_completes_steps_options_and_values(words, expected):
    environment = os.environ | {
        "_STMCDI_COMPLETE": "bash_complete",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split()) - 1),
    }
    code = "from stmcdi_cli.cli import main; main(prog_name='stmcdi')"
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert f"plain,{expected}" in result.stdout.splitlines(), result


def test_an_interrupt_ends_in_one_line(monkeypatch, cli, tmp_path):
    def stop(**options):
        raise KeyboardInterrupt

    monkeypatch.setattr("stmcdi_cli.steps.simulate.simulate.stream", stop)
    result = cli("simulate", tmp_path / "a.h5ad")
    assert result.exit_code == 130 and result.stderr.strip() == "stmcdi: stopped"


def test_without_a_command_the_help_is_shown_in_its_lines():
    done = subprocess.run(PYTHON, capture_output=True, text=True)
    text = done.stdout + done.stderr  # Click before 8.2 prints it to stdout
    assert text.startswith("Usage: stmcdi [OPTIONS] COMMAND [ARGS]...\n") and text.count("\n") > 20
    assert [line for line in text.splitlines() if line.split()[:1] == ["normalize"]]
