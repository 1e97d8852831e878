import json
import subprocess
import sys
import threading

import anndata as ad
import numpy as np
import pytest

from benchmarks import cells, measure, methods, report, results, run
from benchmarks.cells import Cell

LIMITS = methods.Limits(timeout=120, threads=1)
CELL = Cell("mob_rep11", "0.2", 0, "fa-8")


@pytest.fixture
def workplace(tmp_path, monkeypatch, case):
    """Every file the harness writes in a temporary folder, and every case the small tissue."""
    monkeypatch.setattr(cells, "WORK", tmp_path / "work")
    monkeypatch.setattr(results, "WORK", tmp_path / "work")
    monkeypatch.setattr(cells, "cut", lambda *_: case)
    for function in (results.save, results.load):
        *others, _ = function.__defaults__
        monkeypatch.setattr(function, "__defaults__", (*others, tmp_path / "results.tsv"))
    return tmp_path


def cost(*command, timeout=60):
    arguments = [sys.executable, "-I", "-S", measure.__file__, str(timeout), "/dev/null", sys.executable, *command]
    return json.loads(subprocess.run(arguments, check=True, capture_output=True, text=True).stdout)


def test_costs_are_the_command_s_own():
    held = np.ones(40_000_000)  # 320 MB here must not count there
    idle = cost("-S", "-c", "import time; time.sleep(0.5)")
    assert held[0] == 1 and idle["peak_mb"] < 100
    assert idle["wall_s"] >= 0.5 and idle["cpu_s"] < 0.4
    busy = cost("-S", "-c", "x = bytearray(200_000_000)\nfor _ in range(10_000_000): pass")
    assert busy["peak_mb"] > 200 and busy["cpu_s"] > 0.1 and busy["exit_code"] == 0


def test_a_command_that_takes_too_long_is_killed():
    late = cost("-c", "import time; time.sleep(60)", timeout=0.5)
    assert late["timed_out"] and late["wall_s"] < 10


def test_the_order_starts_with_a_fifth_and_seed_0():
    order = list(cells.all_cells(["a", "b"], list(cells.HIDDEN), [0, 1], ["x", "y"]))
    assert {(cell.hidden, cell.seed) for cell in order[:4]} == {("0.2", 0)}
    assert len(set(order)) == len(order) == 2 * len(cells.HIDDEN) * 2 * 2


@pytest.mark.parametrize(
    ("status", "again", "expected"),
    [
        (None, None, True),
        ("ok", None, False),
        ("failed", None, False),
        ("ok", "failed", False),
        ("timed out", "failed", True),
        ("ok", "all", True),
    ],
)
def test_what_is_due(status, again, expected):
    assert run.due(status, again) == expected


@pytest.mark.real_data
def test_only_chooses_and_refuses(shared_data):
    (cell,) = run.choose(["case=mob_rep11", "method=fa-8", "hidden=nonzero", "seed=2"])
    assert cell == Cell("mob_rep11", "nonzero", 2, "fa-8")
    others = {cell.case for cell in run.choose([]) if cell.hidden != "genes"}
    assert not others & set(cells.NOT_BY_DEFAULT)
    assert run.choose(["method=fa-8", "hidden=depth"]) == []
    for wrong in ("method=none", "fraction=0.2", "seed=9"):
        with pytest.raises(ValueError, match="--only"):
            run.choose([wrong])


@pytest.mark.real_data
def test_hidden_nonzeros_are_of_the_same_genes(shared_data, tmp_path, monkeypatch):
    monkeypatch.setattr(cells, "WORK", tmp_path)
    folders = [cells.cut("mob_rep11", kind, 1) for kind in ("0.2", "nonzero")]
    a_fifth, nonzero = (ad.read_h5ad(folder / "truth.h5ad") for folder in folders)
    assert a_fifth.var_names.equals(nonzero.var_names)
    np.testing.assert_allclose(a_fifth.X.toarray(), nonzero.X.toarray())
    hidden = nonzero.layers["missing"].toarray()
    assert (nonzero.X.toarray()[hidden] > 0).all()
    assert hidden.sum() / nonzero.X.nnz == pytest.approx(0.2, abs=0.01)
    masked = ad.read_h5ad(folders[1] / "masked.h5ad")
    assert not masked.X.toarray()[hidden].any() and not masked.layers["counts"].toarray()[hidden].any()
    assert "spatial_connectivities" in ad.read_h5ad(folders[1] / "graph.h5ad").obsp


@pytest.mark.real_data
def test_gaps_are_whole_spots_and_halves_share_no_molecule(shared_data, tmp_path, monkeypatch):
    monkeypatch.setattr(cells, "WORK", tmp_path)
    folder = cells.cut("mob_rep11", "gaps-regions", 2)
    hidden = ad.read_h5ad(folder / "truth.h5ad").layers["missing"].toarray()
    assert hidden.any() and (hidden.all(1) == hidden.any(1)).all()
    assert not ad.read_h5ad(folder / "graph.h5ad").X.toarray()[hidden].any()
    folder = cells.cut("mob_rep11", "depth", 2)
    half, other = (ad.read_h5ad(folder / f"{name}.h5ad") for name in ("masked", "truth"))
    assert {file.stem for file in folder.glob("*.h5ad")} == {"masked", "truth", "graph"}
    assert not half.layers["missing"].nnz and half.obs_names.equals(other.obs_names)
    whole = ad.read_h5ad(shared_data / "mob_rep11.h5ad")[half.obs_names]
    rest = (whole[:, half.var_names].X - half.layers["counts"]).toarray()
    per_molecule = np.expm1(other.X.toarray()[0]) / np.maximum(rest[0], 1)
    assert rest.min() >= 0
    np.testing.assert_allclose(per_molecule[rest[0] > 0], per_molecule.max(), rtol=1e-4)
    assert not per_molecule[rest[0] == 0].any()


def test_a_peer_is_asked_for_its_jobs_alone():
    assert methods.does("fa-8", "0.5") and not methods.does("fa-8", "gaps-spots")
    assert methods.does("idw-12", "gaps-spots") and not methods.does("idw-12", "depth")
    assert all(methods.does("baseline-kriging", hidden) and methods.does("stmcdi", hidden) for hidden in cells.HIDDEN)


@pytest.mark.parametrize("method", ["baseline-soft-impute"])
def test_every_value_is_denoised(method, workplace, capsys):
    run.run(Cell("mob_rep11", "depth", 0, method), LIMITS)
    (row,) = results.numbers(results.load()).to_dict("records")
    assert row["status"] == "ok", capsys.readouterr().out
    assert 0 < row["skill"] < 1 and row["crps"] > 0 and row["coverage_90"] > 0.8


@pytest.mark.parametrize("method", ["fa-8-smooth", "iterative-svd", "stmcdi"])
def test_a_method_fills_what_is_hidden_and_beats_the_mean(method, workplace, capsys):
    run.run(Cell("mob_rep11", "0.2", 0, method), LIMITS)
    (row,) = results.numbers(results.load()).to_dict("records")
    assert row["status"] == "ok", capsys.readouterr().out
    assert row["skill"] > 0 and row["wall_s"] > 0 and row["cpu_s"] > 0 and row["peak_mb"] > 20
    assert row["spread_from"] == {"fa-8-smooth": "gaussian", "iterative-svd": "", "stmcdi": "draws"}[method]
    assert np.isnan(row["train_s"]) == (method != "stmcdi")


def test_a_failure_is_a_row_and_stops_nothing(workplace, monkeypatch):
    (workplace / "broken").mkdir()
    (workplace / "broken" / "run.py").write_text("raise ValueError('no such tissue')\n")
    monkeypatch.setattr(methods, "PEERS", workplace)
    monkeypatch.setitem(methods.PACKAGES, "fa-8", methods.Peer("broken", "broken"))
    run.run(CELL, LIMITS)
    (row,) = results.load().to_dict("records")
    assert (row["status"], row["error"], row["skill"]) == ("failed", "ValueError: no such tissue", "")
    (workplace / "broken" / "run.py").write_text("import time; time.sleep(60)\n")
    run.run(CELL, methods.Limits(timeout=1, threads=1))
    (row,) = results.load().to_dict("records")  # in place of the older row
    assert (row["status"], row["error"]) == ("timed out", "no result after 1 s")


def test_a_peer_that_cannot_be_installed_says_so(workplace, monkeypatch):
    folder = workplace / "peer"
    folder.mkdir()
    (folder / "requirements.txt").write_text("./no-such-package\n")
    monkeypatch.setattr(methods, "WORK", workplace / "work")
    with pytest.raises(methods.Failed, match="no-such-package") as failure:
        methods.environment(folder, workplace / "log")
    assert failure.value.status == "install failed"


def test_rows_of_several_runs_all_arrive(workplace):
    threads = [
        threading.Thread(target=results.save, args=(Cell("a", "0.2", i, "fa-8"), {"status": "ok", "skill": i / 10}))
        for i in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(results.load()["seed"]) == [str(i) for i in range(8)]
    assert results.status(results.load())[Cell("a", "0.2", 3, "fa-8")] == "ok"


def test_the_report_names_the_best_and_what_failed(workplace):
    scores = {"rmse": 0.5, "pcc": 0.5, "cs": 0.5, "mae": 0.5, "gene_pcc": 0.1, "cpu_s": 1.0, "wall_s": 2.0}
    for method, skill in (("fa-8", 0.1), ("cmfrec", 0.2), ("baseline-vae", 0.9), ("stmcdi", 0.3)):
        for seed in cells.SEEDS:
            row = {"status": "ok", "version": "1", "skill": skill + (seed - 1) / 100, **scores}
            results.save(Cell("some", "0.2", seed, method), row)
    gaps = (("idw-6", 0, 0.2), ("baseline-kriging", 0, 0.25), ("baseline-mlp", 0, 0.3))
    for method, seed, skill in (*gaps, ("stmcdi", 0, 0.4), ("baseline-kriging", 1, 0.9)):
        results.save(
            Cell("some", "gaps-regions", seed, method), {"status": "ok", "version": "1", "skill": skill, **scores}
        )
    results.save(Cell("some", "0.2", 0, "mofa"), {"status": "install failed", "error": "no | wheel"})
    report.write(results.load(), workplace / "README.md")
    text = (workplace / "README.md").read_text()
    # The seed 1 of kriging has other holes, which stmcdi was not tried on.
    assert "| some | 0.300 / 0.200 cmfrec | 0.400* / 0.250* baseline-kriging |" in text
    assert "| some | cmfrec | 1.50 | 0.300 / 0.200 |" in text  # what sits on our encoder is no peer
    assert "| factor analysis, rank 8 | 0.100 |" in text
    assert "| baseline vae | **0.900** |" in text
    assert "| MOFA (mofapy2), 10 factors | install failed |" in text
    assert "`no / wheel`" in text
    for plot in ("accuracy", "hidden", "cost"):
        assert f"plots/{plot}.svg" in text
        assert (workplace / "plots" / f"{plot}.svg").read_text().startswith("<?xml")
