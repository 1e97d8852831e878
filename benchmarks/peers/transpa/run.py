"""TransImp (transpa) with its defaults on log1p expression: cells in clusters by k-means, spots joined to 4 neighbours.

It asks for cell types; 20 clusters of the reference's cells in 30 principal components stand in for them.
"""

import numpy as np
import pair
import pandas as pd
import scipy.sparse as sp
import torch
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from transpa.util import expTransImp

CLUSTERS, COMPONENTS, NEIGHBORS = 20, 30, 4


def predict(both: pair.Pair) -> np.ndarray:
    spots = pd.DataFrame(both.x, columns=both.genes)
    cells = pd.DataFrame(np.hstack([both.reference_x, both.reference_hidden_x]), columns=[*both.genes, *both.hidden])
    components = PCA(min(COMPONENTS, len(both.genes)), random_state=0).fit_transform(cells)
    classes = KMeans(CLUSTERS, n_init=5, random_state=0).fit_predict(components).astype(str)
    around = both.neighbors(NEIGHBORS)
    row = np.repeat(np.arange(len(around)), NEIGHBORS)
    joined = sp.coo_array((np.ones(row.size), (row, around.ravel())), shape=(len(around),) * 2)
    return expTransImp(
        cells,
        spots,
        both.genes,
        both.hidden,
        classes=classes,
        ct_list=np.unique(classes),
        spa_adj=joined,
        device=torch.device("cpu"),
        seed=0,
    )


pair.run(predict)
