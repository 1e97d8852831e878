import os
import sys
from pathlib import Path

HERE = str(Path(__file__).parent)
sys.path.insert(0, HERE)  # so that tests can import child.py and kill.py, and the processes they start the rest
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [HERE, os.environ.get("PYTHONPATH")]))

LONG = os.environ.get("STMCDI_LONG") == "1"
"""Whether to try ten times as much, for minutes."""
