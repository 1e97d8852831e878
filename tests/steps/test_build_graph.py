import warnings

import numpy as np
import pytest
import scanpy as sc
import scipy.sparse as sp
import squidpy as sq
from helpers import dense, make_raw, same
from scipy.spatial import Delaunay

import stmcdi_cli as stmcdi
from stmcdi_cli.errors import InputError

METHODS = [{}, {"method": "radius", "radius": 20.0}, {"method": "delaunay"}, {"method": "grid"}]


def graph(adata, **options):
    result = stmcdi.build_graph(adata, **options)
    return result.obsp["spatial_connectivities"], result.obsp["spatial_distances"]


def hexagonal(n=120):
    return stmcdi.simulate(n_spots=n, n_genes=10)


@pytest.mark.parametrize("options", METHODS)
def test_the_form_of_every_graph(raw, options):
    before = raw.copy()
    result = stmcdi.build_graph(raw, **options)
    same(raw, before)
    connected, distance = result.obsp["spatial_connectivities"], result.obsp["spatial_distances"]
    assert connected.format == distance.format == "csr"
    assert connected.dtype == np.float32 and set(connected.data) == {1.0}
    assert not connected.diagonal().any()
    np.testing.assert_array_equal(connected.indices, distance.indices)
    np.testing.assert_array_equal(connected.indptr, distance.indptr)
    assert connected.nnz > 0 and (distance.data > 0).all()
    assert result.uns["spatial_neighbors"]["connectivities_key"] == "spatial_connectivities"


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({"n_neighbors": 5}, {"n_neighs": 5, "coord_type": "generic"}),
        ({"method": "radius", "radius": 15.0}, {"radius": 15.0, "coord_type": "generic"}),
        ({"method": "delaunay"}, {"delaunay": True, "coord_type": "generic"}),
    ],
)
@pytest.mark.parametrize("section_key", [None, "section"])
def test_the_same_edges_as_squidpy(raw, ours, theirs, section_key):
    connected, distance = graph(raw, section_key=section_key, **ours)
    other = raw.copy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sq.gr.spatial_neighbors(other, library_key=section_key, **theirs)
    np.testing.assert_array_equal(dense(connected), dense(other.obsp["spatial_connectivities"]))
    np.testing.assert_allclose(dense(distance), dense(other.obsp["spatial_distances"]))
    assert set(other.uns["spatial_neighbors"]) == {"connectivities_key", "distances_key", "params"}


@pytest.mark.parametrize("n_rings", [1, 2, 3])
def test_a_hexagonal_grid_as_squidpy(n_rings):
    adata = hexagonal()
    connected, distance = graph(adata, method="grid", n_rings=n_rings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sq.gr.spatial_neighbors(adata, coord_type="grid", n_neighs=6, n_rings=n_rings)
    np.testing.assert_array_equal(dense(connected), dense(adata.obsp["spatial_connectivities"]))
    np.testing.assert_array_equal(dense(distance), dense(adata.obsp["spatial_distances"]))
    inner = 3 * n_rings * (n_rings + 1)
    assert np.diff(connected.indptr).max() == inner


def test_a_square_grid_with_jitter(raw):
    random = np.random.default_rng(0)
    x, y = np.divmod(np.arange(60), 10)
    raw.obsm["spatial"] = 250 * np.column_stack([x, y]) + random.normal(0, 5, (60, 2))
    connected, _ = graph(raw, method="grid")
    steps = abs(x[:, None] - x) + abs(y[:, None] - y)
    np.testing.assert_array_equal(dense(connected), steps == 1)


def test_squidpy_and_scanpy_can_use_it(tissue, tmp_path):
    result = stmcdi.build_graph(stmcdi.normalize(tissue), method="knn", section_key="section")
    result.write_h5ad(tmp_path / "graph.h5ad")
    result = sc.read_h5ad(tmp_path / "graph.h5ad")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sq.gr.spatial_autocorr(result, mode="moran", n_perms=None, genes=list(result.var_names[:20]))
        sq.gr.nhood_enrichment(result, "domain", n_perms=10, show_progress_bar=False, seed=0)
    assert len(result.uns["moranI"]) == 20
    assert sc.Neighbors(result, neighbors_key="spatial_neighbors").connectivities.nnz == 5 * result.n_obs
    assert np.isfinite(sc.metrics.morans_i(result.obsp["spatial_connectivities"], result.X.T.toarray()[:20])).any()


@pytest.mark.parametrize("options", METHODS)
def test_no_edge_crosses_sections(tissue, options):
    options = options | ({"radius": 150.0} if "radius" in options else {})
    connected, _ = graph(tissue, section_key="section", **options)
    section = tissue.obs["section"].to_numpy()
    edges = connected.tocoo()
    assert edges.nnz and (section[edges.row] == section[edges.col]).all()
    np.testing.assert_array_equal(dense(connected[:100, :100]), dense(connected[100:, 100:]))  # same place, same graph


@pytest.mark.parametrize("options", METHODS)
def test_odd_sections_do_not_crash(raw, options):
    """Sections of one, two and three spots, all on one line, and all at one place."""
    raw.obs["section"] = ["one"] + ["two"] * 2 + ["three"] * 3 + ["line"] * 10 + ["rest"] * 44
    raw.obsm["spatial"][6:16] = np.column_stack([np.arange(10.0), 2 * np.arange(10.0)])
    connected, _ = graph(raw, section_key="section", **options)
    degree = np.diff(connected.indptr)
    assert degree[0] == 0
    if options.get("method") != "radius":
        np.testing.assert_array_equal(degree[1:3], 1)
        assert degree[6:16].min() >= 1
    if not options:
        np.testing.assert_array_equal(degree[3:6], 2)
        assert (degree[16:] == 5).all()


@pytest.mark.parametrize("options", METHODS)
def test_spots_at_the_same_place(raw, options):
    raw.obsm["spatial"][10:20] = raw.obsm["spatial"][10]
    connected, distance = graph(raw, **options)
    assert not connected.diagonal().any()
    assert np.diff(connected.indptr)[10:20].min() >= 1
    assert connected.nnz == distance.nnz
    if not options:
        assert (np.diff(connected.indptr) == 5).all()


def test_a_grid_with_two_spots_at_every_place(raw):
    x, y = np.divmod(np.arange(30), 6)
    raw.obsm["spatial"] = np.tile(np.column_stack([x, y]), (2, 1)).astype(float)
    connected, _ = graph(raw, method="grid")
    steps = np.tile(abs(x[:, None] - x) + abs(y[:, None] - y), (2, 2))
    np.testing.assert_array_equal(dense(connected), (steps <= 1) & ~np.eye(60, dtype=bool))
    raw.obsm["spatial"][:] = 7
    assert graph(raw, method="grid")[0].nnz == 60 * 59


def test_three_dimensions(raw):
    raw.obsm["spatial"] = np.random.default_rng(0).random((60, 3))
    for options in METHODS:
        assert graph(raw, **options)[0].nnz > 0


def test_size_is_linear_in_spots():
    raw = stmcdi.simulate(n_spots=20_000, n_genes=1, rates=False)
    for options in ({}, {"method": "delaunay"}, {"method": "grid"}):
        assert graph(raw, **options)[0].nnz < 7 * raw.n_obs


def test_cores_do_not_matter(monkeypatch):
    raw = stmcdi.simulate(n_spots=3000, n_genes=1, rates=False)
    graphs = []
    for cores in "12":
        monkeypatch.setenv("OMP_NUM_THREADS", cores)
        graphs.append(stmcdi.build_graph(raw))
    same(*graphs)


def test_a_radius_in_the_wrong_unit_is_refused():
    adata = stmcdi.simulate(n_spots=3000, n_genes=1, rates=False)
    with pytest.raises(InputError, match="give a smaller --radius"):
        stmcdi.build_graph(adata, method="radius", radius=1e6)


@pytest.mark.parametrize(
    "options",
    [
        {"method": "near"},
        {"n_neighbors": 0},
        {"n_rings": 0},
        {"method": "radius"},
        {"radius": 3.0},
        {"method": "radius", "radius": -1.0},
        {"method": "radius", "radius": np.nan},
    ],
)
def test_options_that_do_not_fit_are_refused(raw, options):
    with pytest.raises(InputError, match="expected `"):
        stmcdi.build_graph(raw, **options)


def test_bad_coordinates_and_sections_are_refused_in_one_line(raw, h5ad, refused, tmp_path):
    out = tmp_path / "out.h5ad"
    line = refused("build-graph", h5ad(raw), out, "--section-key", "slide")
    assert "expected sections in obs['slide'], found only section, note; correct the section key" in line
    for value in (np.nan, np.inf, -np.inf):
        bad = raw.copy()
        bad.obsm["spatial"][3, 0] = value
        assert "first s3" in refused("build-graph", h5ad(bad), out)
    bad = raw.copy()
    bad.obsm["spatial"] = np.zeros((60, 1))
    assert "2 or 3 columns, found shape (60, 1)" in refused("build-graph", h5ad(bad), out)
    del bad.obsm["spatial"]
    assert "obsm['spatial'], found none" in refused("build-graph", h5ad(bad), out)
    bad = raw.copy()
    bad.obs["section"] = [None] + ["a"] * 59
    assert "found 1 empty" in refused("build-graph", h5ad(bad), out, "--section-key", "section")


def test_coordinates_in_any_container(raw):
    import pandas as pd

    expected, _ = graph(raw)
    raw.obsm["spatial"] = pd.DataFrame(raw.obsm["spatial"], index=raw.obs_names, columns=["x", "y"])
    np.testing.assert_array_equal(dense(graph(raw)[0]), dense(expected))
    assert sp.issparse(expected)


def triangulated(points):
    """Edges of scipy's triangulation."""
    expected = np.zeros((len(points), len(points)), bool)
    for simplex in Delaunay(points).simplices:
        expected[np.ix_(simplex, simplex)] = True
    return expected & ~np.eye(len(points), dtype=bool)


@pytest.mark.parametrize("third", ["constant", "tilted", "by section", "any"])
def test_delaunay_in_the_plane_of_a_section_or_in_three_dimensions(raw, third):
    random = np.random.default_rng(0)
    xy, codes = random.uniform(0, 1000, (60, 2)), raw.obs["section"].cat.codes.to_numpy()
    z = {
        "constant": np.full(60, 12.0),
        "tilted": xy @ [0.3, 0.1] + 5,
        "by section": 10.0 * codes,
        "any": random.uniform(0, 1000, 60),
    }[third]
    raw.obsm["spatial"] = np.column_stack([xy, z])
    section_key = "section" if third == "by section" else None
    connected, distance = graph(raw, method="delaunay", section_key=section_key)
    found = dense(connected) > 0
    if third == "any":
        expected = triangulated(raw.obsm["spatial"])
    elif third == "tilted":
        along = xy - xy.mean(0)  # the plane's own coordinates: the direction of the slope is stretched
        slope = np.array([0.3, 0.1]) / np.hypot(0.3, 0.1)
        across = np.array([-slope[1], slope[0]])
        expected = triangulated(np.column_stack([along @ slope * np.sqrt(1.1), along @ across]))
    elif third == "by section":
        expected = np.zeros((60, 60), bool)
        for code in (0, 1):
            spots = np.flatnonzero(codes == code)
            expected[np.ix_(spots, spots)] = triangulated(xy[spots])
    else:
        expected = triangulated(xy)
    np.testing.assert_array_equal(found, expected)
    between = np.linalg.norm(raw.obsm["spatial"][:, None] - raw.obsm["spatial"], axis=2)
    np.testing.assert_allclose(dense(distance)[found], between[found])


@pytest.mark.parametrize("order", [["array_col", "array_row"], ["array_row", "array_col"]])
@pytest.mark.parametrize(
    ("n_rows", "n_columns", "form"),
    [(10, 40, "array"), (40, 10, "array"), (10, 40, "array without obs"), (10, 40, "pixels"), (40, 10, "with z")],
)
def test_a_hexagonal_grid_in_array_indices_and_in_pixels(order, n_rows, n_columns, form):
    row, column = np.divmod(np.arange(n_rows * n_columns), n_columns)
    used = np.flatnonzero((row + column) % 2 == 0)
    row, column = row[used], column[used]
    adata = make_raw(n_spots=len(used), n_genes=3)
    adata.obs["array_row"], adata.obs["array_col"] = row, column
    step = abs(row[:, None] - row), abs(column[:, None] - column)
    expected = ((step[0] == 0) & (step[1] == 2)) | ((step[0] == 1) & (step[1] == 1))
    place = adata.obs[order].to_numpy(float)
    if form == "pixels":
        place = place * [50 if name == "array_col" else 50 * np.sqrt(3) for name in order]
    elif form == "with z":
        place = np.column_stack([place, np.full(len(place), 7.0)])
    elif form == "array without obs":
        adata.obs = adata.obs[["section"]]
    adata.obsm["spatial"] = place
    connected, _ = graph(adata, method="grid")
    np.testing.assert_array_equal(dense(connected) > 0, expected)


@pytest.mark.parametrize("spacing", [1, 2, 250])
def test_a_square_grid_in_array_indices_and_in_whole_pixels(raw, spacing):
    x, y = np.divmod(np.arange(60), 10)
    raw.obsm["spatial"] = spacing * np.column_stack([x, y])
    steps = abs(x[:, None] - x) + abs(y[:, None] - y)
    np.testing.assert_array_equal(dense(graph(raw, method="grid")[0]), steps == 1)


@pytest.mark.parametrize("column", ["library_id", "section", "sample", "fov"])
def test_an_obvious_column_of_sections_is_suggested(column, caplog):
    caplog.set_level("INFO")
    raw = make_raw()
    raw.obs = raw.obs.rename(columns={"section": column})
    stmcdi.build_graph(raw)
    advice = f"if these have coordinates of their own, give --section-key {column} where the graph is built, "
    advice += "or edges join one to another"
    assert caplog.messages == [f"build-graph: obs['{column}'] has 2 values; {advice}"]
    caplog.clear()
    stmcdi.build_graph(raw, section_key=column)
    assert not caplog.messages


def test_spots_that_coincide_are_said(caplog):
    caplog.set_level("INFO")
    raw = make_raw()
    raw.obsm["spatial"][30:] = raw.obsm["spatial"][:30]
    stmcdi.build_graph(raw)
    assert caplog.messages[0].startswith(
        "build-graph: 30 spots lie where another one is, and obs['section'] has 2 value"
    )
    del raw.obs["section"]
    caplog.clear()
    stmcdi.build_graph(raw)
    assert caplog.messages == [
        "build-graph: 30 spots lie where another one is; if the file has several sections, "
        "name them in a column of obs and give it where the graph is built (--section-key)"
    ]
