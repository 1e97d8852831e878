"""Impeller with its defaults, as its README imputes one's own data: ``inference``, 1,000 epochs, on log1p expression.

Takes no mask: it learns from values above zero alone and predicts all, so hidden entries are zeros. Spots are joined
within 1.2 times the usual distance of the fourth neighbour: its default, 150, is in the pixels of one Visium section.
"""

import os
import sys

os.environ.setdefault("DGLBACKEND", "pytorch")

import adapter
import anndata as ad
import dgl
import numpy as np
import torch
from Impeller import create_args, inference, process_inference_data


def predict(case: adapter.Case) -> np.ndarray:
    torch.manual_seed(0)
    dgl.seed(0)
    sys.argv[1:] = ["--device", "cpu"]  # it reads the command line
    spots = ad.AnnData(case.x.astype(np.float32), obsm={"spatial": case.spatial})
    fourth = case.spatial[case.neighbors(4)[:, -1]] - case.spatial
    radius = 1.2 * np.median(np.linalg.norm(fourth, axis=1))
    data = process_inference_data(spots, spatial_graph_radius_cutoff=radius)
    return inference(create_args(), data, torch.from_numpy(case.missing)).detach().numpy()


adapter.run(predict)
