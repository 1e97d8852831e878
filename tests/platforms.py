"""Files as the platforms write them, with 40 spots and 25 genes."""

import json

import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp

N_SPOTS, N_GENES = 40, 25
COUNTS = np.random.default_rng(0).poisson(2, (N_SPOTS, N_GENES)).astype(np.int32)
COUNTS.flags.writeable = False


def write_matrix(path, kinds=None):
    """``filtered_feature_bc_matrix.h5`` as Space Ranger 1.0 and later write it: a CSC matrix, features x spots."""
    matrix = sp.csc_matrix(COUNTS.T)
    names = [f"GENE{i}" for i in range(N_GENES)]
    names[3] = names[2]  # symbols repeat in real references
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix")
        group["barcodes"] = np.array([f"ACGT{i:04d}-1" for i in range(N_SPOTS)], "S")
        group["data"], group["indices"], group["indptr"] = matrix.data, matrix.indices.astype(np.int64), matrix.indptr
        group["shape"] = np.array(matrix.shape, np.int32)
        features = group.create_group("features")
        features["id"] = np.array([f"ENSG{i:05d}" for i in range(N_GENES)], "S")
        features["name"] = np.array(names, "S")
        features["feature_type"] = np.array(kinds or ["Gene Expression"] * N_GENES, "S")
        features["genome"] = np.array(["GRCh38"] * N_GENES, "S")
        features["_all_tag_keys"] = np.array(["genome"], "S")
        file.attrs["chemistry_description"] = "Spatial 3' v1"


def positions(extra=3):
    """Every position of the slide, in another order than the matrix's, some outside the tissue."""
    n = N_SPOTS + extra
    table = pd.DataFrame(
        {
            "barcode": [f"ACGT{i:04d}-1" for i in range(n)],
            "in_tissue": [1] * N_SPOTS + [0] * extra,
            "array_row": np.arange(n) // 8,
            "array_col": np.arange(n) % 8,
            "pxl_row_in_fullres": 100 + 10 * (np.arange(n) // 8),
            "pxl_col_in_fullres": 500 + 7 * (np.arange(n) % 8),
        }
    )
    return table.iloc[::-1]


def write_space_ranger(folder, kind="tissue_positions.csv"):
    """Write an output folder; the version of Space Ranger decides on the file of positions."""
    from PIL import Image

    (folder / "spatial").mkdir(parents=True)
    write_matrix(folder / "filtered_feature_bc_matrix.h5")
    path, table = folder / "spatial" / kind, positions()
    if kind.endswith("parquet"):
        table.to_parquet(path, index=False)
    else:
        table.to_csv(path, index=False, header=kind == "tissue_positions.csv")
    factors = {"spot_diameter_fullres": 9.0, "tissue_hires_scalef": 0.2, "fiducial_diameter_fullres": 14.0}
    (folder / "spatial" / "scalefactors_json.json").write_text(json.dumps(factors | {"tissue_lowres_scalef": 0.05}))
    for size, side in (("hires", 200), ("lowres", 50)):
        Image.new("RGB", (side, side), "pink").save(folder / "spatial" / f"tissue_{size}_image.png")
    return folder


def table_of_counts():
    return pd.DataFrame(COUNTS, [f"s{i}" for i in range(N_SPOTS)], [f"g{i}" for i in range(N_GENES)])
