"""What is given instead of an h5ad file: one line names what it is, and what to do."""

import shlex

import h5py
import numpy as np
import pytest
from helpers import dense, make_raw

import stmcdi_cli as stmcdi
from stmcdi_cli.errors import InputError


@pytest.mark.parametrize("step", ["normalize", "run"])
def test_other_files_and_folders_are_for_import(step, refused, tmp_path):
    (tmp_path / "my counts.csv").write_text("spot,x,y,GENE\na,0,0,3\n")
    (tmp_path / "outs").mkdir()
    (tmp_path / "text.h5ad").write_text("no HDF5")
    with h5py.File(tmp_path / "matrix.h5", "w") as file:
        file.create_group("matrix")
    for name, output in {
        "my counts.csv": "'my counts.h5ad'",
        "outs": "outs.h5ad",
        "text.h5ad": "imported.text.h5ad",
        "matrix.h5": "matrix.h5ad",
    }.items():
        path = tmp_path / name
        line = refused(step, path, tmp_path / "out.h5ad")
        assert line.endswith(f"; `stmcdi import {shlex.quote(str(path))} {output}` reads what platforms write"), line
    assert "import" not in refused("import", tmp_path / "text.h5ad", tmp_path / "out.h5ad").split(": ", 2)[2]


def test_the_command_that_is_named_works(refused, cli, tmp_path):
    """The line is pasted, and the next command gets its output."""
    (tmp_path / "counts.csv").write_text("spot,x,y,A,B\na,0,0,3,1\nb,1,0,2,0\nc,2,0,0,4\n")
    line = refused("normalize", tmp_path / "counts.csv", tmp_path / "out.h5ad")
    words = shlex.split(line.split("`")[1])
    assert cli(*words[1:-1], tmp_path / words[-1]).exit_code == 0
    assert cli("normalize", tmp_path / words[-1], tmp_path / "out.h5ad").exit_code == 0


@pytest.mark.parametrize("step", ["normalize", "run", "import"])
def test_mudata_names_its_modalities(step, refused, tmp_path):
    with h5py.File(tmp_path / "both.h5mu", "w") as file:
        for name in ("obs", "var", "mod/rna", "mod/protein"):
            file.create_group(name)
    line = refused(step, tmp_path / "both.h5mu", tmp_path / "out.h5ad")
    path = tmp_path / "both.h5mu"
    assert line.endswith(
        f"{path}: MuData, with protein, rna; write the one with counts as AnnData: "
        f"mudata.read_h5mu('{path}')['rna'].write_h5ad('rna.h5ad')"
    )


def test_a_file_that_another_program_writes_to(refused, h5ad, monkeypatch, tmp_path):
    def locked(*arguments, **options):
        raise BlockingIOError(11, "Unable to synchronously open file (unable to lock file, errno = 11)")

    source = h5ad(make_raw())
    monkeypatch.setattr("h5py.File", locked)
    line = refused("normalize", source, tmp_path / "out.h5ad")
    assert "input.h5ad: open in another program that writes to it; close it there" in line


def test_files_without_x_are_refused_by_the_steps_that_need_it(imputed_run, tmp_path):
    """Before, some ended in a traceback."""
    empty = imputed_run.imputed.copy()
    empty.X = None
    for call in (
        lambda: stmcdi.select_hvg(empty),
        lambda: stmcdi.hold_out(empty),
        lambda: stmcdi.baseline(empty, method="gene-mean"),
        lambda: stmcdi.train(empty, tmp_path / "model"),
        lambda: stmcdi.impute(empty, imputed_run.model),
        lambda: stmcdi.report(empty, tmp_path / "report.html"),
        lambda: stmcdi.evaluate(imputed_run.imputed, empty),
    ):
        with pytest.raises(InputError, match="found no X; run normalize first .`normalize --layer` takes a layer"):
            call()
    raw = make_raw()
    raw.layers["counts"] = raw.X.copy()
    counts, raw.X = dense(raw.X), None
    np.testing.assert_array_equal(dense(stmcdi.normalize(raw, layer="counts").layers["counts"]), counts)
    assert stmcdi.build_graph(raw).X is None
