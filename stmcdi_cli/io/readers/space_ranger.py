"""Read Space Ranger's output folder: Visium spots, and Visium HD bins."""

import gzip
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from stmcdi_cli import anndata_keys as keys
from stmcdi_cli import validation
from stmcdi_cli.errors import InputError, in_file
from stmcdi_cli.io import safety
from stmcdi_cli.io.text import read_text
from stmcdi_cli.sparse import check_csr

if TYPE_CHECKING:
    from anndata import AnnData
    from pandas import DataFrame


MATRIX, MATRIX_FOLDER = "filtered_feature_bc_matrix.h5", "filtered_feature_bc_matrix"
POSITIONS = ("tissue_positions.parquet", "tissue_positions.csv", "tissue_positions_list.csv")
COLUMNS = ["in_tissue", "array_row", "array_col", "pxl_row_in_fullres", "pxl_col_in_fullres"]
GENES = "Gene Expression"


def find(path: Path) -> Path | None:
    """Give the folder with matrix and positions, None if there is none.

    ``path`` may be that folder, the folder above its ``outs``, or the matrix in it.
    """
    if path.name == MATRIX and path.is_file():
        path = path.parent
    for folder in (path, path / "outs"):
        if folder.is_dir() and ((folder / MATRIX).is_file() or (folder / MATRIX_FOLDER).is_dir()):
            return folder
    return None


def bins(path: Path) -> dict[int, Path]:
    """Give the folders of a Visium HD output by the side of their bins in micrometres; none if it is another output."""
    for folder in (path / "binned_outputs", path / "outs" / "binned_outputs"):
        if folder.is_dir():
            found = {part.name.removeprefix("square_").removesuffix("um"): part for part in folder.glob("square_*um")}
            return {int(side): part for side, part in sorted(found.items()) if side.isdigit()}
    return {}


def read(folder: Path) -> tuple["AnnData", Path]:
    """Read counts, positions, scale factors and, where Pillow is installed, the tissue image.

    Returns
    -------
    AnnData
        Spots in tissue that the matrix holds, gene expression only; ``obsm['spatial']`` is (column, row) in pixels of
        the full image; ``obs['array_row', 'array_col']``; ``var['gene_ids']``; ``uns['spatial']`` as squidpy has it.
    Path
        The matrix.
    """
    if (folder / MATRIX).is_file():
        adata, matrix = _read_h5(folder / MATRIX), folder / MATRIX
    else:
        adata, matrix = _read_mtx(folder / MATRIX_FOLDER), _either(folder / MATRIX_FOLDER, "matrix.mtx")
    positions = _read_positions(folder / "spatial")
    unplaced = adata.obs_names.difference(positions.index)
    if len(unplaced):
        raise InputError(
            f"{folder / 'spatial'}: expected a position for every spot, "
            f"found none for {validation.first_few(unplaced)}; "
            "matrix and positions are of different runs"
        )
    place = positions.loc[adata.obs_names]
    for column in COLUMNS[:3]:
        adata.obs[column] = place[column].to_numpy().astype(int)
    adata.obsm[keys.SPATIAL] = place[["pxl_col_in_fullres", "pxl_row_in_fullres"]].to_numpy(np.float64)
    adata = adata[(adata.obs["in_tissue"] == 1).to_numpy()].copy()
    picture = _picture(folder / "spatial")
    if picture:
        adata.uns["spatial"] = {folder.resolve().parent.name if folder.name == "outs" else folder.name: picture}
    return adata, matrix


def _read_h5(path: Path) -> "AnnData":
    import h5py

    with in_file(path, "not a matrix of Space Ranger", "give the folder it wrote"):
        with h5py.File(path, locking=False) as file, safety.memory_limited(safety.check_hdf5(file)):
            matrix = file["matrix"]
            features = matrix["features"]
            ids, names, kinds = (features[key][()].astype(str) for key in ("id", "name", "feature_type"))
            n_features, n_spots = (int(n) for n in matrix["shape"][()])
            # In the file spots are columns (CSC): the same arrays are the CSR matrix whose rows are spots.
            parts = (matrix["data"][()].astype(np.float32), matrix["indices"][()], matrix["indptr"][()])
            counts = sp.csr_matrix(parts, shape=(n_spots, n_features))
            spots = matrix["barcodes"][()].astype(str)
            check_csr(counts, "the matrix")
        return _assemble(counts, spots, ids, names, kinds)


def _read_mtx(folder: Path) -> "AnnData":
    import pandas as pd
    from scipy.io import mminfo, mmread

    path = _either(folder, "matrix.mtx")
    with in_file(folder, "not a matrix of Space Ranger", "give the folder it wrote"):
        opener = gzip.open if path.suffix == ".gz" else open
        with opener(path, "rb") as file:
            n_values = mminfo(file)[2]
        if n_values > safety.MAX_RATIO * path.stat().st_size:
            raise ValueError(f"it declares {n_values} values and cannot hold them")
        with safety.memory_limited(24 * n_values), opener(path, "rb") as file:
            counts = sp.csr_matrix(mmread(file).T, dtype=np.float32)
        features = pd.read_csv(_either(folder, "features.tsv"), sep="\t", header=None, dtype=str)
        spots = pd.read_csv(_either(folder, "barcodes.tsv"), sep="\t", header=None, dtype=str)[0].to_numpy()
        kinds = features[2].to_numpy() if features.shape[1] > 2 else np.full(len(features), GENES)
        return _assemble(counts, spots, features[0].to_numpy(), features[1].to_numpy(), kinds)


def _assemble(
    counts: sp.csr_matrix, spots: np.ndarray, ids: np.ndarray, names: np.ndarray, kinds: np.ndarray
) -> "AnnData":
    import pandas as pd
    from anndata import AnnData

    if counts.shape != (len(spots), len(names)):
        raise ValueError(f"the matrix is {counts.shape}, its names are for {(len(spots), len(names))}")
    genes = kinds == GENES
    var = pd.DataFrame({"gene_ids": ids[genes]}, index=pd.Index(names[genes].astype(object)))
    return AnnData(counts[:, np.flatnonzero(genes)], obs=pd.DataFrame(index=pd.Index(spots.astype(object))), var=var)


def _read_positions(folder: Path) -> "DataFrame":
    import pandas as pd

    path = next((folder / name for name in POSITIONS if (folder / name).is_file()), None)
    if path is None:
        raise InputError(
            f"{folder}: expected one of {', '.join(POSITIONS)}, found none; give Space Ranger's whole output"
        )
    with in_file(path, "not a table of positions", "give Space Ranger's own file"):
        if path.suffix == ".parquet":
            table = _read_parquet(path).set_index("barcode")
        else:
            with open(path, encoding="utf-8-sig") as file:
                header = file.readline().split(",")[0].strip() == "barcode"
            table = pd.read_csv(path, header=0 if header else None, index_col=0)
            if not header:
                table.columns = COLUMNS
        return table[COLUMNS].rename(index=str)


def _read_parquet(path: Path) -> "DataFrame":
    import pandas as pd

    try:
        return pd.read_parquet(path)
    except ImportError as error:
        raise InputError(f"{path}: reading parquet needs pyarrow; pip install 'stmcdi[parquet]'") from error


def _picture(folder: Path) -> dict[str, Any] | None:
    """Image and scale factors under squidpy's names; None where they, or Pillow, are absent."""
    try:
        from PIL import Image
    except ImportError:
        return None
    try:
        factors = json.loads(read_text(folder / "scalefactors_json.json"))
        found = {size: folder / f"tissue_{size}_image.png" for size in ("hires", "lowres")}
        images = {size: np.asarray(Image.open(path).convert("RGB")) for size, path in found.items() if path.is_file()}
    except (OSError, ValueError, SyntaxError, RecursionError, Image.DecompressionBombError):  # SyntaxError: broken PNG
        return None
    return {"images": images, "scalefactors": factors, "metadata": {}} if images else None


def _either(folder: Path, name: str) -> Path:
    """Give the compressed file, as Space Ranger writes it, or else the plain one."""
    packed = folder / f"{name}.gz"
    return packed if packed.is_file() else folder / name
