"""Other files made to do harm: models, texts, tables, stores and folders that `import` reads."""

import gzip
import json
import os
import shutil
import struct
import zlib

import anndata as ad
import child
import h5py
import numpy as np
import pytest
import yaml
from helpers import ZARR_FORMATS, make_raw, write_zarr

GB = 2**30


@pytest.fixture
def refuses(tmp_path):
    """Run a command that must end in one line with some words, quickly, small, and without a new file."""

    def run(arguments, *words, seconds=20):
        before = sorted(map(str, tmp_path.rglob("*")))
        ended = child.run([*arguments, "--quiet"], tmp_path / "said", seconds)
        assert ended.code == 2 and ended.said.count("\n") == 1, (ended.code, ended.said[:2000])
        assert ended.peak < 1.5 * GB, f"{ended.peak / GB:.1f} GiB"
        assert all(word in ended.said for word in words), ended.said
        (tmp_path / "said").unlink()
        assert sorted(map(str, tmp_path.rglob("*"))) == before
        return ended.said

    return run


@pytest.fixture
def model(imputed_run, tmp_path):
    """A copy of a model, to be spoilt."""
    shutil.copytree(imputed_run.model, tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def impute(refuses, model, imputed_run, tmp_path):
    """Run impute with the spoilt model."""
    masked = imputed_run.files["masked"]
    return lambda *words: refuses(
        ["impute", masked, model, tmp_path / "a.h5ad", "--n-samples", 2, "--device", "cpu"], *words
    )


# Models


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("!!python/object/apply:os.system ['touch {folder}/pwned']\n", "could not determine a constructor"),
        ("!!python/name:os.system\n", "could not determine a constructor"),
        ("a: &a [x, x]\nb: &b [*a, *a]\ngenes: [*b, *b]\n", "alias"),
        ("[" * 500, "32 lists within each other"),
        ("[" * 200_000, "is not a model's configuration"),  # PyYAML from 6.0.4 on refuses 1,000 by itself
        ("- " * 200_000, "32 lists within each other"),
        ("{a: " * 500, "32 lists within each other"),
        ("x: " + "y" * 2**25, "more than 16 MB"),
        ("genes: 5\nconfig: 7\nvariant: latent\n", "is not a model's configuration"),
    ],
    ids=lambda text: text[:20],
)
def test_configurations_that_are_no_plain_data(text, words, impute, model, refuses, imputed_run, tmp_path):
    (model / "config.yaml").write_text(text.replace("{folder}", str(tmp_path)))
    impute("config.yaml", words)
    refuses(["report", imputed_run.files["imputed"], tmp_path / "a.html", "--model-dir", model], "not a complete model")
    refuses(["select-hvg", imputed_run.files["masked"], tmp_path / "a.h5ad", "--genes", model], "not a model's")
    assert not (tmp_path / "pwned").exists()


def test_a_configuration_of_a_gigabyte(impute, model):
    with open(model / "config.yaml", "wb") as file:
        file.truncate(GB)
    impute("more than 16 MB")


@pytest.mark.parametrize("size", [10**6, 10**9, 10**18])
def test_configurations_that_ask_for_huge_networks(size, impute, model):
    content = yaml.safe_load((model / "config.yaml").read_text())
    network = next(value for value in content["config"].values() if isinstance(value, dict))
    assert any(isinstance(value, int) for value in network.values())
    for part in content["config"].values():
        if isinstance(part, dict):
            part.update({key: size for key, value in part.items() if type(value) is int and key != "epochs"})
    (model / "config.yaml").write_text(yaml.safe_dump(content))
    impute("does not fit")


@pytest.mark.parametrize(
    "header",
    [
        {"a": {"dtype": "F32", "shape": [2**40, 2**20], "data_offsets": [0, 2**62]}},
        {"a": {"dtype": "F32", "shape": [2**33], "data_offsets": [0, 16]}},
        {"a": {"dtype": "F32", "shape": [4], "data_offsets": [8, 24]}},
        {"a": {"dtype": "O", "shape": [4], "data_offsets": [0, 16]}},
        {"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}},
        [],
    ],
    ids=str,
)
def test_weights_whose_header_lies(header, impute, model):
    text = json.dumps(header).encode()
    (model / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(16))
    impute("model.safetensors does not fit")


def test_weights_that_are_a_pickle_are_not_loaded(impute, model, tmp_path):
    (model / "model.safetensors").write_bytes(b"cos\nsystem\n(S'touch %s/pwned'\ntR." % os.fsencode(tmp_path))
    impute("model.safetensors does not fit")
    assert not (tmp_path / "pwned").exists()


# What h5ad files may say


def spoil(change):
    def write(path):
        raw = make_raw()
        raw.X.sort_indices()
        raw.write_h5ad(path)
        with h5py.File(path, "r+") as file:
            change(file)

    return write


def put(key, place, value):
    def change(file):
        file[key][place] = value

    return spoil(change)


def renamed(place, name):
    def write(path):
        raw = make_raw()
        names = list(getattr(raw, place))
        names[3] = name
        setattr(raw, place, names)
        raw.write_h5ad(path)

    return write


CONTENTS = {
    "index past the genes": put("X/indices", 5, 40),
    "index far past the genes": put("X/indices", 5, 2**31 - 1),
    "index below 0": put("X/indices", 5, -1),
    "rows that go back": put("X/indptr", 3, 10_000),
    "rows that begin below 0": put("X/indptr", 0, -5),
    "rows that end too late": put("X/indptr", -1, 2**30),
    "infinite value": put("X/data", 0, np.inf),
    "negative value": put("X/data", 0, -1),
    "infinite place": put("obsm/spatial", (3, 1), np.inf),
    "name with a new line": renamed("obs_names", "a\nb"),
    "name that moves the cursor": renamed("var_names", "\x1b[2J"),
    "name that turns the line round": renamed("var_names", "a\u202eb"),
    "same spot twice": renamed("obs_names", "s0"),
    "same gene twice": renamed("var_names", "g0"),
    "records that are none": spoil(lambda file: file.create_dataset("uns/stmcdi", data=5)),
    "category past the last": put("obs/section/codes", 0, 100),
}


@pytest.mark.parametrize("case", CONTENTS)
def test_contents_no_step_can_work_with(case, refuses, tmp_path):
    CONTENTS[case](tmp_path / "in.h5ad")
    for step, outputs in (("normalize", 1), ("join", 1), ("hold-out", 2)):
        if step == "hold-out" and case in ("infinite value", "negative value", "infinite place"):
            continue  # a matter of normalize
        if step == "join" and "value" in case:
            continue  # likewise
        said = refuses([step, tmp_path / "in.h5ad", *(tmp_path / f"{i}.h5ad" for i in range(outputs))])
        assert "in.h5ad" in said or (step == "join" and "tissue 1" in said), said
        assert said[:-1].isprintable()


def test_nan_is_a_missing_value_and_no_fault(tmp_path):
    put("X/data", 0, np.nan)(tmp_path / "in.h5ad")
    assert child.run(["normalize", tmp_path / "in.h5ad", tmp_path / "a.h5ad"], tmp_path / "said").code == 0
    assert ad.read_h5ad(tmp_path / "a.h5ad").layers["missing"].nnz == 1


# Stores, folders and tables


@pytest.fixture(params=ZARR_FORMATS)
def store(request, tmp_path):
    """An AnnData store in zarr, of either format."""
    write_zarr(make_raw(), tmp_path / "in.zarr", request.param)
    return tmp_path / "in.zarr"


def edit_arrays(store, change):
    for path in store.rglob("*"):
        if path.name in (".zarray", "zarr.json", ".zmetadata"):
            content = json.loads(path.read_text())
            for part in [content, *content.get("metadata", {}).values()]:
                if "shape" in part and ("dtype" in part or "data_type" in part):
                    change(part)
            path.write_text(json.dumps(content))
    for path in store.glob(".zmetadata"):
        path.unlink()


def test_zarr_that_unpickles_is_not_read(store, refuses, tmp_path):
    def change(array):
        array["codecs" if "codecs" in array else "filters"] = [{"id": "pickle", "name": "pickle", "protocol": 5}]

    edit_arrays(store, change)
    refuses(["import", store, tmp_path / "a.h5ad"], "expected a known codec, found pickle")


def test_zarr_that_declares_more_than_memory_is_not_read(store, refuses, tmp_path):
    edit_arrays(store, lambda array: array.update(shape=[2**40 for _ in array["shape"]]))
    refuses(["import", store, tmp_path / "a.h5ad"], "GiB of memory")


def test_zarr_with_huge_chunks_is_not_read(store, refuses, tmp_path):
    def change(array):
        if "chunks" in array:
            array["chunks"] = [2**20 for _ in array["shape"]]
        else:
            array["chunk_grid"]["configuration"]["chunk_shape"] = [2**20 for _ in array["shape"]]
        array["shape"] = [2**10 for _ in array["shape"]]

    edit_arrays(store, change)
    refuses(["import", store, tmp_path / "a.h5ad"], "in.zarr")


def test_zarr_with_links_is_not_read(store, refuses, tmp_path):
    (store / "uns" / "outside").symlink_to("/etc")
    refuses(["import", store, tmp_path / "a.h5ad"], "expected no links")


@pytest.fixture
def matrix_folder(tmp_path):
    """Space Ranger's matrix as a folder of texts."""
    folder = tmp_path / "outs" / "filtered_feature_bc_matrix"
    folder.mkdir(parents=True)
    (folder / "features.tsv").write_text("id1\tg1\tGene Expression\nid2\tg2\tGene Expression\n")
    (folder / "barcodes.tsv").write_text("AAA-1\nCCC-1\n")
    spatial = tmp_path / "outs" / "spatial"
    spatial.mkdir()
    (spatial / "tissue_positions_list.csv").write_text("AAA-1,1,0,0,5,5\nCCC-1,1,0,1,5,9\n")
    return folder


@pytest.mark.parametrize(
    "header", ["2 2 1000000000000", f"{2**40} 2 1", f"2 {2**40} 1", "-1 2 1", "2 2 -5", "2 2 1\n5 5 1"]
)
def test_matrices_whose_header_lies(header, matrix_folder, refuses, tmp_path):
    text = f"%%MatrixMarket matrix coordinate integer general\n{header}\n1 1 5\n"
    (matrix_folder / "matrix.mtx.gz").write_bytes(gzip.compress(text.encode()))
    refuses(["import", tmp_path / "outs", tmp_path / "a.h5ad"], "not a matrix of Space Ranger")


@pytest.mark.parametrize(
    "change", [{"indices": [0, 9]}, {"indptr": [0, 9, 2]}, {"shape": [2**40, 2]}, {"data": ["a", "b"]}]
)
def test_space_rangers_file_that_points_outside(change, matrix_folder, refuses, tmp_path):
    shutil.rmtree(matrix_folder)
    parts = {"data": [1, 2], "indices": [0, 1], "indptr": [0, 1, 2], "shape": [2, 2], "barcodes": [b"AAA-1", b"CCC-1"]}
    with h5py.File(tmp_path / "outs" / "filtered_feature_bc_matrix.h5", "w") as file:
        for name, value in {**parts, **change}.items():
            file[f"matrix/{name}"] = value
        for name, value in {"id": [b"a", b"b"], "name": [b"a", b"b"], "feature_type": [b"Gene Expression"] * 2}.items():
            file[f"matrix/features/{name}"] = value
    refuses(["import", tmp_path / "outs", tmp_path / "a.h5ad"], "filtered_feature_bc_matrix.h5")


def test_pictures_made_to_fill_the_memory_are_left_out(matrix_folder, tmp_path):
    (matrix_folder / "matrix.mtx").write_text("%%MatrixMarket matrix coordinate integer general\n2 2 2\n1 1 5\n2 2 1\n")
    (tmp_path / "outs/spatial/scalefactors_json.json").write_text("{}")

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0))
    (tmp_path / "outs/spatial/tissue_hires_image.png").write_bytes(
        b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(2**20))) + chunk(b"IEND", b"")
    )
    ended = child.run(["import", tmp_path / "outs", tmp_path / "a.h5ad"], tmp_path / "said")
    assert ended.code == 0 and ended.peak < 1.5 * GB, ended
    assert "spatial" not in ad.read_h5ad(tmp_path / "a.h5ad").uns


def test_a_table_that_unpacks_to_more_than_memory(refuses, tmp_path, monkeypatch):
    """A hundred megabytes of zeros stand for more; the process may take a quarter of what there is."""
    monkeypatch.setenv("PYTHONHASHSEED", "0")
    line = b"s,1,2" + b",0" * 50_000 + b"\n"
    with gzip.open(tmp_path / "in.csv.gz", "wb", compresslevel=1) as file:
        file.write(b"n,x,y" + b"".join(b",g%d" % i for i in range(50_000)) + b"\n")
        for number in range(20):
            file.write(b"%d" % number + line + (b'"' if number == 19 else b""))
    refuses(["import", tmp_path / "in.csv.gz", tmp_path / "a.h5ad"], "in.csv.gz", seconds=60)


# Texts


def test_endless_and_odd_texts(refuses, tmp_path, imputed_run):
    source = imputed_run.files["masked"]
    for place in ("/dev/zero", tmp_path):
        refuses(["select-hvg", source, tmp_path / "a.h5ad", "--genes", place], "cannot be read")
        refuses(["select-hvg", source, tmp_path / "a.h5ad", "--config", place], "cannot be read as YAML")
        refuses(["check-samplesheet", place, tmp_path / "a.csv"], "cannot be read as CSV")
    with open(tmp_path / "huge", "wb") as file:
        file.truncate(GB)
    for arguments in (
        ["select-hvg", source, tmp_path / "a.h5ad", "--genes", tmp_path / "huge"],
        ["select-hvg", source, tmp_path / "a.h5ad", "--config", tmp_path / "huge"],
        ["check-samplesheet", tmp_path / "huge", tmp_path / "a.csv"],
    ):
        refuses(arguments, "16 MB")
