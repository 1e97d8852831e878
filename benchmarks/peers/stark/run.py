"""STARK (stark-denoise) with its defaults, on each spot's shares of its log1p expression.

Takes no mask: hidden entries are filled with gene means. On shares of the counts it did worse.
"""

import adapter
import anndata as ad
import numpy as np
from stark import stark_denoise


def predict(case: adapter.Case) -> np.ndarray:
    x = case.filled()
    total = np.maximum(x.sum(1, keepdims=True), 1e-9)
    spots = ad.AnnData(x / total, obsm={"spatial": case.spatial})
    return total * stark_denoise(spots, np.maximum(case.counts.sum(1), 1))["denoised_matrix"]


adapter.run(predict)
