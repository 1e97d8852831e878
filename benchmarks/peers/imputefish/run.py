"""ImputeFISH with its defaults, on log1p expression of both sides."""

import numpy as np
import pair
import pandas as pd
from ImputeFISH import GeneEnhancement


def predict(both: pair.Pair) -> np.ndarray:
    np.random.seed(0)
    spots = pd.DataFrame(both.x, columns=both.genes)
    cells = pd.DataFrame(np.hstack([both.reference_x, both.reference_hidden_x]), columns=[*both.genes, *both.hidden])
    return GeneEnhancement(cells, spots, both.hidden, *both.spatial.T)[both.hidden].to_numpy()


pair.run(predict)
