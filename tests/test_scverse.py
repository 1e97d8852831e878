"""Results open, plot and work in the packages people use them in: the real scanpy and squidpy."""

import subprocess
import sys

import matplotlib
import numpy as np
import pytest
import scanpy as sc

import stmcdi_cli as stmcdi

matplotlib.use("Agg")


@pytest.fixture
def plt():
    import matplotlib.pyplot as plt

    yield plt
    plt.close("all")


@pytest.fixture(scope="module")
def opened(imputed_run):
    """As a user opens it."""
    return sc.read_h5ad(imputed_run.files["imputed"])


@pytest.fixture(scope="module")
def denoised(imputed_run):
    return stmcdi.impute(imputed_run.masked, imputed_run.model, target="all", n_samples=4, device="cpu", quiet=True)


LAYERS = ["imputed", "imputed_sd", "imputed_median", "imputed_q05", "imputed_q95"]


def drawn(plt):
    """Values of the points in the current figure."""
    points = [part for axes in plt.gcf().axes for part in axes.collections if part.get_array() is not None]
    return np.concatenate([np.asarray(part.get_array()).ravel() for part in points])


@pytest.mark.parametrize("layer", LAYERS)
def test_scanpy_plots_every_layer_on_the_tissue(layer, opened, plt):
    sc.pl.embedding(opened, basis="spatial", color="gene_1", layer=layer, show=False, sort_order=False)
    shown = drawn(plt)[: opened.n_obs]
    np.testing.assert_allclose(shown, opened[:, "gene_1"].layers[layer].toarray()[:, 0], rtol=1e-6)


@pytest.mark.parametrize("layer", LAYERS)
def test_squidpy_plots_every_layer_section_by_section(layer, opened, plt):
    import squidpy as sq

    sq.pl.spatial_scatter(opened, shape=None, library_key="section", color="gene_1", layer=layer, use_raw=False, size=9)
    titles = [axes.get_title() for axes in plt.gcf().axes if axes.get_title()]
    assert titles == ["gene_1", "gene_1"]  # one panel per section
    assert len(drawn(plt)) >= opened.n_obs


@pytest.mark.parametrize("plot", ["dotplot", "matrixplot", "stacked_violin", "heatmap"])
def test_scanpys_summaries_take_the_layer(plot, denoised, plt):
    getattr(sc.pl, plot)(denoised, ["gene_1", "gene_2"], groupby="domain", layer="imputed", show=False)
    assert plt.get_fignums()


def test_denoised_values_go_through_scanpys_usual_steps(denoised):
    adata = denoised.copy()
    adata.X = adata.layers["imputed"]
    sc.pp.pca(adata, n_comps=5)
    sc.pp.neighbors(adata, n_neighbors=8)
    sc.tl.umap(adata, maxiter=10)
    sc.tl.dendrogram(adata, "domain")
    assert np.isfinite(adata.obsm["X_umap"]).all()


def test_squidpys_statistics_take_graph_and_layer(denoised):
    import squidpy as sq

    adata = denoised.copy()
    sq.gr.spatial_autocorr(adata, mode="moran", layer="imputed", genes=list(adata.var_names[:5]))
    imputed = adata.uns["moranI"].loc[adata.var_names[:5], "I"].to_numpy()
    del adata.uns["moranI"]
    sq.gr.spatial_autocorr(adata, mode="moran", genes=list(adata.var_names[:5]))
    assert (imputed > adata.uns["moranI"].loc[adata.var_names[:5], "I"].to_numpy()).all()  # noise is gone


def test_files_survive_another_round_through_scanpy(opened, tmp_path):
    sc.pp.filter_genes(opened.copy(), min_cells=1)
    opened.write_h5ad(tmp_path / "again.h5ad")
    again = sc.read_h5ad(tmp_path / "again.h5ad")
    assert set(again.layers) == set(opened.layers) and set(again.uns["stmcdi"]) == set(opened.uns["stmcdi"])


def test_importing_the_package_is_light():
    code = "import sys, stmcdi_cli as stmcdi; stmcdi.__all__; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "anndata", "numpy", "pandas", "scipy", "click", "yaml"} & set(loaded)


def test_every_function_stays_a_function_whatever_is_imported():
    """A package of the same name would take its place as soon as it is imported."""
    import importlib
    import pkgutil

    for module in pkgutil.walk_packages(stmcdi.__path__, "stmcdi_cli."):
        importlib.import_module(module.name)
    assert all(callable(getattr(stmcdi, name)) for name in stmcdi.__all__)
    assert set(stmcdi.__all__) <= set(dir(stmcdi))
