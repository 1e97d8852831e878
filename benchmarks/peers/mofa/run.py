"""MOFA (mofapy2) with 10 factors and its defaults otherwise; takes the mask as NaN, expression centred per gene."""

import adapter
import numpy as np
from mofapy2.run.entry_point import entry_point


def predict(case: adapter.Case) -> np.ndarray:
    model = entry_point()
    model.set_data_options(scale_views=False, center_groups=True)
    model.set_data_matrix([[case.with_nan()]])
    model.set_model_options(factors=10)
    model.set_train_options(seed=0, verbose=False, quiet=True)
    model.build()
    model.run()
    nodes = model.model.nodes
    z, w = nodes["Z"].getExpectations()["E"], nodes["W"].getExpectations()[0]["E"]
    return case.gene_mean() + z @ w.T


adapter.run(predict)
