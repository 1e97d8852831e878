import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import scanpy as sc
import scipy.sparse as sp
from helpers import dense, same

import stmcdi_cli as stmcdi
from stmcdi_cli.baselines import METHODS, latent_network
from stmcdi_cli.cli.commands import BASELINE
from stmcdi_cli.errors import OptionError
from stmcdi_cli.resources import n_workers

LAYERS = ("imputed", "imputed_sd", "imputed_q05", "imputed_q95")
FAST = "soft-impute"


@pytest.fixture(scope="module")
def case(tissue, tmp_path_factory):
    """A tissue with a fifth hidden, and what was hidden."""
    masked, truth = stmcdi.hold_out(stmcdi.build_graph(stmcdi.normalize(tissue), section_key="section"), seed=0)
    file = tmp_path_factory.mktemp("case") / "masked.h5ad"
    masked.write_h5ad(file)
    return SimpleNamespace(masked=masked, truth=truth, file=file, hidden=dense(masked.layers["missing"]).astype(bool))


def test_the_command_knows_every_method():
    assert list(BASELINE.choices) == list(METHODS)


@pytest.mark.parametrize("target", ["missing", "all"])
@pytest.mark.parametrize("method", METHODS)
def test_fills_the_target_and_keeps_the_rest(case, method, target, monkeypatch):
    monkeypatch.setattr(latent_network, "N_MEMBERS", 1)
    monkeypatch.setattr(latent_network, "MOST_EPOCHS", 15)
    result = stmcdi.baseline(case.masked, method=method, target=target)
    fill = case.hidden if target == "missing" else np.ones_like(case.hidden)
    for name in LAYERS:
        layer = result.layers[name]
        assert (sp.issparse(layer) and layer.format == "csr") == (target == "missing"), name
        assert layer.dtype == np.float32 and np.isfinite(dense(layer)).all() and dense(layer).min() >= 0
        np.testing.assert_array_equal(dense(layer)[~fill], dense(case.masked.X)[~fill] if name == "imputed" else 0)
    mean, sd, low, high = (dense(result.layers[name])[fill] for name in LAYERS)
    assert (mean > 0).mean() > 0.8 and (sd > 0).all()
    assert (low <= mean).all() and (mean <= high).all()
    truth = dense(case.truth.X)[case.hidden]
    low, high = (dense(result.layers[name])[case.hidden] for name in LAYERS[2:])
    assert stmcdi.evaluate(result, case.truth)["skill"] > (-0.01 if method == "gene-mean" else 0.05)
    assert 0.86 < np.mean((low <= truth) & (truth <= high)) < 0.97


def test_an_interval_is_that_of_a_gaussian_cut_at_zero(case):
    result = stmcdi.baseline(case.masked, method=FAST)
    mean, sd, low, high = (dense(result.layers[name])[case.hidden] for name in LAYERS)
    inside = (mean > 0) & (low > 0)
    np.testing.assert_allclose((high - mean)[inside], 1.644854 * sd[inside], rtol=1e-4)
    np.testing.assert_allclose((mean - low)[inside], 1.644854 * sd[inside], rtol=1e-4)


def test_spots_genes_and_all_else_stay(case):
    before = case.masked.copy()
    result = stmcdi.baseline(case.masked, method=FAST, section_key="section", seed=3)
    same(case.masked, before)
    assert set(case.masked.uns["stmcdi"]) == set(before.uns["stmcdi"])
    for name in LAYERS:
        del result.layers[name]
    same(result, before)
    parameters = result.uns["stmcdi"]["baseline"]["parameters"]
    assert parameters == {"method": FAST, "target": "missing", "section_key": "section", "seed": 3}


def test_the_same_seed_gives_the_same_bytes_in_another_process_with_other_threads(case, h5ad, tmp_path):
    some = case.masked[:60, :50].copy()
    threads = "1" if n_workers() > 1 else "2"
    environment = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), threads)
    code = (
        "import sys; from stmcdi_cli.cli import main; source, folder, *methods = sys.argv[1:]\n"
        "for method in methods:\n"
        "    options = ['--method', method, '--seed', '5']\n"
        "    main(['baseline', source, f'{folder}/{method}.h5ad', *options], standalone_mode=False)"
    )
    command = [sys.executable, "-c", code, h5ad(some), tmp_path, *METHODS]
    done = subprocess.run(command, env=environment, check=True, timeout=300, capture_output=True, text=True)
    assert done.stdout == done.stderr == ""
    for method in METHODS:
        here, there = stmcdi.baseline(some, method=method, seed=5), sc.read_h5ad(tmp_path / f"{method}.h5ad")
        for name in LAYERS:
            assert dense(here.layers[name]).tobytes() == dense(there.layers[name]).tobytes(), (method, name)
        assert "input_sha256" in there.uns["stmcdi"]["baseline"]


def test_a_file_without_a_graph_will_do(case):
    bare = case.masked.copy()
    del bare.obsp["spatial_connectivities"], bare.obsp["spatial_distances"], bare.uns["spatial_neighbors"]
    result = stmcdi.baseline(bare, method="factor-analysis", section_key="section")
    known = stmcdi.baseline(case.masked, method="factor-analysis")
    for name in LAYERS:
        np.testing.assert_array_equal(dense(result.layers[name]), dense(known.layers[name]))
    mixed = stmcdi.baseline(bare, method="spatial-neighbors")
    apart = stmcdi.baseline(case.masked, method="spatial-neighbors")
    assert (dense(mixed.layers["imputed"]) != dense(apart.layers["imputed"])).any()


def test_nothing_missing_fills_nothing_and_says_so(tissue, caplog):
    whole = stmcdi.normalize(tissue)
    result = stmcdi.baseline(whole, method="gene-mean")
    np.testing.assert_array_equal(dense(result.layers["imputed"]), dense(whole.X))
    assert not dense(result.layers["imputed_sd"]).any()
    assert caplog.text.count("no entry is missing, so none is filled") == 1


def test_an_empty_spot_is_not_taken_for_one_without_expression(case, tissue):
    """A spot without counts was not seen: its zeros pull no mean down, and they are filled where they are missing."""
    emptied = tissue.copy()
    counts = dense(emptied.X).copy()
    counts[:30] = 0
    emptied.X = sp.csr_matrix(counts)
    result = stmcdi.baseline(stmcdi.normalize(emptied), method="gene-mean", target="all")
    seen = dense(result.X)[30:]
    np.testing.assert_allclose(dense(result.layers["imputed"])[0], seen.mean(0), rtol=1e-4)


def refuse(refused, case, tmp_path, *options, file=None):
    return refused("baseline", file or case.file, tmp_path / "out.h5ad", *options)


def test_bad_options_are_refused(case, refused, tmp_path, cli):
    line = refuse(refused, case, tmp_path, "--method", FAST, "--seed", -1)
    assert line == "stmcdi baseline: expected `seed` to be at least 0, found `-1`"
    line = refuse(refused, case, tmp_path, "--method", FAST, "--section-key", "slide")
    assert "masked.h5ad: expected sections in obs['slide']" in line
    assert cli("baseline", case.file, tmp_path / "out.h5ad", "--method", "magic").exit_code == 2
    assert cli("baseline", case.file, tmp_path / "out.h5ad").exit_code == 2
    with pytest.raises(OptionError, match="expected `method` to be one of gene-mean, .*found `magic`"):
        stmcdi.baseline(case.masked, method="magic")


def test_bad_values_are_refused(case, refused, h5ad, tmp_path):
    for value, message in ((-1, "X has negative values"), (np.nan, "X has NaN"), (np.inf, "X has NaN or infinite")):
        bad = case.masked.copy()
        x = dense(bad.X).copy()
        x[tuple(np.argwhere(~case.hidden)[0])] = value
        bad.X = sp.csr_matrix(x)
        assert message in refuse(refused, case, tmp_path, "--method", "gene-mean", file=h5ad(bad, f"{value}.h5ad"))
    one = h5ad(case.masked[:1].copy(), "one.h5ad")
    assert "expected at least 2 spots" in refuse(refused, case, tmp_path, "--method", "gene-mean", file=one)


@pytest.mark.parametrize("method", ["spatial-neighbors", "factor-analysis"])
def test_spatial_methods_need_coordinates(case, refused, h5ad, tmp_path, method):
    bare = case.masked.copy()
    del bare.obsm["spatial"]
    line = refuse(refused, case, tmp_path, "--method", method, file=h5ad(bare, "bare.h5ad"))
    assert "expected spot coordinates in obsm['spatial'], found none" in line
    assert "imputed" in stmcdi.baseline(bare, method="expression-neighbors").layers
