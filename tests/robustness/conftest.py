import os
from pathlib import Path

import pytest

HERE = str(Path(__file__).parent)
# For the processes that tests start.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [HERE, os.environ.get("PYTHONPATH")]))


@pytest.fixture(scope="session")
def files(tmp_path_factory, imputed_run):
    """Inputs of every step, by name."""
    from steps import make_files

    return make_files(tmp_path_factory.mktemp("files"), imputed_run)
