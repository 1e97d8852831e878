from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import stmcdi_cli as stmcdi


@pytest.fixture
def case(tissue, tmp_path) -> Path:
    """A folder with masked.h5ad, truth.h5ad and graph.h5ad as the harness cuts them."""
    whole = stmcdi.normalize(tissue)
    whole.obs = whole.obs[["section", "size_factor"]]
    masked, truth = stmcdi.hold_out(whole, fraction=0.2, seed=0)
    masked.write_h5ad(tmp_path / "masked.h5ad")
    truth.write_h5ad(tmp_path / "truth.h5ad")
    stmcdi.build_graph(masked, section_key="section").write_h5ad(tmp_path / "graph.h5ad")
    return tmp_path


@pytest.fixture
def small() -> tuple[ad.AnnData, ad.AnnData, np.ndarray]:
    """Truth, an imputed copy to put layers in, and which entries are hidden."""
    random = np.random.default_rng(0)
    values = np.log1p(random.poisson(1.5, (50, 12))).astype(np.float32)
    hidden = random.random(values.shape) < 0.3
    obs = pd.DataFrame({"size_factor": random.uniform(0.5, 2, 50)}, index=[f"s{i}" for i in range(50)])
    var = pd.DataFrame(index=[f"g{i}" for i in range(12)])
    truth = ad.AnnData(sp.csr_matrix(values), obs=obs, var=var)
    truth.layers["missing"] = sp.csr_matrix(hidden)
    imputed = ad.AnnData(sp.csr_matrix(np.where(hidden, 0, values)), obs=obs.copy(), var=var.copy())
    imputed.layers["missing"] = sp.csr_matrix(hidden)
    return truth, imputed, hidden
