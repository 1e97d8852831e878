"""hyperimpute's softimpute or GAIN (``--plugin``), with its defaults; takes the mask as NaN."""

import sys

import adapter
import numpy as np
import pandas as pd
from hyperimpute.plugins.imputers import Imputers


def predict(case: adapter.Case) -> np.ndarray:
    table = pd.DataFrame(case.with_nan(), columns=[str(i) for i in range(case.x.shape[1])])
    return np.asarray(Imputers().get(sys.argv[4]).fit_transform(table))


adapter.run(predict)
