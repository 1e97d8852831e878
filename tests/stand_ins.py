"""Programs that stand in for others in the tests of the workflow."""

from collections.abc import Mapping
from pathlib import Path

ENGINE = """#!/usr/bin/env bash
# Stands in for a container engine: runs the task here.
if [[ $1 != run && $1 != exec ]]; then exit; fi
until [[ $1 == *stmcdi:*-c* || $1 == *.sif ]]; do shift; done
exec "${@:2}"
"""


def write(folder: Path, programs: Mapping[str, str]) -> Path:
    """Write programs, text by name, into a new folder ``programs``, which is given."""
    folder = folder / "programs"
    folder.mkdir()
    for name, text in programs.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return folder
