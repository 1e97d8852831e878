"""Tangram in mode ``cells`` with its defaults, but ``--epochs N``: its default, 1,000, takes hours with many cells.

On log1p expression on both sides, which did better than its tutorials' counts. Predictions are its own projection, the
sum of the cells mapped to a spot, times spots over cells, which puts it on the scale of a cell.
"""

import sys

import anndata as ad
import numpy as np
import pair
import scipy.sparse as sp
import tangram


def predict(both: pair.Pair) -> np.ndarray:
    cells, spots = (ad.AnnData(sp.csr_matrix(side, dtype=np.float32)) for side in (both.reference_x, both.x))
    cells.var_names = spots.var_names = both.genes
    tangram.pp_adatas(cells, spots)
    epochs = int(sys.argv[sys.argv.index("--epochs") + 1])
    mapped = tangram.map_cells_to_space(cells, spots, num_epochs=epochs, random_state=0, verbose=False).X
    return mapped.T @ both.reference_hidden_x * (spots.n_obs / cells.n_obs)


pair.run(predict)
