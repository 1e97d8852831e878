"""What a step writes to stderr while it works."""

import json
import re

from helpers import shell


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
