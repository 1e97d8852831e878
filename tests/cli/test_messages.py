"""Errors take one line and hint at what is right."""

import pytest
from helpers import on_terminal, shell


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


def test_colours_are_for_terminals_unless_no_color_is_set():
    code = "from stmcdi_cli.cli import main; main(['normalize', 'none.h5ad', 'out.h5ad'])"
    assert "\x1b[31m" in on_terminal(code)
    assert "\x1b" not in on_terminal(code, NO_COLOR="1")
    assert "\x1b" not in shell("normalize", "none.h5ad", "out.h5ad").stderr  # a pipe
