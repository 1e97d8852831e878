import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
from helpers import dense, make_raw, same

import stmcdi_cli as stmcdi
from stmcdi_cli.errors import InputError
from stmcdi_cli.steps.normalize import spot_totals


def test_equation_29_then_log1p(raw):
    counts = dense(raw.X)
    total = counts.sum(1)
    result = stmcdi.normalize(raw)
    expected = np.median(total) * counts / total[:, None]
    np.testing.assert_allclose(dense(result.X), np.log1p(expected), rtol=1e-6)
    np.testing.assert_allclose(dense(stmcdi.normalize(raw, log=False).X), expected, rtol=1e-6)
    np.testing.assert_array_equal(dense(result.layers["counts"]), counts)
    np.testing.assert_allclose(result.obs["size_factor"], total / np.median(total))
    assert isinstance(result.X, sp.csr_matrix) and result.X.dtype == np.float32
    assert result.layers["counts"].dtype == np.float32
    assert "missing" not in result.layers


@pytest.mark.parametrize("form", [sp.csr_matrix, sp.csc_matrix, sp.csr_array, lambda x: x.toarray()])
@pytest.mark.parametrize("dtype", [np.int64, np.uint16, np.float32, np.float64])
def test_any_matrix_form_gives_the_same(raw, form, dtype):
    other = raw.copy()
    other.X = form(raw.X.astype(dtype))
    same(stmcdi.normalize(raw), stmcdi.normalize(other))


def test_counts_in_a_layer(raw):
    other = raw.copy()
    other.layers["umis"] = raw.X.copy()
    other.X = sp.csr_matrix(raw.shape, dtype=np.float32)
    np.testing.assert_array_equal(dense(stmcdi.normalize(other, layer="umis").X), dense(stmcdi.normalize(raw).X))
    with pytest.raises(InputError, match=r"layers\['nope'\], found only umis; correct --layer"):
        stmcdi.normalize(other, layer="nope")


def test_the_input_is_not_changed_and_the_rest_is_kept(raw):
    before = raw.copy()
    result = stmcdi.normalize(raw)
    same(raw, before)
    assert result.obs_names.equals(raw.obs_names) and result.var_names.equals(raw.var_names)
    for key in raw.obsm:
        np.testing.assert_array_equal(result.obsm[key], raw.obsm[key])
    np.testing.assert_array_equal(result.varm["loading"], raw.varm["loading"])
    assert result.uns["source"] == {"tissue": "none"}
    totals = {"median_total": np.median(dense(raw.X).sum(1)), "n_genes": raw.n_vars}
    assert result.uns["stmcdi"]["normalize"]["parameters"] == {"log": True, "skip": False} | totals
    assert "stmcdi" not in raw.uns and "size_factor" not in raw.obs


@pytest.mark.parametrize("form", [sp.csr_matrix, sp.csc_matrix, np.asarray])
def test_nan_becomes_missing(raw, form):
    values = dense(raw.X).copy()
    hidden = np.random.default_rng(0).random(values.shape) < 0.1
    values[hidden] = np.nan
    raw.X = form(values)
    result = stmcdi.normalize(raw)
    np.testing.assert_array_equal(dense(result.layers["missing"]), hidden)
    assert result.layers["missing"].dtype == bool and result.layers["missing"].format == "csr"
    for matrix in (result.X, result.layers["counts"]):
        assert not dense(matrix)[hidden].any() and np.isfinite(dense(matrix)).all()


def test_hidden_values_change_nothing(raw):
    """What X holds at missing entries must not reach any output."""
    masked, _ = stmcdi.hold_out(raw, fraction=0.3)
    leaky = masked.copy()
    leaky.X = dense(masked.X) + 1000 * dense(masked.layers["missing"])
    same(stmcdi.normalize(masked), stmcdi.normalize(leaky))


def test_totals_do_not_shrink_with_what_is_missing():
    """A spot that lacks its most abundant genes is not taken for a shallow one."""
    random = np.random.default_rng(0)
    depth = random.lognormal(0, 0.5, 300) * 2000
    share = random.dirichlet(np.full(100, 0.3))
    counts = random.poisson(depth[:, None] * share).astype(float)
    missing = np.zeros(counts.shape, bool)
    missing[:150, np.argsort(-share)[:5]] = True  # a section measured without the most abundant genes
    visible = sp.csr_matrix(np.where(missing, 0, counts))
    mask = sp.csr_matrix(missing)
    blocks = slice(0, 100), slice(100, 300)
    sums = (np.asarray(visible.sum(axis)).ravel() for axis in (1, 0))
    estimate = spot_totals(*sums, lambda: ((rows, mask[rows]) for rows in blocks))
    error = np.log(estimate / counts.sum(1))
    assert abs(error[:150].mean()) < 0.01 and error.std() < 0.1
    naive = np.log(np.asarray(visible.sum(1)).ravel() / counts.sum(1))
    assert naive[:150].mean() < -0.2


def test_spots_without_counts_stay(raw):
    values = dense(raw.X).copy()
    values[[3, 7]] = 0
    raw.X = sp.csr_matrix(values)
    with np.errstate(all="raise"):
        result = stmcdi.normalize(raw)
    assert result.n_obs == raw.n_obs
    assert list(np.flatnonzero(result.obs["empty_spot"])) == [3, 7]
    assert (result.obs["size_factor"].iloc[[3, 7]] == 1).all() and np.isfinite(dense(result.X)).all()
    used = values.sum(1) > 0
    np.testing.assert_allclose(result.obs["size_factor"][used], values.sum(1)[used] / np.median(values.sum(1)[used]))


def test_a_spot_with_everything_missing_and_a_gene_with_nothing_seen(raw):
    values = dense(raw.X).copy()
    values[4] = np.nan
    values[:, 5] = np.nan
    raw.X = values
    with np.errstate(all="raise"):
        result = stmcdi.normalize(raw)
    assert result.obs["empty_spot"].iloc[4] and np.isfinite(result.obs["size_factor"]).all()
    assert np.isfinite(dense(result.X)).all()


def test_skip_keeps_values_as_they_are(raw):
    result = stmcdi.normalize(raw, skip=True)
    np.testing.assert_array_equal(dense(result.X), dense(raw.X))
    np.testing.assert_array_equal(dense(result.layers["counts"]), dense(raw.X))
    assert "size_factor" not in result.obs
    raw.X = raw.X * 0.5
    assert "counts" not in stmcdi.normalize(raw, skip=True).layers


def test_explicit_zeros_and_unsorted_indices_are_no_values(raw):
    other = raw.copy()
    coo = raw.X.tocoo()
    order = np.random.default_rng(0).permutation(coo.nnz)
    rows, columns, data = coo.row[order], coo.col[order], coo.data[order]
    indptr = np.searchsorted(np.sort(rows), np.arange(raw.n_obs + 1))
    by_row = np.argsort(rows, kind="stable")
    untidy = sp.csr_matrix((data[by_row], columns[by_row], indptr), shape=raw.shape)
    untidy = untidy + sp.csr_matrix((np.zeros(raw.n_vars), np.arange(raw.n_vars), [0] + [raw.n_vars] * raw.n_obs))
    other.X = untidy
    same(stmcdi.normalize(raw), stmcdi.normalize(other))


def broken(change):
    adata = make_raw()
    values = dense(adata.X).copy()
    return change(adata, values)


def with_values(adata, values):
    adata.X = sp.csr_matrix(values)
    return adata


def at(adata, values, value):
    values[2, 3] = value
    return with_values(adata, values)


def spatial(adata, value):
    adata.obsm["spatial"][5, 1] = value
    return adata


def named(adata, axis):
    names = [f"n{i}" for i in range(getattr(adata, f"n_{axis}"))]
    names[1] = names[0]
    setattr(adata, f"{axis}_names" if axis == "obs" else "var_names", names)
    return adata


BAD = {
    "no coordinates": (lambda a, v: ad.AnnData(a.X, a.obs, a.var), "obsm['spatial'], found none; add them"),
    "NaN coordinates": (lambda a, v: spatial(a, np.nan), "at 1 spots (first s5)"),
    "infinite coordinates": (lambda a, v: spatial(a, np.inf), "at 1 spots (first s5)"),
    "negative": (lambda a, v: at(a, v, -2), "no negative value in X, found -2"),
    "fractions": (lambda a, v: at(a, v, 0.5), "whole counts in X, found 0.5"),
    "infinite": (lambda a, v: at(a, v, np.inf), "finite values in X"),
    "all zero": (lambda a, v: with_values(a, v * 0), "some non-zero value in X"),
    "duplicate spots": (lambda a, v: named(a, "obs"), "unique spot names, found n0 more than once"),
    "duplicate genes": (lambda a, v: named(a, "vars"), "unique gene names, found n0 more than once"),
    "zero spots": (lambda a, v: a[:0].copy(), "at least 2 spots, found 0"),
    "one spot": (lambda a, v: a[:1].copy(), "at least 2 spots, found 1"),
    "zero genes": (lambda a, v: a[:, :0].copy(), "at least 1 gene, found 0"),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.filterwarnings("ignore:.*not unique")
def test_bad_input_is_refused_in_one_line(case, h5ad, refused, tmp_path):
    change, message = BAD[case]
    line = refused("normalize", h5ad(broken(change)), tmp_path / "out.h5ad")
    assert message in line and line.startswith(f"stmcdi normalize: {tmp_path / 'input.h5ad'}: expected"), line
    assert ";" in line  # what to do


def test_fractions_are_fine_with_skip_but_negatives_are_not(h5ad, cli, refused, tmp_path):
    fractions = h5ad(broken(BAD["fractions"][0]), "fractions.h5ad")
    assert cli("normalize", fractions, tmp_path / "out.h5ad", "--skip").exit_code == 0
    refused("normalize", h5ad(broken(BAD["negative"][0])), tmp_path / "other.h5ad", "--skip")


@pytest.mark.parametrize("step", ["normalize", "join", "hold-out"])
@pytest.mark.parametrize("shape", [(20, 60), (60, 20)])
def test_a_mask_stored_by_columns_marks_the_same_entries(cli, h5ad, tmp_path, shape, step):
    """As rows, its numbers would fit where there are more genes than spots, and mark other entries."""
    found = []
    mask = np.zeros(shape, bool)
    mask[:15, 3] = True
    for kind in (sp.csr_matrix, sp.csc_matrix):
        marked = make_raw(*shape, seed=1)
        marked.layers["missing"] = kind(mask)
        name, output = kind.__name__, tmp_path / f"{kind.__name__}-out.h5ad"
        more = [tmp_path / f"{name}-truth.h5ad"] if step == "hold-out" else []
        result = cli(step, h5ad(marked, f"{name}.h5ad"), output, *more)
        assert result.exit_code == 0, result.output
        found.append(dense(ad.read_h5ad(output).layers["missing"]))
    assert found[0][:15, 3].all() and (step == "hold-out" or found[0].sum() == 15)
    np.testing.assert_array_equal(*found)
