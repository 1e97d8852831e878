"""Counts and coordinates as CSV or TSV."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from helpers import dense
from platforms import COUNTS, N_GENES, N_SPOTS, table_of_counts

import stmcdi_cli as stmcdi


@pytest.mark.parametrize("ending", ["csv", "tsv", "csv.gz", "tsv.gz"])
@pytest.mark.parametrize("way", ["spots in rows", "genes in rows"])
def test_tables_either_way_round_with_coordinates(ending, way, tmp_path):
    table = table_of_counts()
    sep = "," if ending.startswith("csv") else "\t"
    (table if way == "spots in rows" else table.T).to_csv(tmp_path / f"counts.{ending}", sep=sep)
    xy = pd.DataFrame({"x": np.arange(N_SPOTS), "y": 3.5}, table.index)
    xy.iloc[::-1].to_csv(tmp_path / "xy.csv")
    adata = stmcdi.import_(tmp_path / f"counts.{ending}", coordinates=tmp_path / "xy.csv")
    np.testing.assert_array_equal(dense(adata.X), COUNTS)
    np.testing.assert_array_equal(adata.obsm["spatial"], xy)
    assert list(adata.obs_names) == list(table.index) and list(adata.var_names) == list(table.columns)


@pytest.mark.parametrize("names", ["{}x{}", "slide1_{}x{}", "{}.5x{}.25"])
def test_places_in_the_names_of_spots(names, tmp_path):
    table = table_of_counts()
    table.index = [names.format(i % 8, i // 8) for i in range(N_SPOTS)]
    for way, content in (("rows", table), ("columns", table.T)):
        content.to_csv(tmp_path / f"{way}.tsv", sep="\t")
        adata = stmcdi.import_(tmp_path / f"{way}.tsv")
        np.testing.assert_array_equal(adata.obsm["spatial"].astype(int)[9], [1, 1])
        np.testing.assert_array_equal(dense(adata.X), COUNTS)


def test_places_in_columns(tmp_path):
    table = table_of_counts()
    table.insert(2, "y", np.arange(N_SPOTS) * 2.0)
    table.insert(0, "x", 1.0)
    table.to_csv(tmp_path / "counts.csv")
    adata = stmcdi.import_(tmp_path / "counts.csv")
    assert adata.n_vars == N_GENES and adata.obsm["spatial"][3].tolist() == [1, 6]


def test_refusals(refused, tmp_path):
    out, counted, xy = tmp_path / "out.h5ad", tmp_path / "counts.csv", tmp_path / "xy.csv"
    table_of_counts().to_csv(counted)
    assert "expected coordinates in columns x and y or in names such as 12x7" in refused("import", counted, out)
    xy.write_text("name,x,y\ns0,1,2\n")
    assert "expected a row for every spot" in refused("import", counted, out, "--coordinates", xy)
    xy.write_text("name,x,y\ns0,1,2\ns0,1,2\n")
    assert "expected each spot once" in refused("import", counted, out, "--coordinates", xy)
    xy.write_text("name,a,b,c\ns0,1,2,3\n")
    assert "expected columns x and y, found a, b, c" in refused("import", counted, out, "--coordinates", xy)
    xy.write_text("name\ns0\n")
    assert "expected columns separated by commas, semicolons or tabs, found one; write it so" in refused(
        "import", counted, out, "--coordinates", xy
    )
    for text in (",x,y,g1\n", ",x,y,g1\n\n"):
        counted.write_text(text)
        assert "expected a table, found no rows; give the whole file" in refused("import", counted, out)
    counted.write_text(",x,y,g1\na,1,2,3,4\nb,1,2,3,4\n")
    assert "cannot be read as a table" in refused("import", counted, out)
    table = table_of_counts().assign(x=1.0, y=2.0).astype(object)
    table.iloc[3, 4] = "many"
    table.to_csv(counted)
    line = refused("import", counted, out)
    assert "expected numbers only, found could not convert string to float: 'many' in column g4" in line


@pytest.mark.parametrize("separator", [",", ";", "\t", " "])
@pytest.mark.parametrize("ending", ["csv", "txt", "data"])
def test_any_separator_whatever_the_ending(separator, ending, tmp_path):
    table = table_of_counts().assign(x=1.5, y=np.arange(N_SPOTS))
    table.to_csv(tmp_path / f"counts.{ending}", sep=separator, decimal="," if separator == ";" else ".")
    adata = stmcdi.import_(tmp_path / f"counts.{ending}", quiet=True)
    np.testing.assert_array_equal(dense(adata.X), COUNTS)
    assert adata.obsm["spatial"][4].tolist() == [1.5, 4]


@pytest.mark.parametrize("first", ["g0", "x"])
def test_a_header_without_the_corner_as_r_writes_it(first, tmp_path):
    table = table_of_counts().assign(x=1.0, y=2.0)
    table = table[["x", "y", *table.columns[:-2]]] if first == "x" else table
    (tmp_path / "counts.tsv").write_text(table.to_csv(sep="\t").lstrip("\t"))
    adata = stmcdi.import_(tmp_path / "counts.tsv", quiet=True)
    np.testing.assert_array_equal(dense(adata.X), COUNTS)
    assert adata.obs_names[0] == "s0" and adata.var_names[0] == "g0"


@pytest.mark.parametrize("way", ["spots in rows", "genes in rows"])
def test_names_are_text(way, tmp_path, caplog):
    caplog.set_level("INFO")
    spots = ["NA", "nan", "0001", "1", "1.0", "110883424764611924400221639916314253469", "NULL", "a", "a"]
    genes = ["NA", "None", "007", "7", "1e5", "TRUE", "B", "B", ""]
    counts = COUNTS[:9, :9]
    table = pd.DataFrame(counts, spots, genes)
    places = pd.DataFrame({"x": 1.0, "y": np.arange(9)}, spots)
    if way == "spots in rows":
        table = pd.concat([table, places], axis=1)
    else:
        table = pd.concat([table.T, places.T])
    table.to_csv(tmp_path / "counts.csv")
    adata = stmcdi.import_(tmp_path / "counts.csv")
    assert list(adata.obs_names) == [*spots[:-1], "a-1"] and list(adata.var_names) == [*genes[:-2], "B-1", ""]
    np.testing.assert_array_equal(dense(adata.X), counts)
    assert adata.obsm["spatial"][8].tolist() == [1, 8]
    assert "import: renamed repeated genes: B" in caplog.messages
    assert "import: renamed repeated spots: a" in caplog.messages


def test_columns_about_the_spot_are_no_genes(tmp_path, caplog):
    caplog.set_level("INFO")
    table = table_of_counts()
    about = {"in_tissue": 1, "array_row": np.arange(40) // 8, "array_col": np.arange(40) % 8, "z": 5.0}
    about |= {
        "x": np.arange(40) * 0.123456789,
        "y": 2.0,
        "total_counts": COUNTS.sum(1),
        "pct_counts_mt": 0.5,
        "note": "n",
    }
    pd.DataFrame(about, table.index).join(table).to_csv(tmp_path / "counts.csv")
    adata = stmcdi.import_(tmp_path / "counts.csv")
    np.testing.assert_array_equal(dense(adata.X), COUNTS)
    assert list(adata.obs) == list(about) and adata.obs["total_counts"].tolist() == COUNTS.sum(1).tolist()
    np.testing.assert_allclose(adata.obsm["spatial"][:, 0], about["x"], rtol=1e-14)
    assert f"import: columns that are no genes are in obs: {', '.join(about)}" in caplog.messages
    assert "import: coordinates are those of obs['x', 'y']" in caplog.messages


def test_rows_about_the_spot_and_columns_about_the_gene(tmp_path, caplog):
    caplog.set_level("INFO")
    table = table_of_counts().T
    table.insert(0, "symbol", [f"S{i}" for i in range(N_GENES)])
    places = pd.DataFrame({"x": np.arange(40) * 0.123456789, "y": 2.0, "total_counts": 7}, table.columns[1:]).T
    pd.concat([places, table]).to_csv(tmp_path / "counts.csv")
    adata = stmcdi.import_(tmp_path / "counts.csv")
    np.testing.assert_array_equal(dense(adata.X), COUNTS)
    np.testing.assert_allclose(adata.obsm["spatial"][:, 0], np.arange(40) * 0.123456789, rtol=1e-14)
    assert adata.obs["total_counts"].tolist() == [7] * 40 and adata.var["symbol"].iloc[4] == "S4"
    assert "import: rows that are no genes are in obs: x, y, total_counts" in caplog.messages


def test_slides_in_the_names_of_spots_are_sections(tmp_path, caplog, h5ad):
    caplog.set_level("INFO")
    table = table_of_counts()
    table.index = [f"{slide}_{i % 5}x{i // 5}" for slide in ("A1", "B 2") for i in range(N_SPOTS // 2)]
    table.to_csv(tmp_path / "counts.csv")
    adata = stmcdi.import_(tmp_path / "counts.csv")
    assert adata.obs["section"].tolist() == ["A1"] * 20 + ["B 2"] * 20
    assert "import: obs['section'] has the slides that the names of spots begin with" in caplog.messages
    path = h5ad(adata)
    built = stmcdi.build_graph(stmcdi.normalize(ad.read_h5ad(path)))
    source, target = built.obsp["spatial_connectivities"].nonzero()
    assert len(source) and (source // 20 == target // 20).all()
    assert "build-graph: sections are those of obs['section']" in caplog.messages
    joined = stmcdi.join([adata, adata])
    assert sorted(joined.obs["stmcdi_section"].unique()) == ["1:A1", "1:B 2", "2:A1", "2:B 2"]


def test_a_large_table_is_read_a_few_rows_at_a_time(tmp_path, monkeypatch):
    from stmcdi_cli.io.readers import delimited

    monkeypatch.setattr(delimited, "CHUNK_ENTRIES", 100)
    table = table_of_counts().assign(x=1.0, y=2.0)
    table.iloc[35, 3] = np.nan
    table.to_csv(tmp_path / "counts.csv")
    adata = stmcdi.import_(tmp_path / "counts.csv", quiet=True)
    counts = COUNTS.astype(float)
    counts[35, 3] = np.nan
    np.testing.assert_array_equal(dense(adata.X), counts)


def test_columns_that_are_named_are_coordinates(tmp_path):
    table_of_counts().assign(depth=1.5, width=np.arange(N_SPOTS), flag=True).to_csv(tmp_path / "counts.csv")
    adata = stmcdi.import_(tmp_path / "counts.csv", coordinates="depth,width", quiet=True)
    assert adata.obsm["spatial"][4].tolist() == [1.5, 4] and list(adata.obs) == ["depth", "width", "flag"]
    np.testing.assert_array_equal(dense(adata.X), COUNTS)


def test_columns_of_mixed_kinds_can_be_written(tmp_path, cli):
    note = [True, None, "x", 3] * (N_SPOTS // 4)
    table = table_of_counts().assign(x=1.0, y=np.arange(N_SPOTS), sample=note, region=[None] * N_SPOTS)
    table.to_csv(tmp_path / "counts.csv")
    assert cli("import", tmp_path / "counts.csv", tmp_path / "a.h5ad").exit_code == 0
    obs = ad.read_h5ad(tmp_path / "a.h5ad").obs
    assert obs["sample"].iloc[[0, 2, 3]].tolist() == ["True", "x", "3"] and obs["sample"].isna().iloc[1]


def test_coordinates_that_are_nowhere_are_named_in_the_refusal(tmp_path, refused):
    table_of_counts().to_csv(tmp_path / "counts.csv")
    line = refused("import", tmp_path / "counts.csv", tmp_path / "a.h5ad", "--coordinates", "places.csv")
    assert (
        "expected places.csv to be a file, a key of obsm or columns of obs, found obsm with none and obs with" in line
    )


def test_a_table_without_names_of_spots(tmp_path):
    table = table_of_counts()
    table.insert(0, "x", 1.5)
    table.assign(y=np.arange(N_SPOTS)).to_csv(tmp_path / "counts.csv", index=False)
    adata = stmcdi.import_(tmp_path / "counts.csv", quiet=True)
    np.testing.assert_array_equal(dense(adata.X), COUNTS)
    assert adata.obsm["spatial"][4].tolist() == [1.5, 4] and adata.obs_names[4] == "4"


@pytest.mark.parametrize("way", ["spots in rows", "genes in rows"])
def test_genes_of_flies_are_genes(way, tmp_path):
    table = table_of_counts()
    table.columns = ["y", "z", "w", *table.columns[3:]]
    table.index = [f"{i % 8}x{i // 8}" for i in range(N_SPOTS)]
    (table if way == "spots in rows" else table.T).to_csv(tmp_path / "counts.csv")
    adata = stmcdi.import_(tmp_path / "counts.csv", quiet=True)
    np.testing.assert_array_equal(dense(adata.X), COUNTS)
    assert list(adata.var_names[:3]) == ["y", "z", "w"]


def test_control_probes_of_a_table_are_left_out(tmp_path, caplog):
    caplog.set_level("INFO")
    table = table_of_counts().rename(columns={"g3": "Blank-3", "g5": "NegControlProbe_00042"}).assign(x=1.0, y=2.0)
    table.to_csv(tmp_path / "counts.csv")
    assert stmcdi.import_(tmp_path / "counts.csv").n_vars == N_GENES - 2
    assert "import: left out 2 control probes and blanks: Blank-3, NegControlProbe_00042" in caplog.messages


def test_coordinates_without_names_of_columns(tmp_path, refused):
    """The first line is a spot, not a header."""
    table_of_counts().to_csv(tmp_path / "counts.csv")
    xy = pd.DataFrame({"x": np.arange(N_SPOTS), "y": 3.5}, table_of_counts().index)
    xy.to_csv(tmp_path / "xy.csv", header=False)
    line = refused("import", tmp_path / "counts.csv", tmp_path / "a.h5ad", "--coordinates", tmp_path / "xy.csv")
    assert "expected names of columns in the first line, as spot,x,y, found 0, 3.5; put such a line before it" in line
    (tmp_path / "xy.csv").write_text("spot,x,y\n" + (tmp_path / "xy.csv").read_text())
    found = stmcdi.import_(tmp_path / "counts.csv", coordinates=tmp_path / "xy.csv", quiet=True)
    np.testing.assert_array_equal(found.obsm["spatial"], xy)
    xy.set_axis([0, 1], axis=1).to_csv(tmp_path / "xy.csv")  # as pandas names columns of an array
    found = stmcdi.import_(tmp_path / "counts.csv", coordinates=tmp_path / "xy.csv", quiet=True)
    np.testing.assert_array_equal(found.obsm["spatial"], xy)


def test_a_column_that_may_be_no_gene_is_named(tmp_path, refused):
    table_of_counts().assign(x=1.5, y=np.arange(N_SPOTS), mt_frac=0.25).to_csv(tmp_path / "counts.csv")
    line = refused("import", tmp_path / "counts.csv", tmp_path / "a.h5ad")
    assert "found 0.25 in mt_frac alone (if that is no gene, leave it out); round corrected counts" in line
