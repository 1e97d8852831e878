"""Every format is known to the command line and to the page, and can be named."""

from pathlib import Path

import pytest
from platforms import write_cosmx, write_gem, write_loom, write_merscope, write_space_ranger, write_xenium

from stmcdi_cli.cli.options import FORMAT
from stmcdi_cli.errors import InputError
from stmcdi_cli.io.readers.reader import Options
from stmcdi_cli.io.readers.registry import BY_NAME, READERS
from stmcdi_cli.steps.import_ import FORMATS

PAGE = Path(__file__).parents[3] / "docs" / "steps" / "import.md"


def test_the_command_line_and_the_page_name_every_format():
    assert tuple(FORMAT.choices) == FORMATS == ("auto", *BY_NAME)
    lines = [line.split("|")[1] for line in PAGE.read_text("utf-8").splitlines() if line.count("|") == 6]
    assert sorted(BY_NAME) == sorted(line.split("`")[1] for line in lines if line.endswith("` "))


WRITERS = {
    "xenium": write_xenium,
    "merscope": write_merscope,
    "cosmx": write_cosmx,
    "space-ranger": write_space_ranger,
    "stereo-seq": lambda folder: write_gem(folder.with_suffix(".gem.gz")),
    "loom": lambda folder: write_loom(folder.with_suffix(".data")),
}


@pytest.mark.parametrize("name", WRITERS)
def test_what_one_reader_recognises_no_earlier_one_does(name, tmp_path):
    path = WRITERS[name](tmp_path / "input")
    assert next(reader.name for reader in READERS if reader.recognises(path)) == name


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_a_format_that_is_named_wrongly_is_refused(reader, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.bin").write_bytes(bytes(range(256)))
    for path in (tmp_path / "empty", tmp_path / "a.bin"):
        with pytest.raises(InputError):
            reader.read(path, Options())


SEVERAL = {  # two samples in a folder, as a download page gives them
    "xenium": "{}_cell_feature_matrix.h5",
    "visium-cells": "{}_filtered_feature_cell_matrix.h5",
    "space-ranger": "{}_filtered_feature_bc_matrix.h5",
    "merscope": "{}_cell_by_gene.csv",
    "cosmx": "{}_exprMat_file.csv",
    "stereo-seq": "{}.gem",
}


@pytest.mark.parametrize("name", SEVERAL)
def test_a_folder_of_several_samples_is_refused_by_their_names(name, tmp_path):
    files = [SEVERAL[name].format(sample) for sample in ("left", "right")]
    for file in files:
        (tmp_path / file).touch()
    with pytest.raises(InputError, match=f"expected one .*, found {files[0]}, {files[1]}; give one of them as INPUT"):
        BY_NAME[name].read(tmp_path, Options())
