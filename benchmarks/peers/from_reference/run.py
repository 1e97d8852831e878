"""Plain methods with scikit-learn, ``METHOD [--smooth]``; all learn from the reference's cells and predict the panel's.

Visible genes are standardised on each side by itself, which takes a difference of platforms in a gene's mean and spread
away; predictions are on the scale of the reference's log1p expression.

- ``knn``: mean of the 50 nearest cells by cosine in 30 principal components of both sides together.
- ``ridge``: ridge regression; each gene's penalty by leave-one-out on the reference's cells.
- ``pls``: partial least squares, 10 components.
- ``spage``: SpaGE (see spage.py).

With ``--smooth`` predictions are drawn by 0.4 towards the mean of those of the spot's 6 neighbours.
"""

import sys

import numpy as np
import pair
import spage
from sklearn.cross_decomposition import PLSRegression
from sklearn.decomposition import PCA
from sklearn.linear_model import RidgeCV
from sklearn.neighbors import KNeighborsRegressor
from sklearn.preprocessing import scale

COMPONENTS, NEIGHBORS = 30, 50
PENALTIES = np.logspace(0, 5, 11)


def knn(both: pair.Pair) -> np.ndarray:
    cells, spots = scale(both.reference_x), scale(both.x)
    components = PCA(min(COMPONENTS, cells.shape[1]), svd_solver="full").fit(np.vstack([cells, spots]))
    model = KNeighborsRegressor(NEIGHBORS, metric="cosine").fit(components.transform(cells), both.reference_hidden_x)
    return model.predict(components.transform(spots))


def ridge(both: pair.Pair) -> np.ndarray:
    model = RidgeCV(PENALTIES, alpha_per_target=True)
    return model.fit(scale(both.reference_x), both.reference_hidden_x).predict(scale(both.x))


def pls(both: pair.Pair) -> np.ndarray:
    return PLSRegression(10).fit(scale(both.reference_x), both.reference_hidden_x).predict(scale(both.x))


METHODS = {"knn": knn, "ridge": ridge, "pls": pls, "spage": spage.predict}


def predict(both: pair.Pair) -> np.ndarray:
    predicted = METHODS[sys.argv[4]](both)
    return both.smoothed(predicted) if "--smooth" in sys.argv[5:] else predicted


pair.run(predict)
