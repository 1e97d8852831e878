"""GraphST with its defaults: the reconstruction by its decoder, on log1p expression of all genes of the case.

Takes no mask: hidden entries are filled with gene means.
"""

import adapter
import anndata as ad
import numpy as np
from GraphST.GraphST import GraphST


def predict(case: adapter.Case) -> np.ndarray:
    spots = ad.AnnData(case.filled().astype(np.float32), obsm={"spatial": case.spatial})
    spots.var["highly_variable"] = True  # so that it does not normalise again
    case.embedding = GraphST(spots).train().obsm["emb"]
    return case.embedding


adapter.run(predict)
