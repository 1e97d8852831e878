"""STAGATE with its defaults and 6 spatial neighbours: the reconstruction of log1p expression by its decoder.

Takes no mask: hidden entries are filled with gene means.
"""

import adapter
import anndata as ad
import numpy as np
import STAGATE_pyG as stagate


def predict(case: adapter.Case) -> np.ndarray:
    spots = ad.AnnData(case.filled().astype(np.float32), obsm={"spatial": case.spatial})
    stagate.Cal_Spatial_Net(spots, k_cutoff=6, model="KNN")
    trained = stagate.train_STAGATE(spots, save_reconstrction=True, device="cpu")
    case.embedding = trained.obsm["STAGATE"]
    return trained.layers["STAGATE_ReX"]


adapter.run(predict)
