"""Plain methods with scikit-learn: ``idw K`` for whole spots; ``pca R``, ``nmf R``, ``fa R`` and ``knn K`` to denoise.

- ``idw``: mean of the K nearest visible spots of the section, weighted by 1 / distance.
- ``pca``, ``nmf``, ``fa``: log1p expression from R components; defaults, but for NMF's start and number of steps.
- ``knn``: mean of a spot and its K - 1 nearest in 15 principal components.
"""

import sys

import adapter
import numpy as np
from sklearn.decomposition import NMF, PCA, FactorAnalysis
from sklearn.neighbors import KNeighborsRegressor

COMPONENTS = 15


def idw(case: adapter.Case, k: int) -> np.ndarray:
    visible, result = ~case.missing.all(1), case.filled()
    for section in np.unique(case.section):
        here = case.section == section
        known, asked = here & visible, here & ~visible
        if known.any() and asked.any():
            model = KNeighborsRegressor(min(k, int(known.sum())), weights="distance")
            result[asked] = model.fit(case.spatial[known], case.x[known]).predict(case.spatial[asked])
    return result


def pca(case: adapter.Case, rank: int) -> np.ndarray:
    model = PCA(rank, svd_solver="full")
    return model.inverse_transform(model.fit_transform(case.x))


def nmf(case: adapter.Case, rank: int) -> np.ndarray:
    model = NMF(rank, init="nndsvda", max_iter=500, random_state=0)
    return model.inverse_transform(model.fit_transform(case.x))


def fa(case: adapter.Case, rank: int) -> np.ndarray:
    model = FactorAnalysis(rank, random_state=0)
    return model.fit_transform(case.x) @ model.components_ + model.mean_


def knn(case: adapter.Case, k: int) -> np.ndarray:
    components = PCA(COMPONENTS, svd_solver="full").fit_transform(case.x)
    return KNeighborsRegressor(k).fit(components, case.x).predict(components)


METHODS = {"idw": idw, "pca": pca, "nmf": nmf, "fa": fa, "knn": knn}
adapter.run(lambda case: METHODS[sys.argv[3]](case, int(sys.argv[4])))
