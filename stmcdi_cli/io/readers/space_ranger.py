"""Read Space Ranger's output: Visium spots, and Visium HD bins; also as download pages and GEO name its files."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from stmcdi_cli import anndata_keys as keys
from stmcdi_cli import validation
from stmcdi_cli.errors import InputError, in_file
from stmcdi_cli.io.readers import matrix_10x
from stmcdi_cli.io.readers.delimited import open_text, read_parquet
from stmcdi_cli.io.readers.hdf5 import root_names
from stmcdi_cli.io.readers.reader import Options, Reading, only
from stmcdi_cli.io.text import read_text

if TYPE_CHECKING:
    from anndata import AnnData
    from pandas import DataFrame


MATRICES = ("filtered_feature_bc_matrix", "raw_feature_bc_matrix")
"""Names of the matrix, as a file (.h5) or a folder, after the sample's name; the first that is there is read."""
POSITIONS = ("tissue_positions.parquet", "tissue_positions.csv", "tissue_positions_list.csv")
COLUMNS = ["in_tissue", "array_row", "array_col", "pxl_row_in_fullres", "pxl_col_in_fullres"]


class Output(NamedTuple):
    """Where the parts of an output are.

    Attributes
    ----------
    matrix
        File of counts: ``.h5`` or ``matrix.mtx``.
    folder
        Folder that the matrix, as a file or as a folder, is in.
    prefix
        What the files' names have in front of the usual ones.
    """

    matrix: Path
    folder: Path
    prefix: str


def find(path: Path) -> Output | None:
    """Give the parts of an output, None if there is no matrix.

    ``path`` may be the folder with matrix and positions, the folder above its ``outs``, or the matrix in it.

    Raises
    ------
    InputError
        There are matrices of several samples.
    """
    if path.is_file():
        return _output(path)
    for folder in (path, path / "outs"):
        if matrix_10x.is_mex(folder):
            return _output(next(folder / name for name in matrix_10x.MEX_MATRIX if (folder / name).is_file()))
        for pattern in (*MATRICES, matrix_10x.MEX_MATRIX[1]):
            found = [file for file in folder.glob(f"*{pattern}*") if _output(file) is not None]
            chosen = only([file for file in found if file.suffix == ".h5"] or found, path, "sample")
            if chosen is not None:
                return _output(chosen)
    return None


def _output(matrix: Path) -> Output | None:
    """Take a name apart: that of the file of counts, or of a MEX folder."""
    name = matrix.name
    if matrix.is_dir():
        mex = next((matrix / file for file in matrix_10x.MEX_MATRIX if (matrix / file).is_file()), None)
        return None if mex is None else _output(mex)
    if name in matrix_10x.MEX_MATRIX:
        inside = matrix.resolve().parent.name
        known = next((known for known in MATRICES if inside.endswith(known)), None)
        return Output(matrix, matrix.parent.parent if known else matrix.parent, inside.removesuffix(known or inside))
    for ending in (*(f"{known}.h5" for known in MATRICES), "feature_bc_matrix.h5", *matrix_10x.MEX_MATRIX):
        if name.endswith(ending):
            return Output(matrix, matrix.parent, name.removesuffix(ending))
    if name.endswith(".h5") and root_names(matrix) == {"matrix"}:  # under any name
        return Output(matrix, matrix.parent, "")
    return None


def recognises(path: Path) -> bool:
    """Whether a path is Space Ranger's output."""
    return find(path) is not None


def bins(path: Path) -> dict[int, Path]:
    """Give the folders of a Visium HD output by the side of their bins in micrometres; none if it is another output."""
    for folder in (path / "binned_outputs", path / "outs" / "binned_outputs", path):
        if folder.name == "binned_outputs" and folder.is_dir():
            found = {part.name.removeprefix("square_").removesuffix("um"): part for part in folder.glob("square_*um")}
            return {int(side): part for side, part in sorted(found.items()) if side.isdigit()}
    return {}


def read_hd(path: Path, options: Options) -> Reading:
    """Read the bins of one size of a Visium HD output, as `read` does."""
    sides = bins(path)
    if options.bin_um not in sides:
        found = validation.first_few(sides)
        raise InputError(f"{path}: expected bins of {options.bin_um} micrometres, found {found}; choose one (--bin-um)")
    return read(sides[options.bin_um], options)


def read(path: Path, options: Options) -> Reading:
    """Read counts, positions, scale factors and, where Pillow is installed, the tissue image.

    Spots are those in tissue that the matrix holds, with gene expression only; ``obsm['spatial']`` is (column, row) in
    pixels of the full image; ``obs['array_row', 'array_col']``; ``var['gene_ids']``; ``uns['spatial']`` as squidpy has
    it.
    """
    output = find(path)
    if output is None:
        raise InputError(f"{path}: expected {MATRICES[0]}.h5, found none; give Space Ranger's output folder")
    adata = matrix_10x.read(output.matrix, options)
    positions = _find_positions(output)
    if positions is None and options.coordinates_file is not None:
        return Reading(adata, output.matrix)
    if positions is None:
        raise InputError(
            f"{output.matrix}: expected one of {', '.join(POSITIONS)} in {output.folder / 'spatial'}, found none; "
            "give Space Ranger's whole output, or a table of places (--coordinates)"
        )
    _place(adata, positions)
    inside = (adata.obs["in_tissue"] == 1).to_numpy()
    if not inside.all():
        options.note(f"left out {int((~inside).sum())} spots outside the tissue")
        adata = adata[inside].copy()
    images = picture(positions.parent, output.prefix)
    if images:
        folder = output.folder.resolve()
        adata.uns["spatial"] = {folder.parent.name if folder.name == "outs" else folder.name: images}
    return Reading(adata, output.matrix)


def _find_positions(output: Output) -> Path | None:
    """Find the file of positions: in ``spatial``, or beside the matrix under the sample's name."""
    folder, prefix = output.folder, output.prefix
    for place in (folder / "spatial", folder / f"{prefix}spatial", folder, folder.parent / "spatial"):
        for name in (f"{start}{name}" for start in dict.fromkeys((prefix, "")) for name in POSITIONS):
            for path in (place / name, place / f"{name}.gz"):
                if path.is_file():
                    return path
    return None


def _place(adata: "AnnData", path: Path) -> None:
    """Put the positions of the spots into ``obs`` and ``obsm``."""
    positions = _read_positions(path)
    unplaced = adata.obs_names.difference(positions.index)
    if len(unplaced):
        raise InputError(
            f"{path.parent}: expected a position for every spot, "
            f"found none for {validation.first_few(unplaced)}; "
            "matrix and positions are of different runs"
        )
    place = positions.loc[adata.obs_names]
    for column in COLUMNS[:3]:
        adata.obs[column] = place[column].to_numpy()
    adata.obsm[keys.SPATIAL] = place[["pxl_col_in_fullres", "pxl_row_in_fullres"]].to_numpy()


def _read_positions(path: Path) -> "DataFrame":
    import pandas as pd

    with in_file(path, "not a table of positions", "give Space Ranger's own file"):
        if path.suffix == ".parquet":
            table = read_parquet(path).set_index("barcode")
        else:
            with open_text(path) as file:
                start = file.readline(2**16).rstrip("\r\n").split(",")
            named = not start[-1].strip().lstrip("-").replace(".", "", 1).isdigit()
            with open_text(path) as file:
                table = pd.read_csv(file, header=0 if named else None, index_col=0, converters={0: str})
            if not named:
                table.columns = COLUMNS
        table = table[COLUMNS].rename(index=str)
        if not table.index.is_unique:
            raise ValueError(f"{table.index[table.index.duplicated()][0]} is in it several times")
        return table.astype(dict.fromkeys(COLUMNS[:3], int) | dict.fromkeys(COLUMNS[3:], np.float64))


def picture(folder: Path, prefix: str) -> dict[str, Any] | None:
    """Image and scale factors under squidpy's names; None where they, or Pillow, are absent."""
    try:
        from PIL import Image
    except ImportError:
        return None

    def file(name: str) -> Path:
        return folder / name if (folder / name).is_file() else folder / f"{prefix}{name}"

    try:
        factors = json.loads(read_text(file("scalefactors_json.json")))
        found = {size: file(f"tissue_{size}_image.png") for size in ("hires", "lowres")}
        images = {size: np.asarray(Image.open(path).convert("RGB")) for size, path in found.items() if path.is_file()}
    except (OSError, ValueError, SyntaxError, RecursionError, Image.DecompressionBombError):  # SyntaxError: broken PNG
        return None
    return {"images": images, "scalefactors": factors, "metadata": {}} if images else None
