"""Whether the package works with the versions that are installed: import, run and report on a small tissue.

    .venv-newest/bin/python tools/check_versions.py

The tissue is written by the AnnData that is installed, with all its defaults, and the result is read by it.
"""

import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import anndata
import numpy as np
import scipy.sparse as sp

SHOWN = ("anndata", "pandas", "numpy", "scipy", "torch", "h5py")


def write_tissue(path: Path) -> None:
    """Write 80 spots x 30 genes in two sections, with names, texts, ``raw`` and a table in ``uns``."""
    random = np.random.default_rng(0)
    adata = anndata.AnnData(sp.csr_matrix(random.poisson(random.gamma(2, 2, 30), (80, 30)).astype(np.float32)))
    adata.obs_names = [f"spot{i}" for i in range(80)]
    adata.var_names = [f"Gene{i}" for i in range(30)]
    adata.obs["section"] = ["left"] * 40 + ["right"] * 40
    adata.obs["label"] = [f"label {i}" for i in range(80)]
    adata.obsm["spatial"] = np.stack(np.meshgrid(np.arange(10), np.arange(8)), -1).reshape(-1, 2) * 100.0
    adata.uns["markers"] = adata.var.assign(name=adata.var_names)
    adata.raw = adata.copy()
    adata.write_h5ad(path)


def stmcdi(*arguments: object) -> None:
    """Run a step in a process of its own."""
    subprocess.run([sys.executable, "-m", "stmcdi_cli.cli", *map(str, arguments), "--quiet"], check=True)


def main() -> None:
    """Run the steps in a temporary folder and look at what they wrote."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_tissue(folder / "tissue.h5ad")
        stmcdi("import", folder / "tissue.h5ad", folder / "imported.h5ad")
        stmcdi("run", folder / "imported.h5ad", folder / "result.h5ad", "--section-key", "section", "--n-samples", 4)
        stmcdi("report", folder / "result.h5ad", folder / "report.html")
        result = anndata.read_h5ad(folder / "result.h5ad")
        assert list(result.obs_names) == [f"spot{i}" for i in range(80)], "spots were lost"
        assert list(result.obs["label"]) == [f"label {i}" for i in range(80)], "texts were changed"
        assert np.isfinite(result.layers["imputed"]).all() and result.raw is not None, "nothing was imputed"
        assert "<html" in (folder / "report.html").read_text("utf-8"), "there is no report"
    versions = ", ".join(f"{name} {version(name)}" for name in SHOWN)
    print(f"import, run and report work on Python {sys.version.split()[0]} with {versions}")


if __name__ == "__main__":
    main()
