import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import scanpy as sc
import scipy.sparse as sp
import torch
from helpers import dense, same

import stmcdi_cli as stmcdi
from stmcdi_cli.resources import n_workers
from stmcdi_cli.sparse import layers_of

SPREAD = ("imputed_sd", "imputed_median", "imputed_q05", "imputed_q95")
OPTIONS = {"n_samples": 6, "device": "cpu", "quiet": True}
ALL_MASKS = True  # as in the process that a test starts


@pytest.fixture(scope="module")
def case(tissue, tmp_path_factory):
    """A tissue with a fifth hidden, what was hidden, and a model of it."""
    folder = tmp_path_factory.mktemp("case")
    prepared = stmcdi.build_graph(stmcdi.normalize(tissue), section_key="section")
    masked, truth = stmcdi.hold_out(prepared, seed=0)
    stmcdi.train(masked, folder / "model", epochs=2, device="cpu", quiet=True)
    masked.write_h5ad(folder / "masked.h5ad")
    return SimpleNamespace(
        masked=masked,
        truth=truth,
        model=folder / "model",
        file=folder / "masked.h5ad",
        hidden=dense(masked.layers["missing"]),
        x=dense(masked.X),
    )


def filled(case, target):
    return {"missing": case.hidden, "zeros": case.hidden | (case.x == 0), "all": np.ones_like(case.hidden)}[target]


def test_auto_fills_what_is_marked_missing_and_else_denoises(case, caplog):
    options = OPTIONS | {"quiet": False}
    same(
        stmcdi.impute(case.masked, case.model, **options),
        stmcdi.impute(case.masked, case.model, target="missing", **OPTIONS),
    )
    assert f"--target missing, since {case.masked.layers['missing'].nnz} entries are marked missing" in caplog.text
    whole = case.masked.copy()
    del whole.layers["missing"]
    imputed = stmcdi.impute(whole, case.model, **options)
    same(imputed, stmcdi.impute(whole, case.model, target="all", **OPTIONS))
    assert "--target all, since no entry is marked missing" in caplog.text
    assert imputed.uns["stmcdi"]["impute"]["parameters"]["target"] == "all"


def test_the_latents_are_given_to_cluster_on(case):
    """They depend on what is visible alone: not on the target, and not on hidden values."""
    other = case.masked.copy()
    other.X = sp.csr_matrix(case.x + 7 * case.hidden)
    results = [stmcdi.impute(case.masked, case.model, target=target, **OPTIONS) for target in ("missing", "all")]
    results.append(stmcdi.impute(other, case.model, **OPTIONS))
    for key in ("X_stmcdi", "X_stmcdi_spatial"):
        first, *others = [result.obsm[key] for result in results]
        assert first.dtype == np.float32 and len(first) == case.masked.n_obs and np.isfinite(first).all()
        assert all(each.tobytes() == first.tobytes() for each in others)
    graph = case.masked.obsp["spatial_connectivities"] > 0
    whole, smooth = (results[0].obsm[key] for key in ("X_stmcdi", "X_stmcdi_spatial"))

    def roughness(x):
        source, target = graph.nonzero()
        return np.square(x[source] - x[target]).sum() / np.square(x).sum()

    assert roughness(smooth) < roughness(whole)


@pytest.mark.parametrize("target", ["missing", "zeros", "all"])
def test_fills_the_target_and_keeps_the_rest(case, target):
    result = stmcdi.impute(case.masked, case.model, target=target, **OPTIONS)
    fill = filled(case, target)
    imputed = result.layers["imputed"]
    np.testing.assert_array_equal(dense(imputed)[~fill], case.x[~fill])
    assert (dense(imputed)[fill] > 0).mean() > 0.99  # a mean over draws is hardly ever 0
    for name in ("imputed", *SPREAD):
        layer = result.layers[name]
        assert (sp.issparse(layer) and layer.format == "csr") == (target == "missing"), name
        assert layer.dtype == np.float32 and layer.shape == case.masked.shape
        assert np.isfinite(dense(layer)).all() and dense(layer).min() >= 0
        if name != "imputed":
            assert (dense(layer)[~fill] == 0).all(), name
    low, middle, high = (dense(result.layers[f"imputed_{part}"]) for part in ("q05", "median", "q95"))
    assert (low <= middle).all() and (middle <= high).all() and (low < high).mean() > 0.2 * fill.mean()


def test_missing_entries_are_imputed_alike_whatever_the_target(case):
    one, other = (stmcdi.impute(case.masked, case.model, target=t, **OPTIONS) for t in ("missing", "all"))
    for name in ("imputed", *SPREAD):
        np.testing.assert_array_equal(dense(one.layers[name])[case.hidden], dense(other.layers[name])[case.hidden])


def test_all_is_a_denoised_value_everywhere(case):
    """Closer to the expected expression, which the simulator knows, than what was observed."""
    result = stmcdi.impute(case.masked, case.model, target="all", **OPTIONS)
    rates = np.log1p(case.truth.layers["rates"] / case.truth.obs["size_factor"].to_numpy()[:, None])
    seen = ~case.hidden
    error = {
        "imputed": ((dense(result.layers["imputed"]) - rates)[seen] ** 2).mean(),
        "x": ((case.x - rates)[seen] ** 2).mean(),
    }
    assert error["imputed"] < 0.5 * error["x"]


def test_spots_genes_and_all_else_stay(case):
    before = case.masked.copy()
    result = stmcdi.impute(case.masked, case.model, **OPTIONS)
    same(case.masked, before)  # the input is not changed
    assert set(case.masked.uns["stmcdi"]) == set(before.uns["stmcdi"])
    for name in ("imputed", *SPREAD):
        del result.layers[name]
    for name in ("X_stmcdi", "X_stmcdi_spatial"):
        del result.obsm[name]
    same(result, before)
    parameters = result.uns["stmcdi"]["impute"]["parameters"]
    assert (parameters["target"], parameters["n_samples"], parameters["seed"]) == ("missing", 6, 0)


def test_nothing_missing_fills_nothing(case, tissue):
    whole = stmcdi.build_graph(stmcdi.normalize(tissue), section_key="section")
    result = stmcdi.impute(whole, case.model, target="missing", **OPTIONS)
    np.testing.assert_array_equal(dense(result.layers["imputed"]), dense(whole.X))
    assert not dense(result.layers["imputed_sd"]).any()


def test_batch_size_and_threads_change_no_bit(case, monkeypatch):
    some = case.masked[:70].copy()
    values = []
    for threads, batch_size in ((1, 1000), (1, 1), (2, 64), (2, 7), (2, 1000)):
        monkeypatch.setenv("OMP_NUM_THREADS", str(threads))
        result = stmcdi.impute(some, case.model, target="all", batch_size=batch_size, n_samples=1, quiet=True)
        values.append([dense(result.layers[name]).tobytes() for name in ("imputed", *SPREAD)])
    assert all(value == values[0] for value in values)


def test_another_process_with_other_threads_writes_the_same_values(case, tmp_path):
    """From training to the last layer."""
    threads = "1" if n_workers() > 1 else "2"
    environment = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), threads)
    code = (
        "import sys; from stmcdi_cli.cli import main; masked, folder = sys.argv[1:]\n"
        "main(['train', masked, folder + '/model', '--epochs', '2', '--quiet'], standalone_mode=False)\n"
        "main(['impute', masked, folder + '/model', folder + '/out.h5ad', '--n-samples', '6', '--quiet'])"
    )
    subprocess.run([sys.executable, "-c", code, case.file, tmp_path], env=environment, check=True, timeout=120)
    one, two = (path / "model.safetensors" for path in (case.model, tmp_path / "model"))
    assert one.read_bytes() == two.read_bytes()
    here, there = stmcdi.impute(case.masked, case.model, **OPTIONS), sc.read_h5ad(tmp_path / "out.h5ad")
    for name in ("imputed", *SPREAD):
        assert dense(here.layers[name]).tobytes() == dense(there.layers[name]).tobytes(), name


def test_the_seed_decides(case):
    one, again, other = (stmcdi.impute(case.masked, case.model, seed=seed, **OPTIONS) for seed in (0, 0, 1))
    for name in SPREAD[:1]:
        assert dense(one.layers[name]).tobytes() == dense(again.layers[name]).tobytes()
        assert (dense(one.layers[name]) != dense(other.layers[name]))[case.hidden].mean() > 0.5


@pytest.mark.parametrize("sampler", ["dpm", "ddim", "ddpm", "langevin"])
def test_every_sampler_imputes(case, sampler):
    result = stmcdi.impute(case.masked, case.model, sampler=sampler, **OPTIONS)
    assert stmcdi.evaluate(result, case.truth)["skill"] > 0.1
    few = stmcdi.impute(case.masked, case.model, sampler=sampler, n_steps=5, **OPTIONS)
    assert stmcdi.evaluate(few, case.truth)["skill"] > 0.1


def test_chosen_genes_alone_are_filled(case):
    genes = list(case.masked.var_names[[40, 3, 7]])
    whole = stmcdi.impute(case.masked, case.model, **OPTIONS)
    some = stmcdi.impute(case.masked, case.model, genes=genes, **OPTIONS)
    chosen = np.isin(case.masked.var_names, genes)
    for name in ("imputed", *SPREAD):
        values = dense(some.layers[name])
        np.testing.assert_array_equal(values[:, chosen], dense(whole.layers[name])[:, chosen])
        np.testing.assert_array_equal(values[:, ~chosen], case.x[:, ~chosen] if name == "imputed" else 0)
    assert list(some.var_names) == list(case.masked.var_names)


def test_other_tissues_with_the_same_genes_are_imputed_too(case):
    """A model of one section fills another it has not seen."""
    new = stmcdi.simulate(n_spots=90, n_genes=150, depth=400, seed=1)
    masked, truth = stmcdi.hold_out(stmcdi.build_graph(stmcdi.normalize(new)), seed=3)
    result = stmcdi.impute(masked, case.model, **OPTIONS)
    assert stmcdi.evaluate(result, truth)["skill"] > 0.1


def test_scanpy_opens_and_uses_the_file(case, cli, tmp_path):
    out = tmp_path / "out.h5ad"
    result = cli(
        "impute", case.file, case.model, out, "--n-samples", 3, "--quiet", "--device", "cpu", "--target", "all"
    )
    assert (result.exit_code, result.output) == (0, "")
    adata = sc.read_h5ad(out)
    assert adata.obs_names.equals(case.masked.obs_names) and adata.var_names.equals(case.masked.var_names)
    adata.X = adata.layers["imputed"]
    sc.pp.pca(adata, n_comps=5)
    assert [path.name for path in tmp_path.iterdir()] == ["out.h5ad"]


@pytest.mark.parametrize("layers", [["imputed"], ["imputed_sd", "imputed"], ["imputed_q95"], list(SPREAD)])
def test_the_layers_asked_for_are_as_with_all(case, layers):
    whole = stmcdi.impute(case.masked, case.model, **OPTIONS)
    some = stmcdi.impute(whole, case.model, layers=layers, **OPTIONS)
    assert {name for name in layers_of(some) if name.startswith("imputed")} == set(layers)  # older ones go
    for name in layers:
        np.testing.assert_array_equal(dense(some.layers[name]), dense(whole.layers[name]))


def test_quantiles_cost_nothing_where_nobody_wants_them(case, monkeypatch):
    from stmcdi_cli.model import draw_summary

    monkeypatch.setattr(draw_summary, "order_statistics", None)
    stmcdi.impute(case.masked, case.model, layers=["imputed", "imputed_sd"], **OPTIONS)
    for quantile in ("imputed_q95", "imputed_median"):
        with pytest.raises(TypeError):
            stmcdi.impute(case.masked, case.model, layers=[quantile], **OPTIONS)


@pytest.mark.parametrize(("tail", "enough"), [(0.05, 19), (0.03, 33), (0.1, 9), (0.02, 49)])
def test_too_few_draws_for_the_interval_are_said(case, caplog, tail, enough):
    from stmcdi_cli.model import save_load

    caplog.set_level("INFO")
    model = save_load.load(case.model)
    model.tail = torch.tensor(tail)
    few = case.masked[:20].copy()
    for n_samples in (enough, enough - 1):
        assert "too narrow" not in caplog.text
        stmcdi.impute(few, model, n_samples=n_samples, device="cpu")
    assert f"impute: {enough - 1} draws are few" in caplog.text and f"from --n-samples {enough} on" in caplog.text
    caplog.clear()
    stmcdi.impute(few, model, n_samples=2, device="cpu", layers=["imputed", "imputed_sd"])
    assert "too narrow" not in caplog.text


@pytest.mark.parametrize("preset", ["default", "paper"])
def test_the_spread_is_that_of_the_draws(case, tmp_path, preset):
    from stmcdi_cli.model import save_load
    from stmcdi_cli.model.base import DrawOptions
    from stmcdi_cli.model.draw_summary import interval
    from stmcdi_cli.model.tissue import Tissue

    few, model = case.masked[:40].copy(), case.model
    if preset == "paper":
        few = few[:, :20].copy()
        stmcdi.train(few, tmp_path / "model", preset="paper", epochs=1, device="cpu", quiet=True)
        model = tmp_path / "model"
    loaded = save_load.load(model)
    loaded.prepare(Tissue.from_anndata(few), device=torch.device("cpu"))
    draws = loaded.draw(np.arange(40), DrawOptions(n_samples=6, seed=0, sampler="dpm", n_steps=3))
    result, hidden = stmcdi.impute(few, model, n_steps=3, **OPTIONS), dense(few.layers["missing"])
    np.testing.assert_array_equal(dense(result.layers["imputed"])[hidden], draws.mean[hidden])
    np.testing.assert_allclose(dense(result.layers["imputed_sd"])[hidden], draws.samples.std(0)[hidden], atol=1e-6)
    low, high = interval(draws.samples[:, hidden], draws.tail)
    expected = {"imputed_q05": low, "imputed_median": np.median(draws.samples[:, hidden], axis=0), "imputed_q95": high}
    for name, values in expected.items():
        np.testing.assert_array_equal(dense(result.layers[name])[hidden], values)


@pytest.mark.parametrize("small", [0, 2**28])
@pytest.mark.parametrize("target", ["missing", "zeros"])
def test_a_file_is_imputed_as_the_object_in_memory_is(case, cli, tmp_path, monkeypatch, target, small):
    """The matrices of a large file stay on disk; batches and limits of memory change no bit."""
    monkeypatch.setattr("stmcdi_cli.model.tissue._SMALL", small)
    here = stmcdi.impute(case.masked, case.model, target=target, **OPTIONS)
    for options in (["--memory-limit", "8G"], ["--batch-size", 1000], ["--batch-size", 7]):
        out = tmp_path / "out.h5ad"
        arguments = ["--target", target, "--n-samples", 6, "--device", "cpu", "--quiet", *options]
        assert cli("impute", case.file, case.model, out, *arguments).exit_code == 0
        there = sc.read_h5ad(out)
        for name in ("X", "missing", "counts", "imputed", *SPREAD):
            one, two = (a.X if name == "X" else a.layers[name] for a in (here, there))
            assert dense(one).tobytes() == dense(two).tobytes(), name
            assert sp.issparse(one) == sp.issparse(two)
        assert there.uns["stmcdi"]["impute"]["parameters"]["seconds"] > 0
        assert set(there.uns["stmcdi"]) == set(here.uns["stmcdi"])
        assert [path.name for path in tmp_path.iterdir()] == ["out.h5ad"]


@pytest.mark.parametrize("threads", [1, 2])
def test_five_shards_are_as_one(case, cli, tmp_path, monkeypatch, threads):
    monkeypatch.setenv("OMP_NUM_THREADS", str(threads))
    monkeypatch.setattr("stmcdi_cli.model.tissue._SMALL", 0)  # as those of a large file, whose rows stay on disk
    options = ["--n-samples", 6, "--device", "cpu", "--quiet"]
    files = [tmp_path / f"{i}.h5ad" for i in range(1, 6)]
    for i, file in enumerate(files, start=1):
        assert cli("impute", case.file, case.model, file, "--shard", f"{i}/5", *options).exit_code == 0
    assert cli("merge", *files, tmp_path / "merged.h5ad").exit_code == 0
    here, there = stmcdi.impute(case.masked, case.model, **OPTIONS), sc.read_h5ad(tmp_path / "merged.h5ad")
    for name in ("imputed", *SPREAD):
        assert dense(here.layers[name]).tobytes() == dense(there.layers[name]).tobytes(), name


class Killed(BaseException):
    """Nothing can catch a SIGKILL; hardly anything catches this."""


@pytest.fixture
def broken_off(case, cli, tmp_path, monkeypatch):
    """An imputation that ended after three of its parts; the command, and what was drawn since."""
    from stmcdi_cli.io.partial import Parts
    from stmcdi_cli.model.latent.model import LatentModel

    monkeypatch.setattr("stmcdi_cli.steps.impute._FEWEST_SPOTS", 40)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    command = ["impute", case.file, case.model, tmp_path / "out.h5ad", "--n-samples", 6, "--device", "cpu"]
    command += ["--batch-size", 40]
    save, drawn = Parts.save, []

    def stop(self, name, arrays):
        save(self, name, arrays)
        if name == "80-120":
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Parts, "save", stop)
        cli(*command)
    key = (tmp_path / ".out.h5ad.parts/key").read_text()
    assert {path.name for path in (tmp_path / ".out.h5ad.parts").iterdir()} == {
        *("key", *(f"{name}-{key}.part" for name in ("encoded", "0-40", "40-80", "80-120")))
    }
    assert (tmp_path / ".out.h5ad.parts").stat().st_mode & 0o777 == 0o700
    draw_each = LatentModel.draw_each

    def spy(self, spots, *arguments, **options):
        drawn.extend(spots)
        return draw_each(self, spots, *arguments, **options)

    monkeypatch.setattr(LatentModel, "draw_each", spy)
    return SimpleNamespace(command=command, drawn=drawn, folder=tmp_path / ".out.h5ad.parts")


def imputed_as_here(case, file, **options):
    here, there = stmcdi.impute(case.masked, case.model, **{**OPTIONS, **options}), sc.read_h5ad(file)
    for name in ("imputed", *SPREAD):
        assert dense(here.layers[name]).tobytes() == dense(there.layers[name]).tobytes(), name


def test_what_was_drawn_before_a_kill_is_not_drawn_again(case, cli, tmp_path, broken_off):
    result = cli(*broken_off.command)
    assert result.exit_code == 0 and "impute: going on; 3 batches are done" in result.stderr
    assert broken_off.drawn == list(range(120, case.masked.n_obs))
    assert [path.name for path in tmp_path.iterdir()] == ["out.h5ad"]
    imputed_as_here(case, tmp_path / "out.h5ad")


@pytest.mark.parametrize("kind", ["seed", "input", "model", "half a part", "no key", "another's"])
def test_other_work_is_not_gone_on_with(case, cli, tmp_path, broken_off, kind):
    command, folder = list(broken_off.command), broken_off.folder
    if kind == "seed":
        command += ["--seed", 1]
    elif kind == "input":
        command[1] = tmp_path / "in.h5ad"
        case.masked[::-1].copy().write_h5ad(command[1])
    elif kind == "model":
        command[2] = tmp_path / "model"
        stmcdi.train(case.masked, command[2], epochs=1, seed=2, device="cpu", quiet=True)
    elif kind == "half a part":
        (part,) = folder.glob("40-80-*.part")
        part.write_bytes(part.read_bytes()[:-4])
    elif kind == "no key":
        (folder / "key").unlink()
    elif kind == "another's":
        folder.chmod(0o777)
    broken_off.drawn.clear()  # those of the training above
    assert cli(*command).exit_code == 0
    again = range(case.masked.n_obs) if kind != "half a part" else [*range(40, 80), *range(120, case.masked.n_obs)]
    assert broken_off.drawn == list(again)
    assert folder.exists() == (kind in ("no key", "another's"))  # not ours to remove
    if kind in ("half a part", "another's"):
        imputed_as_here(case, tmp_path / "out.h5ad")


def test_a_link_at_the_place_of_parts_is_not_followed(case, cli, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / ".out.h5ad.parts").symlink_to(tmp_path / "elsewhere")
    arguments = ["impute", case.file, case.model, tmp_path / "out.h5ad", "--n-samples", 2, "--device", "cpu"]
    assert cli(*arguments).exit_code == 0
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_parts_are_kept_where_asked_and_nothing_else_there_is_touched(case, tmp_path, monkeypatch):
    from stmcdi_cli.io.partial import Parts

    monkeypatch.setattr("stmcdi_cli.steps.impute._FEWEST_SPOTS", 40)
    folder, save = tmp_path / "a" / "parts", Parts.save

    def stop(self, name, arrays):
        save(self, name, arrays)
        if name == "40-80":
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Parts, "save", stop)
        stmcdi.impute(case.masked, case.model, parts=folder, batch_size=40, **OPTIONS)
    assert len(list(folder.glob("40-80-*.part"))) == 1
    (folder / "mine.txt").write_text("mine")
    whole, again = (stmcdi.impute(case.masked, case.model, parts=each, **OPTIONS) for each in (None, folder))
    for name in ("imputed", *SPREAD):
        assert dense(whole.layers[name]).tobytes() == dense(again.layers[name]).tobytes(), name
    assert [path.name for path in folder.iterdir()] == ["mine.txt"]
    stmcdi.impute(case.masked, case.model, parts=folder, **OPTIONS)  # not a folder of parts any more
    assert [path.name for path in folder.iterdir()] == ["mine.txt"]


def test_layers_nobody_knows_are_named(case, refused, tmp_path):
    line = refused("impute", case.file, case.model, tmp_path / "out.h5ad", "--layers", "imputed,mean")
    assert "expected `layers` to be one of imputed, imputed_sd," in line and "found `mean`" in line


REFUSED = {
    "no samples": (["--n-samples", 0], "expected `n_samples` to be at least 1, found `0`"),
    "no batch": (["--batch-size", 0], "expected `batch_size` to be at least 1, found `0`"),
    "no steps": (["--n-steps", 0], "expected `n_steps` to be at least 1, found `0`"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_options_out_of_range_are_refused(case, refused, tmp_path, kind):
    options, message = REFUSED[kind]
    line = refused("impute", case.file, case.model, tmp_path / "out.h5ad", *options)
    assert line == f"stmcdi impute: {message}"


def test_a_gpu_that_is_not_there_is_refused(case, refused, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    line = refused("impute", case.file, case.model, tmp_path / "out.h5ad", "--device", "cuda")
    assert "--device cuda: no GPU is visible" in line


def test_a_model_that_is_not_there_is_refused(case, refused, tmp_path):
    assert "no model folder" in refused("impute", case.file, tmp_path / "none", tmp_path / "out.h5ad")
    (tmp_path / "half").mkdir()
    assert "not a complete model" in refused("impute", case.file, tmp_path / "half", tmp_path / "out.h5ad")


def test_a_file_without_a_graph_is_refused_with_the_remedy(case, refused, h5ad, tmp_path):
    bare = case.masked.copy()
    del bare.obsp["spatial_connectivities"]
    line = refused("impute", h5ad(bare), case.model, tmp_path / "out.h5ad")
    assert "run `stmcdi build-graph` first" in line and "input.h5ad" in line


def test_other_genes_than_the_models_are_named(case, refused, h5ad, tmp_path):
    fewer = h5ad(case.masked[:, 1:].copy())
    assert "the data lack gene_1" in refused("impute", fewer, case.model, tmp_path / "out.h5ad")
    other = case.masked.copy()
    other.var_names = ["Actb", *other.var_names[1:]]
    line = refused("impute", h5ad(other, "other.h5ad"), case.model, tmp_path / "out.h5ad")
    assert "the data lack gene_1; the model does not know Actb" in line


def test_genes_nobody_knows_are_named(case, refused, tmp_path):
    (tmp_path / "genes.txt").write_text("gene_1\nActb\n")
    line = refused("impute", case.file, case.model, tmp_path / "out.h5ad", "--genes", tmp_path / "genes.txt")
    assert "found Actb; correct the list (--genes)" in line


def test_values_on_another_scale_than_the_models_are_refused(case, refused, h5ad, tissue, tmp_path):
    """Raw counts to a model of log expression: everything would be imputed, and wrong."""
    counts = h5ad(stmcdi.build_graph(stmcdi.normalize(tissue, skip=True), section_key="section"))
    line = refused("impute", counts, case.model, tmp_path / "out.h5ad")
    assert "X is on the scale of raw counts, the model's is that of log1p-normalised counts" in line


def test_a_failure_half_way_leaves_no_output(case, cli, tmp_path, monkeypatch):
    from stmcdi_cli.model.latent.model import LatentModel

    def fail(*arguments, **options):
        raise ZeroDivisionError

    monkeypatch.setattr(LatentModel, "draw_each", fail)
    with pytest.raises(ZeroDivisionError):
        cli("impute", case.file, case.model, tmp_path / "out.h5ad", "--quiet")
    assert list(tmp_path.iterdir()) == []
