"""Files as the platforms write them, with 40 spots and 25 genes."""

import gzip
import json
import zipfile

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
    return path


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


def write_mex(folder, names=("features.tsv", "barcodes.tsv", "matrix.mtx"), columns=3):
    """The matrix as texts, as it is after unpacking."""
    from scipy.io import mmwrite

    folder.mkdir(exist_ok=True)
    rows = [(f"ENSG{i:05d}", f"GENE{i}", "Gene Expression")[:columns] for i in range(N_GENES)]
    (folder / names[0]).write_text("".join("\t".join(row) + "\n" for row in rows))
    (folder / names[1]).write_text("".join(f"ACGT{i:04d}-1\n" for i in range(N_SPOTS)))
    mmwrite(folder / names[2], sp.coo_matrix(COUNTS.T))


def write_segmented(folder):
    """``segmented_outputs``: every cell is a triangle, wound either way, with its centre at (number, 10)."""
    folder.mkdir(parents=True)
    with h5py.File(write_matrix(folder / "filtered_feature_cell_matrix.h5"), "r+") as file:
        del file["matrix/barcodes"]
        file["matrix/barcodes"] = np.array([f"cellid_{i + 1:09d}-1" for i in range(N_SPOTS)], "S")
    features = []
    for number in range(N_SPOTS, 0, -1):
        ring = [[number - 1, 9], [number + 1, 9], [number, 12], [number - 1, 9]]
        geometry = {"type": "Polygon", "coordinates": [ring if number % 2 else ring[::-1]]}
        features.append({"type": "Feature", "geometry": geometry, "properties": {"cell_id": number}})
    (folder / "cell_segmentations.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return folder


def table_of_counts():
    return pd.DataFrame(COUNTS, [f"s{i}" for i in range(N_SPOTS)], [f"g{i}" for i in range(N_GENES)])


# Imaging platforms: the last two columns count control probes.

XY = np.random.default_rng(1).uniform(0, 500, (N_SPOTS, 2)).round(3)
XY.flags.writeable = False
GENES = [f"G{i}" for i in range(N_GENES - 2)]


def write_xenium(folder, matrix="h5", cells="csv.gz"):
    """Xenium's output: ``cell_feature_matrix`` in HDF5 or zipped zarr, and the table of cells."""
    folder.mkdir(parents=True)
    names = [cell_name(i) for i in range(N_SPOTS)]
    kinds = ["Gene Expression"] * len(GENES) + ["Negative Control Probe", "Unassigned Codeword"]
    features = [*GENES, "NegControlProbe_00042", "UnassignedCodeword_0001"]
    ids = [f"ENSG{i:05d}" for i in range(N_GENES)]
    if matrix == "h5":
        csc = sp.csc_matrix(COUNTS.T)
        with h5py.File(folder / "cell_feature_matrix.h5", "w") as file:
            group = file.create_group("matrix")
            group["barcodes"] = np.array(names, "S")
            group["data"], group["indices"], group["indptr"] = csc.data, csc.indices.astype(np.int64), csc.indptr
            group["shape"] = np.array(csc.shape, np.int32)
            for key, value in {"id": ids, "name": features, "feature_type": kinds}.items():
                group[f"features/{key}"] = np.array(value, "S")
    else:
        csr = sp.csr_matrix(COUNTS.T)
        numbers = np.array([(CELL + i, 1) for i in range(N_SPOTS)])
        types = ["gene"] * len(GENES) + ["negative_control_probe", "unassigned_codeword"]
        attributes = {"feature_ids": ids, "feature_keys": features, "feature_types": types, "number_cells": N_SPOTS}
        with zipfile.ZipFile(folder / "cell_feature_matrix.zarr.zip", "w") as archive:
            archive.writestr(".zgroup", '{"zarr_format": 2}')
            archive.writestr("cell_features/.zgroup", '{"zarr_format": 2}')
            archive.writestr("cell_features/.zattrs", json.dumps(attributes))
            arrays = {"data": csr.data, "indices": csr.indices, "indptr": csr.indptr, "cell_id": numbers}
            for name, values in arrays.items():
                write_zarr_array(archive, f"cell_features/{name}", values.astype(np.uint32))
    table = pd.DataFrame({"cell_id": names, "x_centroid": XY[:, 0], "y_centroid": XY[:, 1], "cell_area": 50.0})
    if cells == "parquet":
        table.to_parquet(folder / "cells.parquet", index=False)
    else:
        table.to_csv(folder / f"cells.{cells}", index=False)
    return folder


CELL = 0x55AEF010


def cell_name(number):
    """Xenium's names: hexadecimal digits are written as the letters from a to p."""
    return f"{CELL + number:08x}".translate(str.maketrans("0123456789abcdef", "abcdefghijklmnop")) + "-1"


def write_zarr_array(archive, name, values):
    """An array of zarr's format 2 in one chunk, not compressed."""
    shape = list(values.shape)
    kind = values.dtype.descr if values.dtype.names else values.dtype.str
    about = {"zarr_format": 2, "shape": shape, "chunks": shape, "dtype": kind, "order": "C"}
    about |= {"compressor": None, "filters": None, "fill_value": None}
    archive.writestr(f"{name}/.zarray", json.dumps(about))
    archive.writestr(f"{name}/{'.'.join('0' * values.ndim)}", values.tobytes())


def write_merscope(folder):
    """MERSCOPE's tables; cells have numbers of 39 digits."""
    folder.mkdir(parents=True)
    names = [str(110883424764611924400221639916314253469 + i) for i in range(N_SPOTS)]
    counts = pd.DataFrame(COUNTS, pd.Index(names, name="cell"), [*GENES, "Blank-1", "Blank-2"])
    counts.to_csv(folder / "cell_by_gene.csv")
    cells = {"fov": np.arange(N_SPOTS) // 20, "volume": 100.5, "center_x": XY[:, 0], "center_y": XY[:, 1]}
    pd.DataFrame(cells | {"min_x": XY[:, 0] - 1, "max_x": XY[:, 0] + 1}, names)[::-1].to_csv(
        folder / "cell_metadata.csv"
    )
    return folder


def write_cosmx(folder, ending="csv"):
    """CosMx's flat files: two fields of view, each with a row 0 for what lies outside of cells."""
    folder.mkdir(parents=True)
    key = pd.DataFrame({"fov": 1 + np.arange(N_SPOTS) // 20, "cell_ID": 1 + np.arange(N_SPOTS) % 20})
    counts = pd.concat([key, pd.DataFrame(COUNTS, columns=[*GENES, "NegPrb3", "SystemControl1"])], axis=1)
    outside = counts.iloc[[0, 20]].assign(cell_ID=0)
    pd.concat([outside, counts]).to_csv(folder / f"Run_exprMat_file.{ending}", index=False)
    local = {"CenterX_local_px": XY[:, 0] % 100, "CenterY_local_px": XY[:, 1] % 100}
    places = {"CenterX_global_px": XY[:, 0], "CenterY_global_px": XY[:, 1]}
    names = [f"c_1_{fov}_{cell}" for fov, cell in key.to_numpy()]
    key.assign(Area=500, **local, **places, cell=names).to_csv(folder / f"Run_metadata_file.{ending}", index=False)
    return folder


def write_gem(path, version="0.1"):
    """Stereo-seq's GEM: a line per gene and spot of the chip; version 0.2 has symbols as well."""
    lines = [f"#FileFormat=GEMv{version}\n#BinSize=1\n#Stereo-seqChip=SS2\n#OffsetX=0\n#OffsetY=0\n"] * (version != "0")
    lines.append("geneID\tgeneName\tx\ty\tMIDCount\tExonCount\n" if version == "0.2" else "geneID\tx\ty\tMIDCounts\n")
    for gene in range(N_GENES):
        for spot in np.flatnonzero(COUNTS[:, gene]):
            name = f"ENSG{gene}\tG{gene}" if version == "0.2" else f"G{gene}"
            count = f"{COUNTS[spot, gene]}\t0" if version == "0.2" else COUNTS[spot, gene]
            lines.append(f"{name}\t{100 + spot % 8}\t{200 + spot // 8}\t{count}\n")
    with gzip.open(path, "wt") as file:
        file.writelines(lines)
    return path


def write_gef(path, version=4):
    """Stereo-seq's GEF, in which the counts of a gene lie together; files before version 4 have one name per gene."""
    gene, spot = np.nonzero(COUNTS.T)
    table = np.zeros(len(gene), [("x", "<i4"), ("y", "<i4"), ("count", "u1")])
    table["x"], table["y"], table["count"] = 100 + spot % 8, 200 + spot // 8, COUNTS[spot, gene]
    names = _gef_genes(version)
    names["count"] = (COUNTS > 0).sum(0)
    names["offset"] = np.cumsum(names["count"]) - names["count"]
    with h5py.File(path, "w") as file:
        file["geneExp/bin1/expression"], file["geneExp/bin1/gene"] = table, names
        file["geneExp/bin1/expression"].attrs["resolution"] = 500
        file["geneExp/bin50/expression"], file["wholeExp/bin1"] = table[:3], np.zeros((4, 4))
    return path


def write_cell_gef(path, version=4):
    """Cells of a GEF: each has a part of the table of counts."""
    kinds = [("id", "<u4"), ("x", "<i4"), ("y", "<i4"), ("offset", "<u4"), ("geneCount", "<u2"), ("area", "<u2")]
    cells, (spot, gene) = np.zeros(N_SPOTS, kinds), np.nonzero(COUNTS)
    cells["id"], cells["x"], cells["y"], cells["area"] = 7 + np.arange(N_SPOTS), *XY.astype(int).T, 300
    cells["geneCount"] = (COUNTS > 0).sum(1)
    cells["offset"] = np.cumsum(cells["geneCount"]) - cells["geneCount"]
    found = np.zeros(len(gene), [("geneID", "<u4"), ("count", "<u2")])
    found["geneID"], found["count"] = gene, COUNTS[spot, gene]
    with h5py.File(path, "w") as file:
        file["cellBin/cell"], file["cellBin/cellExp"], file["cellBin/gene"] = cells, found, _gef_genes(version)
    return path


def _gef_genes(version):
    one = [("gene", "S32")] if version < 4 else [("geneID", "S64"), ("geneName", "S64")]
    genes = np.zeros(N_GENES, [*one, ("offset", "<u4"), ("count", "<u4")])
    for name, prefix in {"gene": "G", "geneID": "ENSG", "geneName": "G"}.items():
        if name in genes.dtype.names:
            genes[name] = [f"{prefix}{i}" for i in range(N_GENES)]
    return genes


def write_loom(path):
    """Loom of version 3: genes in rows."""
    text = h5py.string_dtype()
    with h5py.File(path, "w") as file:
        file.create_dataset("matrix", data=COUNTS.T.astype(np.float32), chunks=(8, 8), compression="gzip")
        file["layers/spliced"] = COUNTS.T // 2
        file.create_dataset("row_attrs/Gene", data=[f"G{i}" for i in range(N_GENES)], dtype=text)
        file.create_dataset("row_attrs/Accession", data=[f"ENSG{i}" for i in range(N_GENES)], dtype=text)
        file.create_dataset("col_attrs/CellID", data=[f"c{i}" for i in range(N_SPOTS)], dtype=text)
        file["col_attrs/X"], file["col_attrs/Y"] = XY[:, 0], XY[:, 1]
        file["col_attrs/embedding"] = np.zeros((N_SPOTS, 2))
        file.create_dataset("attrs/LOOM_SPEC_VERSION", data="3.0.0", dtype=text)
        for empty in ("row_graphs", "col_graphs"):
            file.create_group(empty)
    return path
