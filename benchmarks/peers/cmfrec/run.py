"""cmfrec's CMF_imputer with 10 factors and its defaults otherwise; takes the mask as NaN."""

import os

import adapter
import numpy as np
from cmfrec import CMF_imputer


def predict(case: adapter.Case) -> np.ndarray:
    x = case.with_nan()
    return CMF_imputer(k=10, nthreads=int(os.environ.get("OMP_NUM_THREADS", -1))).fit(x).transform(x)


adapter.run(predict)
