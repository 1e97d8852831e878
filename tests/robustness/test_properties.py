"""What must hold for any tissue: nothing lost or reordered, visible values kept, hidden values without influence."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from helpers import dense, same
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from steps import LONG

import stmcdi_cli as stmcdi
from stmcdi_cli.errors import InputError

usual = settings(
    max_examples=200 if LONG else 15,
    deadline=None,
    derandomize=not LONG,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture],
)
SEEDS = st.integers(0, 2**32 - 1)


@st.composite
def tissues(draw, least_spots=3, least_genes=2):
    """Counts with coordinates and two sections; some spots and genes may be empty."""
    random = np.random.default_rng(draw(SEEDS))
    n_spots, n_genes = draw(st.integers(least_spots, 40)), draw(st.integers(least_genes, 20))
    rate = random.gamma(draw(st.sampled_from([0.3, 1, 3])), draw(st.sampled_from([0.5, 3, 100])), (1, n_genes))
    counts = random.poisson(rate * random.gamma(4, 0.25, (n_spots, 1))).astype(np.float32)
    counts[random.random(n_spots) < draw(st.sampled_from([0, 0, 0.2]))] = 0
    assume(counts.any())
    adata = ad.AnnData(
        sp.csr_matrix(counts) if draw(st.booleans()) else counts,
        obs=pd.DataFrame(
            {"section": pd.Categorical(random.choice(["a", "b"], n_spots))},
            index=[f"s{i}" for i in random.permutation(n_spots)],
        ),
        var=pd.DataFrame(index=[f"g{i}" for i in random.permutation(n_genes)]),
    )
    adata.obsm["spatial"] = random.uniform(-100, 100, (n_spots, 2))
    adata.uns["random"] = int(random.integers(2**31))
    return adata


def hide(adata, share, values):
    """Mark entries as missing, with some values under the mark; the same entries for the same tissue."""
    random = np.random.default_rng(adata.uns["random"])
    mask = random.random(adata.shape) < share
    result = adata.copy()
    result.X = np.where(mask, values(random), dense(adata.X)).astype(np.float32)
    result.layers["missing"] = sp.csr_matrix(mask)
    return result


def same_place(result, source):
    assert list(result.obs_names) == list(source.obs_names)
    assert list(result.var_names) == list(source.var_names)
    np.testing.assert_array_equal(result.obsm["spatial"], source.obsm["spatial"])


# normalize


@usual
@given(tissues())
def test_normalize_loses_and_moves_nothing(raw):
    before = raw.copy()
    result = stmcdi.normalize(raw)
    same(raw, before)
    same_place(result, raw)
    counts = dense(raw.X)
    np.testing.assert_array_equal(dense(result.layers["counts"]), counts)
    np.testing.assert_array_equal(dense(result.X) > 0, counts > 0)
    total = counts.sum(1)
    np.testing.assert_allclose(
        np.expm1(dense(result.X).astype(np.float64)).sum(1)[total > 0], np.median(total[total > 0]), rtol=1e-4
    )


@usual
@given(tissues(), st.integers(2, 50), st.data())
def test_normalize_does_not_care_how_deep_a_spot_was_read(raw, times, data):
    counts = dense(raw.X).astype(np.float64)
    deeper = raw.copy()
    spot = data.draw(st.integers(0, raw.n_obs - 1))
    counts[spot] *= times
    deeper.X = counts.astype(np.float32)
    one, other = (
        np.expm1(dense(result.X).astype(np.float64)) / np.median(total[total > 0])
        for result, total in (
            (stmcdi.normalize(raw), dense(raw.X).sum(1)),
            (stmcdi.normalize(deeper), counts.sum(1)),
        )
    )
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-9)


@usual
@given(tissues(), st.sampled_from([0.1, 0.5]))
def test_normalize_does_not_see_hidden_counts(raw, share):
    empty = hide(raw, share, lambda _: 0.0)
    assume(dense(empty.X).any() and empty.layers["missing"].nnz)
    results = [
        stmcdi.normalize(hide(raw, share, values))
        for values in (lambda _: 0.0, lambda random: random.poisson(50, raw.shape), lambda _: 7.0)
    ]
    unmarked = hide(raw, share, lambda _: np.nan)
    del unmarked.layers["missing"]
    results.append(stmcdi.normalize(unmarked))
    for other in results[1:]:
        same(results[0], other)
    assert not dense(results[0].X)[dense(results[0].layers["missing"])].any()


# select-hvg


@usual
@given(tissues(), st.sampled_from(["cv2-trend", "cv"]), SEEDS)
def test_select_hvg_keeps_order_and_values_and_ignores_the_order_of_spots(raw, method, seed):
    normalized = stmcdi.normalize(raw)
    try:
        result = stmcdi.select_hvg(normalized, method=method, n_genes=max(1, raw.n_vars // 2))
    except InputError:
        return  # too few genes to choose from
    assert list(result.obs_names) == list(raw.obs_names)
    assert [gene for gene in raw.var_names if gene in set(result.var_names)] == list(result.var_names)
    np.testing.assert_array_equal(dense(result.X), dense(normalized[:, result.var_names].X))
    other = normalized[np.random.default_rng(seed).permutation(raw.n_obs)].copy()
    flags = stmcdi.select_hvg(other, method=method, n_genes=max(1, raw.n_vars // 2), subset=False).var
    scores = flags["cv2_residual" if method == "cv2-trend" else "cv"]
    if not np.isclose(np.diff(np.sort(scores.dropna())), 0).any():  # equal scores: rounding decides
        assert list(flags.index[flags["highly_variable"]]) == list(result.var_names)


@usual
@given(tissues())
def test_select_hvg_does_not_see_hidden_counts(raw):
    assume(dense(hide(raw, 0.3, lambda _: 0.0).X).any())
    chosen = []
    for values in (lambda _: 0.0, lambda random: random.poisson(90, raw.shape)):
        try:
            chosen.append(list(stmcdi.select_hvg(stmcdi.normalize(hide(raw, 0.3, values)), n_genes=2).var_names))
        except InputError as error:
            chosen.append(str(error))
    assert chosen[0] == chosen[1]


# build-graph


@usual
@given(tissues(), st.sampled_from(["knn", "radius", "delaunay", "grid"]), st.booleans())
def test_a_graph_joins_spots_of_a_section_by_their_distance(raw, method, sections):
    options = {"radius": 60.0} if method == "radius" else {}
    result = stmcdi.build_graph(raw, method=method, section_key="section" if sections else None, **options)
    same_place(result, raw)
    edges, length = (result.obsp[f"spatial_{name}"] for name in ("connectivities", "distances"))
    assert edges.shape == (raw.n_obs, raw.n_obs) and (edges.data == 1).all() and not edges.diagonal().any()
    source, target = edges.nonzero()
    if method != "knn":
        assert (edges != edges.T).nnz == 0 and abs(length - length.T).max() < 1e-9
    else:
        section = raw.obs["section"].to_numpy() if sections else np.zeros(raw.n_obs)
        size = np.array([(section == one).sum() for one in section])
        np.testing.assert_array_equal(np.diff(edges.indptr), np.minimum(5, size - 1))
    if sections:
        section = raw.obs["section"].to_numpy()
        assert (section[source] == section[target]).all()
    if method != "grid":
        place = raw.obsm["spatial"]
        expected = np.linalg.norm(place[source] - place[target], axis=1)
        np.testing.assert_allclose(length.toarray()[source, target], expected)


@usual
@given(tissues(), st.sampled_from(["knn", "delaunay"]), st.sampled_from([0.25, 2.0, 1024.0]), SEEDS)
def test_a_graph_does_not_care_for_units_nor_for_the_order_of_spots(raw, method, unit, seed):
    edges = stmcdi.build_graph(raw, method=method).obsp["spatial_connectivities"].toarray()
    other = raw.copy()
    other.obsm["spatial"] = raw.obsm["spatial"] * unit
    np.testing.assert_array_equal(
        stmcdi.build_graph(other, method=method).obsp["spatial_connectivities"].toarray(), edges
    )
    order = np.random.default_rng(seed).permutation(raw.n_obs)
    moved = stmcdi.build_graph(raw[order].copy(), method=method).obsp["spatial_connectivities"].toarray()
    np.testing.assert_array_equal(moved, edges[np.ix_(order, order)])


# hold-out


@usual
@given(tissues(), st.floats(0.05, 0.95), SEEDS, st.sampled_from(["all", "nonzero"]))
def test_hold_out_hides_some_entries_and_leaves_the_others(raw, fraction, seed, of):
    raw = hide(raw, 0.2, lambda _: 0.0)
    try:
        masked, truth = stmcdi.hold_out(raw, fraction=fraction, seed=seed, of=of)
    except InputError:
        return  # nothing was chosen
    for part in (masked, truth):
        same_place(part, raw)
    before, after, hidden = (dense(part.layers["missing"]) for part in (raw, masked, truth))
    np.testing.assert_array_equal(after, before | hidden)
    assert not (before & hidden).any() and hidden.any()
    x = dense(raw.X)
    np.testing.assert_array_equal(dense(masked.X), np.where(after, 0, x))
    np.testing.assert_array_equal(dense(truth.X)[hidden], x[hidden])
    if of == "nonzero":
        assert (x[hidden] > 0).all()
    again, _ = stmcdi.hold_out(raw, fraction=fraction, seed=seed, of=of)
    same(masked, again)
    other = raw.copy()
    other.X = np.where(x > 0, x * 3 + 1, 0)
    np.testing.assert_array_equal(
        dense(stmcdi.hold_out(other, fraction=fraction, seed=seed, of=of)[0].layers["missing"]), after
    )


# baseline, evaluate


@usual
@given(tissues(least_spots=8, least_genes=3), st.sampled_from(["gene-mean", "spatial-neighbors"]), SEEDS)
def test_a_baseline_keeps_what_is_visible_and_does_not_see_what_is_hidden(raw, method, seed):
    graph = stmcdi.build_graph(stmcdi.normalize(raw))
    masked, truth = stmcdi.hold_out(graph, fraction=0.3, seed=seed)
    assume((np.asarray((dense(masked.X) > 0).sum(0)) > 0).all())
    result = stmcdi.baseline(masked, method=method)
    same_place(result, raw)
    missing, imputed = dense(masked.layers["missing"]), dense(result.layers["imputed"])
    np.testing.assert_array_equal(imputed[~missing], dense(masked.X)[~missing])
    assert np.isfinite(imputed).all() and (imputed >= 0).all()
    under = masked.copy()
    under.X = sp.csr_matrix(np.where(missing, 9.0, dense(masked.X)).astype(np.float32))
    np.testing.assert_array_equal(dense(stmcdi.baseline(under, method=method).layers["imputed"]), imputed)
    for name in ("sd", "q05", "q95"):
        assert not dense(result.layers[f"imputed_{name}"])[~missing].any()


@usual
@given(tissues(), SEEDS, st.floats(0.01, 5))
def test_scores_look_at_hidden_entries_alone(raw, seed, off):
    normalized = stmcdi.normalize(raw)
    try:
        masked, truth = stmcdi.hold_out(normalized, fraction=0.4, seed=seed)
    except InputError:
        return
    hidden, x = dense(truth.layers["missing"]), dense(normalized.X).astype(np.float64)
    masked.layers["imputed"] = x
    scores = stmcdi.evaluate(masked, truth)
    assert scores["rmse"] == pytest.approx(0, abs=1e-6) and scores["mae"] == pytest.approx(0, abs=1e-6)
    assert scores["n_hidden"] == hidden.sum()
    masked.layers["imputed"] = x + off
    scores = stmcdi.evaluate(masked, truth)
    assert scores["rmse"] == pytest.approx(off, rel=1e-3) and scores["mae"] == pytest.approx(off, rel=1e-3)
    masked.layers["imputed"] = np.where(hidden, x + off, -77)  # what is not hidden
    assert stmcdi.evaluate(masked, truth) == scores
    order = np.random.default_rng(seed).permutation(raw.n_obs)
    moved = stmcdi.evaluate(masked[order].copy(), truth[order].copy())
    assert moved.keys() == scores.keys()
    for name, score in scores.items():
        assert moved[name] == (score if score is None else pytest.approx(score, rel=1e-6, abs=1e-9)), name


# join, merge


@usual
@given(st.lists(tissues(), min_size=1, max_size=3))
def test_joined_tissues_keep_their_spots_in_order(parts):
    shared = [gene for gene in parts[0].var_names if all(gene in part.var_names for part in parts)]
    result = stmcdi.join(parts, section_key="section")
    assert list(result.var_names) == shared
    names = [f"{spot}-{number}" for number, part in enumerate(parts, 1) for spot in part.obs_names]
    assert list(result.obs_names) == names
    np.testing.assert_array_equal(dense(result.X), np.concatenate([dense(part[:, shared].X) for part in parts]))
    np.testing.assert_array_equal(result.obsm["spatial"], np.concatenate([part.obsm["spatial"] for part in parts]))


@settings(usual, max_examples=20 if LONG else 4)
@given(st.integers(1, 12), SEEDS)
def test_shards_of_any_number_in_any_order_are_the_whole(imputed_run, n, seed):
    options = {"n_samples": 2, "device": "cpu", "quiet": True}
    whole = stmcdi.impute(imputed_run.masked, imputed_run.model, **options)
    parts = [
        stmcdi.impute(imputed_run.masked, imputed_run.model, shard=f"{number}/{n}", **options)
        for number in np.random.default_rng(seed).permutation(n) + 1
    ]
    same(stmcdi.merge(parts), whole)
