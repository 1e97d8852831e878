"""Progress: a bar on a terminal, plain lines in a log."""

import json
import re
import time

import pytest
from helpers import on_terminal

from stmcdi_cli.logging import Settings, on_stderr
from stmcdi_cli.progress import Meter, progress


def test_progress_in_a_log_is_a_plain_line_now_and_then(caplog, monkeypatch):
    clock = iter(range(0, 1000, 4))
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    assert list(progress(range(10), 10, "impute", "batch")) == list(range(10))
    lines = caplog.messages
    assert lines[0] == "impute: batch 3/10, 0.2/s, 28 s left" and len(lines) == 3
    assert not any("\r" in line or "\x1b" in line for line in lines)


def test_progress_in_a_json_log_has_numbers(capsys, monkeypatch):
    clock = iter(range(0, 1000, 4))
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    with on_stderr(Settings("impute", json=True)):
        list(progress(range(4), 4, "impute", "batch"))
    line = json.loads(capsys.readouterr().err)
    assert (line["done"], line["total"], line["seconds_left"]) == (3, 4, 4.0)


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


@pytest.mark.parametrize("settings", ["json=True", "level=40"])
def test_on_a_terminal_json_and_quiet_have_no_bar(settings):
    said = on_terminal(f"from stmcdi_cli.logging import Settings, configure; configure(Settings({settings})){BAR}")
    assert said == ""


def test_training_on_a_terminal_is_a_bar_too():
    said = on_terminal(METER)
    assert re.search(r"train: +\d+%\|.*\| \d+/40 \[\d\d:\d\d<\d\d:\d\d, +[\d.]+epoch/s, loss=0\.\d+\]", said), said


def test_training_in_a_log_is_a_plain_line_now_and_then(caplog, monkeypatch):
    clock = iter(range(0, 1000, 4))
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    with Meter("train", "epoch") as meter:
        for epoch in range(8):
            meter.show(epoch, 20, loss=0.5)
    lines = caplog.messages
    assert lines[:2] == ["train: epoch 0, loss 0.5", "train: epoch 1, loss 0.5, 0.2/s, 76 s left at most"]
    assert [line.split(",")[0] for line in lines[2:]] == ["train: epoch 2", "train: epoch 5"]
