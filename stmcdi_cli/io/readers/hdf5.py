"""What an HDF5 file holds, by its first level."""

from pathlib import Path


def root_names(path: Path) -> set[str]:
    """Give the names at the top of an HDF5 file; none where it is no HDF5, or cannot be opened."""
    import h5py

    try:
        if not h5py.is_hdf5(path):
            return set()
        with h5py.File(path, "r", locking=False) as file:
            return set(file)
    except (OSError, RuntimeError, ValueError):
        return set()
