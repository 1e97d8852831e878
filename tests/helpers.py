"""What several test files need."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from contextlib import nullcontext
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp


def make_raw(n_spots: int = 60, n_genes: int = 40, seed: int = 0) -> ad.AnnData:
    """Counts with coordinates and every kind of extra a user's file may carry."""
    random = np.random.default_rng(seed)
    counts = random.poisson(random.gamma(0.6, 3, n_genes) * random.gamma(4, 0.25, (n_spots, 1)))
    counts[0, 0] = 3
    adata = ad.AnnData(
        sp.csr_matrix(counts.astype(np.float32)),
        obs=pd.DataFrame(
            {"section": pd.Categorical(np.where(np.arange(n_spots) % 2, "a", "b")), "note": "x"},
            index=[f"s{i}" for i in range(n_spots)],
        ),
        var=pd.DataFrame({"symbol": [f"G{i}" for i in range(n_genes)]}, index=[f"g{i}" for i in range(n_genes)]),
    )
    adata.obsm["spatial"] = random.uniform(0, 100, (n_spots, 2))
    adata.obsm["X_other"] = random.normal(size=(n_spots, 3))
    adata.varm["loading"] = random.normal(size=(n_genes, 2))
    adata.uns["source"] = {"tissue": "none"}
    return adata


def dense(matrix) -> np.ndarray:
    return matrix.toarray() if sp.issparse(matrix) else np.asarray(matrix)


def same(one: ad.AnnData, other: ad.AnnData) -> None:
    """Assert that both hold the same spots, genes, values and tables."""
    pd.testing.assert_frame_equal(one.obs, other.obs)
    pd.testing.assert_frame_equal(one.var, other.var)
    np.testing.assert_array_equal(dense(one.X), dense(other.X))
    for part in ("layers", "obsm", "varm", "obsp", "varp"):
        assert set(getattr(one, part)) == set(getattr(other, part)), part
        for key, value in getattr(one, part).items():
            np.testing.assert_array_equal(dense(value), dense(getattr(other, part)[key]))
    assert set(one.uns) == set(other.uns)


def untimed(adata: ad.AnnData) -> dict:
    """What every step noted, but for how long it took."""
    noted = {step: dict(entry) for step, entry in adata.uns["stmcdi"].items()}
    for entry in noted.values():
        entry["parameters"] = {name: value for name, value in entry["parameters"].items() if name != "seconds"}
    return noted


def model_files(folder: Path) -> dict[str, bytes]:
    """Content of a model's files, but for how long it took."""
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    files["config.yaml"], n = re.subn(rb"\n  seconds: [0-9.]+", b"", files["config.yaml"])
    assert n == 1
    return files


def same_results(one: Path, other: Path, rtol: float = 0) -> None:
    """Assert that two runs of the workflow imputed the same; files of HDF5 are never the same byte by byte."""
    files = sorted(path.relative_to(one) for path in one.glob("*/*_imputed.h5ad"))
    assert files
    for file in files:
        ours, theirs = ad.read_h5ad(one / file), ad.read_h5ad(other / file)
        assert ours.obs_names.equals(theirs.obs_names) and ours.var_names.equals(theirs.var_names)
        for layer in ours.layers:
            np.testing.assert_allclose(
                dense(ours.layers[layer]), dense(theirs.layers[layer]), rtol=rtol, atol=rtol, err_msg=f"{file}: {layer}"
            )


def shell(*arguments, **options):
    """Run the command line in a process of its own."""
    command = [sys.executable, "-m", "stmcdi_cli.cli", *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, **options)


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


ZARR_FORMATS = (2, 3) if hasattr(ad.settings, "zarr_write_format") else (2,)
"""Formats that this version of AnnData can write: before 0.12 it is 2 only."""


def write_zarr(adata, path, zarr_format):
    """Write an AnnData store in one of the `ZARR_FORMATS`."""
    with ad.settings.override(zarr_write_format=zarr_format) if len(ZARR_FORMATS) > 1 else nullcontext():
        adata.write_zarr(path)
