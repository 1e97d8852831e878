"""Counts and coordinates as CSV or TSV."""

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
    xy.write_text("name;x;y\ns0;1;2\n")
    assert "found one column; rename it" in refused("import", counted, out, "--coordinates", xy)
    table_of_counts().assign(note="x", x=1.0, y=2.0).to_csv(counted)
    assert "expected numbers only" in refused("import", counted, out)
