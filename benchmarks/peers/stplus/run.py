"""stPlus with its defaults, on log1p expression of both sides.

It asks for a GPU by name (``.cuda()``); here that does nothing, and the same code runs on the CPU.
"""

import tempfile

import numpy as np
import pair
import pandas as pd
import torch

torch.set_default_tensor_type = lambda *_: None
torch.Tensor.cuda = torch.nn.Module.cuda = lambda self, *_: self

from stPlus import stPlus  # noqa: E402 - it asks for a GPU when it is imported


def predict(both: pair.Pair) -> np.ndarray:
    spots = pd.DataFrame(both.x, columns=both.genes)
    cells = pd.DataFrame(np.hstack([both.reference_x, both.reference_hidden_x]), columns=[*both.genes, *both.hidden])
    with tempfile.TemporaryDirectory() as folder:
        predicted = stPlus(spots, cells, both.hidden, f"{folder}/model", random_seed=0, verbose=False)
    return predicted[both.hidden].to_numpy()


pair.run(predict)
