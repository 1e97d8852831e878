"""Read AnnData in h5ad."""

from pathlib import Path

from stmcdi_cli.io.h5ad import read_h5ad
from stmcdi_cli.io.readers.reader import Options, Reading


def recognises(path: Path) -> bool:
    """Whether a path may be h5ad: anything but a folder, for what is none is refused when it is read."""
    return not path.is_dir()


def read(path: Path, options: Options) -> Reading:
    """Read the file."""
    return Reading(read_h5ad(path), path)
