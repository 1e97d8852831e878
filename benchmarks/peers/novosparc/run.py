"""novoSpaRc as its tutorial with an atlas: log1p expression, all visible genes as markers, alpha 0.8, epsilon 0.005.

A spot's prediction is the mean log1p expression of the cells, weighted by how much of each is transported to the spot.
"""

import anndata as ad
import novosparc
import numpy as np
import pair

NEIGHBORS = 5


def predict(both: pair.Pair) -> np.ndarray:
    cells = ad.AnnData(np.hstack([both.reference_x, both.reference_hidden_x]))
    tissue = novosparc.cm.Tissue(dataset=cells, locations=both.spatial)
    tissue.setup_reconstruction(
        atlas_matrix=both.x,
        markers_to_use=np.arange(len(both.genes)),
        num_neighbors_s=NEIGHBORS,
        num_neighbors_t=NEIGHBORS,
    )
    tissue.reconstruct(alpha_linear=0.8, epsilon=5e-3)
    return (tissue.gw / np.maximum(tissue.gw.sum(0), 1e-300)).T @ both.reference_hidden_x


pair.run(predict)
