"""Add single draws to an imputed file: ``python -m benchmarks.draws GRAPH.h5ad MODEL_DIR IMPUTED.h5ad [all]``.

CRPS and the preserved distribution are scored on these.
"""

import sys
from pathlib import Path

import anndata as ad
import numpy as np
import scipy.sparse as sp
import torch

from benchmarks.scoring import SAMPLE
from stmcdi_cli.model import save_load
from stmcdi_cli.model.base import DrawOptions, ImputationModel
from stmcdi_cli.model.tissue import Tissue

N_DRAWS = 20
SEED = 1000  # none that imputing itself has used


def add_draws(model: ImputationModel, tissue: Tissue, imputed: ad.AnnData, *, denoise: bool = False) -> None:
    """Draw the missing entries of a prepared tissue, or all, anew and add each draw as a layer, in random order."""
    spots = np.arange(tissue.n_spots)
    draws = model.draw(spots, DrawOptions(n_samples=N_DRAWS, seed=SEED, sampler="dpm", denoise=denoise))
    for i, k in enumerate(np.random.default_rng(0).permutation(N_DRAWS)):
        drawn = draws.samples[k]
        imputed.layers[f"{SAMPLE}{i:02d}"] = (
            drawn if denoise else sp.csr_matrix(np.where(tissue.missing.toarray(), drawn, 0))
        )


def main() -> None:
    graph, model_dir, imputed_file = map(Path, sys.argv[1:4])
    tissue, imputed, model = (
        Tissue.from_anndata(ad.read_h5ad(graph)),
        ad.read_h5ad(imputed_file),
        save_load.load(model_dir),
    )
    model.prepare(tissue, device=torch.device("cpu"))
    add_draws(model, tissue, imputed, denoise="all" in sys.argv[4:])
    imputed.write_h5ad(imputed_file)


if __name__ == "__main__":
    main()
