"""Read the cells that Space Ranger 4 outlines in Visium HD: counts, and one polygon per cell."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from stmcdi_cli import anndata_keys as keys
from stmcdi_cli import resources, validation
from stmcdi_cli.errors import InputError, in_file
from stmcdi_cli.io.readers import matrix_10x, space_ranger
from stmcdi_cli.io.readers.delimited import open_text
from stmcdi_cli.io.readers.reader import Options, Reading, only

MATRIX = "filtered_feature_cell_matrix.h5"
OUTLINES = "cell_segmentations.geojson"
MEMORY = 12
"""Bytes that a byte of the outlines takes, at most, while they are read."""


def find(path: Path) -> Path | None:
    """Give the matrix: the path itself, or that of a folder of Space Ranger; None where there is none.

    Raises
    ------
    InputError
        There are matrices of several samples.
    """
    if path.is_file():
        return path if path.name.endswith(MATRIX) else None
    for folder in (path, path / "segmented_outputs", path / "outs" / "segmented_outputs"):
        found = only(folder.glob(f"*{MATRIX}"), path, "sample")
        if found is not None:
            return found
    return None


def recognises(path: Path) -> bool:
    """Whether a path is an output with cells."""
    return find(path) is not None


def read(path: Path, options: Options) -> Reading:
    """Read genes and cells; coordinates are the centres of the polygons, in pixels of the full image."""
    matrix = find(path)
    if matrix is None:
        raise InputError(f"{path}: expected {MATRIX}, found none; give Space Ranger's folder segmented_outputs")
    adata = matrix_10x.read(matrix, options)
    prefix = matrix.name.removesuffix(MATRIX)
    outlines = matrix.parent / f"{prefix}{OUTLINES}"
    if outlines.is_file():
        adata.obsm[keys.SPATIAL] = _centres(outlines, adata.obs_names.to_list())
    elif options.coordinates_file is None:
        raise InputError(f"{matrix}: expected {outlines.name} beside it, found none; give Space Ranger's whole output")
    images = space_ranger.picture(matrix.parent / "spatial", prefix)
    if images:
        adata.uns["spatial"] = {matrix.resolve().parent.name: images}
    return Reading(adata, matrix)


def _centres(path: Path, names: list[str]) -> np.ndarray:
    """Give the centre of each cell's polygon, cells x 2."""
    resources.check_fits(str(path), MEMORY * path.stat().st_size)
    with in_file(path, "not the outlines of cells", "give Space Ranger's own file"), open_text(path) as file:
        centres = {_number(part["properties"]["cell_id"]): _centre(part) for part in json.load(file)["features"]}
        numbers = [_number(name) for name in names]
    absent = [name for name, number in zip(names, numbers, strict=True) if number not in centres]
    if absent:
        raise InputError(
            f"{path}: expected an outline of every cell, found none for {validation.first_few(absent)}; "
            "matrix and outlines are of different runs"
        )
    return np.array([centres[number] for number in numbers])


def _number(name: Any) -> int:
    """Give the number of a cell, which the matrix writes ``cellid_000000001-1`` and the outlines 1."""
    found = re.fullmatch(r"(?:cellid_)?(\d+)(?:-\d+)?", str(name))
    if found is None:
        raise ValueError(f"{name} is no cell")
    return int(found[1])


def _centre(part: dict[str, Any]) -> np.ndarray:
    """Give the centre of mass of a polygon's outer ring; the mean of its corners where it has no area."""
    rings = part["geometry"]["coordinates"]
    ring = np.array(rings[0] if part["geometry"]["type"] == "Polygon" else rings[0][0], np.float64)[:, :2]
    middle = ring.mean(0)
    (x0, y0), (x1, y1) = (ring - middle).T, (np.roll(ring, -1, axis=0) - middle).T
    cross = x0 * y1 - x1 * y0
    if not cross.sum():
        return middle
    return middle + np.array([((x0 + x1) * cross).sum(), ((y0 + y1) * cross).sum()]) / (3 * cross.sum())
