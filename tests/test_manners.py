"""What all commands have in common, tried in real processes where it matters."""

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import time

import click
import pytest
from test_cli import COMMANDS, shell

from stmcdi_cli import log
from stmcdi_cli.cli import main
from stmcdi_cli.progress import Meter, progress

PYTHON = [sys.executable, "-m", "stmcdi_cli.cli"]


def test_help_answers_in_under_half_a_second():
    """The best of several: other work on the machine shall not count."""
    times = []
    for arguments in (["--help"], ["train", "--help"]) * 4:
        began = time.perf_counter()
        subprocess.run([*PYTHON, *arguments], check=True, capture_output=True)
        times.append(time.perf_counter() - began)
    assert min(times[::2]) < 0.5 and min(times[1::2]) < 0.5, times


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
    assert set(different) <= {"baseline"}, different


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["trian"], "stmcdi: no such step trian; did you mean train?; stmcdi --help lists them"),
        (
            ["train", "a", "b", "--epcohs", "3"],
            "stmcdi train: no such option --epcohs; did you mean --epochs?; stmcdi train --help lists them",
        ),
        (["normalize"], "stmcdi normalize: missing argument 'INPUT'; see stmcdi normalize --help"),
        (["run", "a", "b", "--fraction", "0.1"], "stmcdi run: --fraction needs --evaluate METRICS.json"),
        (
            ["train", "a", "b", "--epochs", "x"],
            "stmcdi train: invalid value for '--epochs': 'x' is not a valid integer",
        ),
        (
            ["impute", "a", "b", "c", "--target", "zero"],
            "stmcdi impute: invalid value for '--target': 'zero' is not one",
        ),
        (["--nothing"], "stmcdi: no such option --nothing; stmcdi --help lists them"),
    ],
)
def test_errors_of_usage_take_one_line_and_hint(arguments, line, refused):
    assert refused(*arguments).startswith(line)


def test_what_an_option_refuses_while_it_is_read_takes_one_line(refused, h5ad, raw, tmp_path):
    line = refused("select-hvg", h5ad(raw), tmp_path / "out.h5ad", "--genes", tmp_path / "none.txt")
    assert line.startswith("stmcdi select-hvg: ") and "none.txt" in line


def test_real_processes_refuse_usage_in_one_line_too():
    result = shell("train", "a", "b", "--epcohs", "3")
    assert result.returncode == 2 and result.stdout == "" and result.stderr.count("\n") == 1


# --config


@pytest.fixture
def config(tmp_path):
    def write(text):
        (tmp_path / "options.yaml").write_text(text)
        return tmp_path / "options.yaml"

    return write


def parameters(path, step):
    import anndata as ad

    return ad.read_h5ad(path).uns["stmcdi"][step]["parameters"]


def test_options_come_from_a_file_and_the_command_line_wins(cli, config, tmp_path):
    file = config("seed: 5\nepochs: 3\nsimulate:\n  n-spots: 40\n  n_genes: 30\n  rates: false\ntrain:\n  seed: 9\n")
    out = tmp_path / "a.h5ad"
    assert cli("simulate", out, "--config", file, "--n-genes", 20).exit_code == 0
    found = parameters(out, "simulate")
    assert (found["seed"], found["n_spots"], found["n_genes"], found["rates"]) == (5, 40, 20, False)


def test_the_steps_own_section_wins_over_the_top(cli, config, tmp_path):
    file = config("simulate:\n  seed: 7\nseed: 5\nn-spots: 40\n")
    assert cli("simulate", tmp_path / "a.h5ad", "--config", file).exit_code == 0
    assert parameters(tmp_path / "a.h5ad", "simulate")["seed"] == 7


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sed: 1\n", "no step has an option sed; did you mean seed?"),
        ("simulate:\n  n-spot: 1\n", "simulate has no option n-spot; did you mean n-spots?"),
        ("- seed\n", "expected options with values, found list"),
        ("seed: [\n", "cannot be read as YAML"),
        ("seed: {a: 1}\n", "expected a value for seed, found a mapping"),
        ("seed: many\n", "invalid value for '--seed': 'many' is not a valid integer"),
        ("config: other.yaml\n", "no step has an option config"),
    ],
)
def test_a_wrong_file_is_refused(text, said, config, refused, tmp_path):
    assert said in refused("simulate", tmp_path / "a.h5ad", "--config", config(text))


def test_an_absent_file_is_refused(refused, tmp_path):
    assert "cannot be read as YAML" in refused("simulate", tmp_path / "a.h5ad", "--config", tmp_path / "none.yaml")


# What is said while working


def test_a_json_log_is_json_alone(tmp_path):
    raw, wrong = tmp_path / "raw.h5ad", tmp_path / "text.h5ad"
    wrong.write_text("x")
    result = shell("run", raw, tmp_path / "b.h5ad", "--json-log")
    lines = [json.loads(line) for line in result.stderr.splitlines()]
    assert result.returncode == 2 and [line["level"] for line in lines] == ["error"]
    assert lines[0]["exit_code"] == 2 and lines[0]["step"] == "run" and "no such file" in lines[0]["message"]
    assert shell("simulate", raw, "--n-spots", 60, "--n-genes", 30, "--quiet").stderr == ""
    result = shell("run", raw, tmp_path / "b.h5ad", "--json-log", "--n-samples", 2, "--target", "all", "--verbose")
    assert result.returncode == 0, result.stderr
    lines = [json.loads(line) for line in result.stderr.splitlines()]
    assert {"time", "level", "step", "message"} <= set(lines[0]) and lines[0]["version"]
    assert any("spots x" in line["message"] for line in lines)  # what train says, whoever wrote it
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", lines[-1]["time"]) and "seconds" in lines[-1]


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


def test_progress_in_a_log_is_a_plain_line_now_and_then(capsys, monkeypatch):
    clock = iter(range(0, 1000, 4))
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    assert list(progress(range(10), 10, "impute", "batch")) == list(range(10))
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "impute: batch 3/10, 0.2/s, 28 s left" and len(lines) == 3
    assert not any("\r" in line or "\x1b" in line for line in lines)


def test_progress_in_a_json_log_has_numbers(capsys, monkeypatch):
    clock = iter(range(0, 1000, 4))
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    log.start("impute", quiet=False, verbose=False, as_json=True)
    try:
        list(progress(range(4), 4, "impute", "batch"))
    finally:
        log.stop()
    line = json.loads(capsys.readouterr().err)
    assert (line["done"], line["total"], line["seconds_left"]) == (3, 4, 4.0)


def on_terminal(code, **environment):
    """Run Python with stderr on a pseudo-terminal; what it printed there."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))  # lines and columns
    settings = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    settings |= {"TERM": "xterm", **environment}
    process = subprocess.Popen([sys.executable, "-c", code], stderr=theirs, stdout=subprocess.DEVNULL, env=settings)
    os.close(theirs)
    said = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:  # the other side is closed
            break
        if not part:
            break
        said += part
    process.wait(60)
    os.close(ours)
    return said.decode()


BAR = """
import time
from stmcdi_cli.progress import progress
for _ in progress(range(20), 20, 'impute', 'batch'):
    time.sleep(0.03)
"""


def test_progress_on_a_terminal_is_a_bar_with_rate_and_time_left():
    said = on_terminal(BAR)
    assert re.search(r"impute: +\d+%\|.*\| \d+/20 \[\d\d:\d\d<\d\d:\d\d, +[\d.]+batch/s\]", said), said


METER = """
import time
from stmcdi_cli.progress import Meter
with Meter('train', 'epoch') as meter:
    for epoch in range(20):
        meter.show(epoch, 40, loss=1 / (epoch + 1))
        time.sleep(0.03)
"""


def test_training_on_a_terminal_is_a_bar_too():
    said = on_terminal(METER)
    assert re.search(r"train: +\d+%\|.*\| \d+/40 \[\d\d:\d\d<\d\d:\d\d, +[\d.]+epoch/s, loss=0\.\d+\]", said), said


def test_training_in_a_log_is_a_plain_line_now_and_then(capsys, monkeypatch):
    clock = iter(range(0, 1000, 4))
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    with Meter("train", "epoch") as meter:
        for epoch in range(8):
            meter.show(epoch, 20, loss=0.5)
    lines = capsys.readouterr().err.splitlines()
    assert lines[:2] == ["train: epoch 0, loss 0.5", "train: epoch 1, loss 0.5, 0.2/s, 76 s left at most"]
    assert [line.split(",")[0] for line in lines[2:]] == ["train: epoch 2", "train: epoch 5"]


def test_colours_are_for_terminals_unless_no_color_is_set():
    code = "from stmcdi_cli.cli import main; main(['normalize', 'none.h5ad', 'out.h5ad'])"
    assert "\x1b[31m" in on_terminal(code)
    assert "\x1b" not in on_terminal(code, NO_COLOR="1")
    assert "\x1b" not in shell("normalize", "none.h5ad", "out.h5ad").stderr  # a pipe


# Completion


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

    monkeypatch.setattr("stmcdi_cli.steps.simulate.stream", stop)
    result = cli("simulate", tmp_path / "a.h5ad")
    assert result.exit_code == 130 and result.stderr.strip() == "stmcdi: stopped"
