import csv
import re

import pytest
from helpers import make_raw

import stmcdi_cli as stmcdi


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "data").mkdir()
    for name in ("a", "b"):
        make_raw(5, 5).write_h5ad(tmp_path / "data" / f"{name}.h5ad")
    return tmp_path


def sheet(folder, text, encoding="utf-8"):
    path = folder / "samples.csv"
    path.write_bytes(text.encode(encoding))
    return path


def checked(folder, text, **options):
    stmcdi.check_samplesheet(sheet(folder, text), folder / "valid.csv", **options)
    with open(folder / "valid.csv") as file:
        return list(csv.DictReader(file))


def test_paths_become_absolute_and_columns_complete(folder):
    rows = checked(folder, "sample,h5ad\nA,data/a.h5ad\nB.2,./data/b.h5ad\n")
    assert rows == [
        {"sample": "A", "h5ad": str(folder / "data/a.h5ad"), "section_key": "", "group": ""},
        {"sample": "B.2", "h5ad": str(folder / "data/b.h5ad"), "section_key": "", "group": ""},
    ]


def test_optional_columns_in_any_order_with_spaces_bom_and_windows_line_ends(folder):
    text = "\ufeffgroup, h5ad ,sample,section_key\r\ntumour, data/a.h5ad ,A,section\r\n\r\n,,,\r\n,data/b.h5ad,B,\r\n"
    rows = checked(folder, text)
    assert [row["group"] for row in rows] == ["tumour", ""]
    assert [row["section_key"] for row in rows] == ["section", ""]
    assert rows[0]["h5ad"] == str(folder / "data/a.h5ad")


def test_base_and_the_working_folder(folder, tmp_path_factory, monkeypatch):
    elsewhere = tmp_path_factory.mktemp("task")
    text = "sample,h5ad\nA,data/a.h5ad\n"
    stmcdi.check_samplesheet(sheet(elsewhere, text), elsewhere / "valid.csv", base=folder)
    assert str(folder / "data/a.h5ad") in (elsewhere / "valid.csv").read_text()
    monkeypatch.chdir(folder)
    stmcdi.check_samplesheet(sheet(elsewhere, text), elsewhere / "again.csv")
    assert str(folder / "data/a.h5ad") in (elsewhere / "again.csv").read_text()


def test_uris_are_passed_through(folder):
    rows = checked(folder, "sample,h5ad\nA,s3://bucket/a.h5ad\nB,https://host/b.h5ad?x=1\n")
    assert [row["h5ad"] for row in rows] == ["s3://bucket/a.h5ad", "https://host/b.h5ad?x=1"]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_quotes_separators_header_case_and_columns_of_one_s_own(folder, separator):
    lines = [["Sample", "H5AD", "patient", ""], ["A", "data/a.h5ad", 'P,1;"x"', ""]]
    text = "".join(separator.join('"' + cell.replace('"', '""') + '"' for cell in line) + "\n" for line in lines)
    (row,) = checked(folder, text)
    assert row == {
        "sample": "A", "h5ad": str(folder / "data/a.h5ad"), "section_key": "", "group": "", "patient": 'P,1;"x"',
    }  # fmt: skip


def test_a_leading_tilde_is_the_home_folder(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder / "data"))
    assert checked(folder, "sample,h5ad\nA,~/a.h5ad\n")[0]["h5ad"] == str(folder / "data/a.h5ad")


def test_all_faults_are_in_one_message(folder, refused):
    path = sheet(folder, "sample,h5ad\nA b,data/none.h5ad\nB\nC,data\n")
    line = refused("check-samplesheet", path, folder / "valid.csv")
    for message in (
        "line 2: expected sample", "line 2: no file", "line 3: expected 2 cells", "line 4: expected an h5ad",
    ):  # fmt: skip
        assert message in line
    path = sheet(folder, "sample,h5ad\n" + "".join(f"S{i},none.h5ad\n" for i in range(30)))
    assert refused("check-samplesheet", path, folder / "valid.csv").endswith("; and 20 more")


def test_content_names_every_bad_file(folder, refused):
    bad = make_raw(5, 5)
    bad.X = bad.X * 0.5
    bad.write_h5ad(folder / "data/a.h5ad")
    del bad.obsm["spatial"]
    bad.write_h5ad(folder / "data/b.h5ad")
    (folder / "data/c.h5ad").write_text("no HDF5")
    make_raw(5, 5).write_h5ad(folder / "data/d.h5ad")
    text = "sample,h5ad,section_key\n" + "".join(f"{name},data/{name}.h5ad,\n" for name in "abc")
    path = sheet(folder, text + "d,data/d.h5ad,nowhere\n")
    line = refused("check-samplesheet", "--content", path, folder / "valid.csv")
    for message in (
        "line 2: {}/data/a.h5ad: expected whole counts in X",
        "line 3: {}/data/b.h5ad: expected spot coordinates",
        "line 4: {}/data/c.h5ad: not an HDF5 file",
        "line 5: {}/data/d.h5ad: expected sections in obs['nowhere']",
    ):
        assert message.format(folder) in line
    assert len(checked(folder, "sample,h5ad\nA,data/a.h5ad\n", content=True, skip=True)) == 1


GOOD = "A,data/a.h5ad\n"
BAD = {
    "empty file": ("", "expected a header, found an empty file; start it with sample,h5ad"),
    "header only": ("sample,h5ad\n", "expected at least 1 sample, found none"),
    "missing file": ("sample,h5ad\nA,data/none.h5ad\n", "line 2: no file 'data/none.h5ad'"),
    "folder for a file": ("sample,h5ad\nA,data\n", "line 2: expected an h5ad file, found the folder 'data'"),
    "empty path": ("sample,h5ad\nA,\n", "line 2: expected a path in h5ad"),
    "duplicate": (f"sample,h5ad\n{GOOD}{GOOD}", "line 3: sample 'A' is also in line 2"),
    "reserved column": (f"sample,h5ad,shard\n{GOOD}", "line 1: expected no column 'shard'"),
    "repeated column": (f"sample,sample,h5ad\nA,{GOOD}", "line 1: expected column 'sample' once"),
    "missing column": ("sample,group\nA,x\n", "line 1: expected a column 'h5ad', found sample, group"),
    "ragged, short": ("sample,h5ad,group\nA,data/a.h5ad\n", "line 2: expected 3 cells, found 2"),
    "ragged, long": (f"sample,h5ad\n{GOOD}B,data/b.h5ad,x\n", "line 3: expected 2 cells, found 3"),
    "unclosed quote": ('sample,h5ad\n"A,data/a.h5ad\n', "cannot be read as CSV"),
    "unsafe section key": ("sample,h5ad,section_key\nA,data/a.h5ad,$(rm)\n", "line 2: expected section_key"),
    "unsafe group": ("sample,h5ad,group\nA,data/a.h5ad,a b\n", "line 2: expected group"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_sheets_are_refused_in_one_line(case, folder, refused):
    text, message = BAD[case]
    path = sheet(folder, text)
    line = refused("check-samplesheet", path, folder / "valid.csv")
    assert line.startswith(f"stmcdi check-samplesheet: {path}") and message in line, line


@pytest.mark.parametrize("name", ["", "a b", "../a", "-a", ".a", "_a", "a/b", "a;b", "a'b", "$a", "ä", "a\n"])
def test_unsafe_sample_names_are_refused(name, folder, refused):
    text = f'sample,h5ad,group\n"{name}x",data/a.h5ad,g\n' if name == "a\n" else f"sample,h5ad\n{name},data/a.h5ad\n"
    assert "expected sample to be made of" in refused("check-samplesheet", sheet(folder, text), folder / "valid.csv")


def test_other_encodings_and_absent_sheets_are_refused(folder, refused):
    refused("check-samplesheet", sheet(folder, "sample,h5ad\nÄ,data/a.h5ad\n", "latin-1"), folder / "valid.csv")
    assert "no such file" in refused("check-samplesheet", folder / "none.csv", folder / "valid.csv")
    path = sheet(folder, "sample,h5ad\n")
    assert "also an input" in refused("check-samplesheet", path, path)


@pytest.mark.parametrize(
    "path",
    [
        *(
            "a b.h5ad",
            "$(touch x).h5ad",
            "`touch x`.h5ad",
            "a;b.h5ad",
            "a'b.h5ad",
            'a""b.h5ad',
            "a\\b.h5ad",
            "a|b.h5ad",
        ),
        *("$HOME/a.h5ad", "~a/../$x/b.h5ad", "a*.h5ad", "a\x1b[2J.h5ad", "a\u202eb.h5ad"),
        *("s3://bucket/$(touch x).h5ad", "s3://bucket/a b.h5ad"),
    ],
)
def test_paths_that_a_shell_could_misread_are_refused(path, folder, refused):
    line = refused("check-samplesheet", sheet(folder, f'sample,h5ad\nA,"{path}"\n'), folder / "valid.csv")
    assert "expected the path in h5ad to have no quotes" in line


def test_folders_may_have_spaces_and_names_any_letters(folder):
    (folder / "my data").mkdir()
    (folder / "data/a.h5ad").rename(folder / "my data/ä_1+2.h5ad")
    assert checked(folder, "sample,h5ad\nA,my data/ä_1+2.h5ad\n")[0]["h5ad"] == str(folder / "my data/ä_1+2.h5ad")


def test_the_patterns_come_with_the_package():
    """A wheel has them, made from a checkout or from an sdist; so does Nextflow, at their usual place."""
    import json
    import tomllib
    from pathlib import Path

    from stmcdi_cli.steps.check_samplesheet import SAFE, SAFE_FILE, SAFE_REFERENCE

    root = Path(__file__).parents[2]
    included = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert included["force-include"] == {"assets/schema_input.json": "stmcdi_cli/schema_input.json"}
    columns = json.loads((root / "assets/schema_input.json").read_text())["items"]["properties"]
    assert {**SAFE, "h5ad": SAFE_FILE, "reference": SAFE_REFERENCE} == {
        name: re.compile(column["pattern"]) for name, column in columns.items()
    }


def test_references_are_found_and_absent_ones_named(folder, refused):
    text = "sample,h5ad,reference\nA,data/a.h5ad,data/b.h5ad\nB,data/b.h5ad,\n"
    assert [row["reference"] for row in checked(folder, text)] == [str(folder / "data/b.h5ad"), ""]
    path = sheet(folder, "sample,h5ad,reference,group\nA,data/a.h5ad,none.h5ad,g\nB,data/b.h5ad,data/a.h5ad,g\n")
    assert refused("check-samplesheet", path, folder / "out.csv") == (
        f"stmcdi check-samplesheet: {path}, line 2: no file 'none.h5ad' in {folder}; correct the path (relative ones "
        "start at the sheet); expected one reference in all samples of group 'g'; make them the same"
    )
