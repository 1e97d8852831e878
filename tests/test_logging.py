"""What a step writes to stderr while it works: from the command line, and in Python."""

import json
import logging
import re
import subprocess
import sys
import warnings

import pytest
from helpers import shell

import stmcdi_cli as stmcdi
from stmcdi_cli.logging import Settings, on_stderr

OURS = logging.getLogger("stmcdi_cli.steps.some")


def objects(text):
    return [json.loads(line) for line in text.splitlines()]


def test_a_json_log_is_json_alone(cli, h5ad, raw, tmp_path):
    result = cli("run", tmp_path / "none.h5ad", tmp_path / "b.h5ad", "--json-log")
    (line,) = objects(result.stderr)
    assert result.exit_code == 2 and line["level"] == "error"
    assert line["exit_code"] == 2 and line["step"] == "run" and "no such file" in line["message"]
    assert cli("simulate", tmp_path / "a.h5ad", "--n-spots", 60, "--n-genes", 30, "--quiet").stderr == ""
    source = h5ad(stmcdi.build_graph(stmcdi.normalize(raw)))
    result = shell("train", source, tmp_path / "model", "--epochs", 2, "--json-log", "--verbose")
    assert result.returncode == 0, result.stderr
    lines = objects(result.stderr)
    assert {"time", "level", "step", "message"} <= set(lines[0]) and lines[0]["version"]
    assert any("spots x" in line["message"] for line in lines)  # what train says, whoever wrote it
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", lines[-1]["time"]) and "seconds" in lines[-1]


def test_errors_of_usage_and_interrupts_are_json_too(cli, monkeypatch, tmp_path):
    def stop(**options):
        raise KeyboardInterrupt

    monkeypatch.setattr("stmcdi_cli.steps.simulate.simulate.stream", stop)
    (line,) = objects(cli("simulate", tmp_path / "a.h5ad", "--json-log").stderr)
    assert (line["level"], line["step"], line["message"], line["exit_code"]) == ("error", "simulate", "stopped", 130)
    (line,) = objects(cli("run", "a.h5ad", "b.h5ad", "--fraction", 0.1, "--json-log").stderr)
    assert line["message"].startswith("--fraction needs --evaluate") and line["exit_code"] == 2


def test_records_of_others_and_python_warnings_are_written_too(capsys):
    warnings.simplefilter("always")

    def work():
        OURS.info("a note", extra={"fields": {"done": 1}})
        OURS.debug("a detail")
        logging.getLogger("other.module").warning("odd")
        logging.getLogger("other.module").info("nothing")
        warnings.warn("old", FutureWarning, stacklevel=1)

    with on_stderr(Settings("train", json=True)):
        work()
    note, odd, old = objects(capsys.readouterr().err)
    assert (note["level"], note["step"], note["message"], note["done"]) == ("info", "train", "a note", 1)
    assert (odd["level"], odd["message"]) == ("warning", "odd")
    assert old["level"] == "warning" and "FutureWarning: old" in old["message"]
    with on_stderr(Settings(level=logging.DEBUG)):
        work()
    text = capsys.readouterr().err
    assert text.startswith(f"a note\na detail\nother.module: odd\n{__file__}:") and "FutureWarning: old" in text
    with on_stderr(Settings(level=logging.ERROR)):
        work()
    assert capsys.readouterr().err == ""


def test_logging_is_afterwards_as_before():
    root = logging.getLogger()
    before = list(root.handlers), root.level, OURS.getEffectiveLevel(), warnings.showwarning
    with pytest.raises(KeyError), on_stderr(Settings(level=logging.ERROR, json=True)):
        raise KeyError
    assert (list(root.handlers), root.level, OURS.getEffectiveLevel(), warnings.showwarning) == before


APPLICATIONS = {  # settings of an application, and what it finds on stderr
    "none": ("", "a note\n"),
    "root": ("logging.basicConfig(format='%(name)s said %(message)s')", "stmcdi_cli.some said a note\n"),
    "root, later": ("import stmcdi_cli; logging.basicConfig(format='> %(message)s')", "> a note\n"),
    "quiet": ("logging.getLogger('stmcdi_cli').setLevel('WARNING')", ""),
    "own handler": ("logging.getLogger('stmcdi_cli').addHandler(logging.NullHandler())", ""),
}


@pytest.mark.parametrize("kind", APPLICATIONS)
def test_in_python_notes_are_shown_unless_the_application_says_otherwise(kind):
    settings, said = APPLICATIONS[kind]
    code = f"import logging; {settings}; import stmcdi_cli; logging.getLogger('stmcdi_cli.some').info('a note')"
    result = subprocess.run([sys.executable, "-c", code.replace("; ;", ";")], capture_output=True, text=True)
    assert (result.stderr, result.returncode) == (said, 0)


@pytest.mark.parametrize("as_json", [True, False])
def test_processes_that_train_together_log_alike(as_json, capfd):
    import torch

    from stmcdi_cli.model.training.distributed import launch

    with on_stderr(Settings("train", json=as_json)):
        launch(1, torch.device("cpu"), OURS.info, ["a note"])
    said = capfd.readouterr().err
    lines = [line for line in said.splitlines() if line.startswith("{") == as_json]  # C libraries may add others
    assert "a note" in ([json.loads(line)["message"] for line in lines] if as_json else lines), said
