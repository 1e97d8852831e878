"""Whole spots hidden: what the methods predict there, and that nothing hidden reaches them."""

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
import torch
from helpers import dense, make_raw

import stmcdi_cli as stmcdi
from stmcdi_cli.baselines import METHODS, DenseTissue, base, idw, kriging
from stmcdi_cli.errors import OptionError

SPATIAL = ["spatial-neighbors", "idw", "kriging"]
FILLED = ["expression-neighbors", "soft-impute", "factor-analysis"]


@pytest.fixture(scope="module")
def field():
    """Two smooth patterns on a grid of 18 x 18 spots, with noise, and a hole of 5 x 5 spots; hidden values are -1."""
    xy = np.stack(np.meshgrid(np.arange(18.0), np.arange(18.0)), -1).reshape(-1, 2)
    random = np.random.default_rng(0)
    patterns = np.stack([np.sin(xy[:, 0] / 4), np.cos(xy[:, 1] / 5)], 1)
    truth = 3 + patterns @ random.normal(0, 0.7, (2, 30)) + random.normal(0, 0.2, (len(xy), 30))
    hole = ((xy > 6) & (xy < 12)).all(1)
    masked = ad.AnnData(np.where(hole[:, None], 0, truth).clip(0).astype(np.float32), obsm={"spatial": xy})
    masked.layers["missing"] = sp.csr_matrix(np.repeat(hole[:, None], 30, axis=1))
    return masked, truth, hole


@pytest.fixture(scope="module")
def skill(field):
    masked, truth, hole = field
    data = DenseTissue.from_anndata(masked, None)
    mean = truth[~hole].mean(0)

    def of(method, **options):
        predicted = METHODS[method](data, seed=0, **options).mean[hole]
        return 1 - ((predicted - truth[hole]) ** 2).mean() / ((mean - truth[hole]) ** 2).mean()

    return of


def test_a_smooth_field_is_recovered_in_a_hole(skill):
    assert abs(skill("gene-mean")) < 1e-4
    assert skill("kriging") > 0.75
    assert skill("idw") > 0.4
    assert skill("idw") != skill("idw", n_neighbors=30)
    for method in (*SPATIAL, *FILLED):
        assert skill(method) > 0.2, method


@pytest.mark.parametrize("method", [*SPATIAL, *FILLED])
def test_other_hidden_values_change_no_byte(field, method):
    masked, _, hole = field
    told = masked.copy()
    told.X[hole] = np.random.default_rng(1).uniform(1, 50, told.X[hole].shape)
    one, other = (METHODS[method](DenseTissue.from_anndata(adata, None), seed=0) for adata in (masked, told))
    assert one.mean.tobytes() == other.mean.tobytes() and one.sd.tobytes() == other.sd.tobytes()


@pytest.mark.parametrize("method", [*SPATIAL, *FILLED])
def test_another_section_does_not_matter(field, method):
    """With the other section in the hole, as its coordinates say, its values are not used there."""
    masked, truth, hole = field
    other = masked[~hole].copy()
    other.obsm["spatial"] = other.obsm["spatial"] / 100 + 9
    other.X = np.full_like(other.X, 30)
    both = ad.concat({"a": masked, "b": other}, label="section", index_unique="-")
    data = DenseTissue.from_anndata(both, "section")
    predicted = METHODS[method](data, seed=0).mean[: len(hole)][hole]
    assert np.abs(predicted - truth[hole]).mean() < 3


def test_inverse_distances_by_hand():
    xy = np.array([[0, 0], [1, 0], [3, 0], [3, 0], [100, 0]], float)
    x = np.array([[0], [2], [5], [8], [40]], np.float32)
    masked = ad.AnnData(x, obsm={"spatial": xy}, layers={"missing": sp.csr_matrix(x == 0)})
    data = DenseTissue.from_anndata(masked, None)
    mean = idw.impute(data, seed=0, n_neighbors=3).mean[:, 0]
    assert mean[0] == pytest.approx((2 / 1 + 5 / 3 + 8 / 3) / (1 / 1 + 2 / 3))
    assert mean[2] == pytest.approx(8, rel=1e-3) and mean[3] == pytest.approx(5, rel=1e-3)  # at the same place
    np.testing.assert_array_equal(data.nearest(9).toarray()[0], [0, 1, 1, 1, 1])
    np.testing.assert_array_equal(data.nearest(9).toarray()[1], [0, 0, 1, 1, 1])


def test_range_and_noise_are_found_by_likelihood():
    random = np.random.default_rng(3)
    xy = torch.from_numpy(random.uniform(0, 20, (500, 2)))
    cov = kriging.matern(torch.cdist(xy, xy) / 4)
    draws = 3 * torch.linalg.cholesky(0.7 * cov + 0.3 * torch.eye(500)) @ torch.from_numpy(random.normal(size=(500, 6)))
    process = kriging.fit(xy, draws + 5, seed=0)
    assert 2.5 < process.reach.mean() < 6 and 0.22 < process.noise.mean() < 0.38
    assert 6 < process.variance.mean() < 13 and abs(process.mean.mean() - 5) < 1.5


def test_kriging_is_the_gaussian_posterior_and_its_variance_grows_into_a_hole():
    random = np.random.default_rng(4)
    xy, at = (torch.from_numpy(random.uniform(0, 6, (n, 2))) for n in (30, 4))
    scores = torch.from_numpy(random.normal(size=(30, 1)))
    reach, noise, mean, variance = (torch.tensor([value], dtype=torch.float64) for value in (2.0, 0.3, 0.5, 2.0))
    cov = 0.7 * kriging.matern(torch.cdist(xy, xy) / 2) + 0.3 * torch.eye(30)
    cross = 0.7 * kriging.matern(torch.cdist(at, xy) / 2)
    process = kriging.Process(reach, noise, mean, variance)
    found, spread = kriging.interpolate(process, xy, scores, at)
    torch.testing.assert_close(found, (0.5 + cross @ torch.linalg.solve(cov, scores - 0.5)).float())
    torch.testing.assert_close(spread[:, 0], (2 - 2 * (cross * torch.linalg.solve(cov, cross.T).T).sum(1)).float())
    far = kriging.interpolate(process, xy, scores, torch.full((1, 2), 1e3, dtype=torch.float64))
    assert far[0].item() == pytest.approx(0.5) and far[1].item() == pytest.approx(2)


def test_large_sections_are_fitted_on_a_part(monkeypatch):
    monkeypatch.setattr(kriging, "MOST_FITTED", 120)
    sizes = []
    monkeypatch.setattr(torch.linalg, "eigh", lambda matrix: sizes.append(len(matrix)) or (matrix[0].abs(), matrix))
    xy = torch.from_numpy(np.random.default_rng(0).uniform(size=(400, 2)))
    kriging.fit(xy, torch.ones(400, 2, dtype=torch.float64), seed=0)
    assert set(sizes) == {sizes[0]} and 60 < sizes[0] <= 120


def test_without_coordinates_or_a_visible_spot_there_are_means(field, caplog):
    masked, truth, hole = field
    bare = masked.copy()
    del bare.obsm["spatial"]
    result = stmcdi.baseline(bare, method="soft-impute")
    np.testing.assert_allclose(dense(result.layers["imputed"])[hole][0], truth[~hole].mean(0), rtol=0.01)
    assert "baseline: 25 spot(s) have no visible value and the file no coordinates" in caplog.text
    masked = masked.copy()
    masked.obs["section"] = np.where(hole, "torn", "whole")
    result = stmcdi.baseline(masked, method="idw", section_key="section")
    np.testing.assert_allclose(dense(result.layers["imputed"])[hole][0], truth[~hole].mean(0), rtol=0.01)
    assert "baseline: 25 spot(s) are in sections without any visible value: means are used" in caplog.text
    estimate = kriging.impute(DenseTissue.from_anndata(masked, "section"), seed=0)
    np.testing.assert_allclose(estimate.mean[hole][0], truth[~hole].mean(0), rtol=0.01)
    np.testing.assert_allclose(estimate.sd[hole][0], truth[~hole].std(0), rtol=0.05)


def test_the_number_of_neighbors_is_on_record_and_checked(field):
    masked, *_ = field
    result = stmcdi.baseline(masked, method="idw", n_neighbors=3)
    assert result.uns["stmcdi"]["baseline"]["parameters"]["n_neighbors"] == 3
    with pytest.raises(OptionError, match="only with method spatial-neighbors, .*, found it with `kriging`"):
        stmcdi.baseline(masked, method="kriging", n_neighbors=3)
    with pytest.raises(OptionError, match="expected `n_neighbors` to be at least 1, found `0`"):
        stmcdi.baseline(masked, method="idw", n_neighbors=0)


def test_an_estimate_without_gaps_stays(monkeypatch):
    data = DenseTissue.from_anndata(stmcdi.normalize(make_raw()), None)
    estimate = base.Estimate(data.x, np.ones(data.x.shape[1]))
    assert base.fill_gaps(data, estimate) is estimate
