"""What the entries of the spots say of the fields, with the latents integrated out."""

import numpy as np
import torch
from torch import Tensor

from stmcdi_cli.model.device import parallel_each

_MULTIPLIED_AT_ONCE = 1024  # spots


class FieldEvidence:
    """The precision W of the entries of some spots on the fields there: a matrix [r, r] for each spot.

    The entries of spot i have the precision P_i on its latents, so W_i = (P_i^-1 + diag nugget)^-1.

    Parameters
    ----------
    given_field
        Covariance of the latents of each spot given the field, (P_i + diag 1 / nugget)^-1 [n, r, r].
    inverse_nugget
        1 / nugget [r].
    """

    def __init__(self, given_field: Tensor, inverse_nugget: Tensor) -> None:
        self.given_field, self.inverse_nugget = given_field, inverse_nugget
        self._scale = inverse_nugget.numpy()

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """Product of W with values, float32 [n, r]."""
        product = times(self.given_field, torch.from_numpy(self._scale * values)).numpy()
        np.subtract(values, product, out=product)
        product *= self._scale
        return product

    def dense(self) -> Tensor:
        """W itself [n, r, r]."""
        scale = self.inverse_nugget
        return torch.diag(scale) - scale[:, None] * self.given_field * scale

    @property
    def diagonal(self) -> np.ndarray:
        """Diagonal of W [n, r]."""
        within = self.given_field.diagonal(dim1=1, dim2=2)
        return (self.inverse_nugget - self.inverse_nugget**2 * within).clamp(min=0).numpy()

    def information(self, of_latents: Tensor) -> Tensor:
        """Precision-weighted mean of the fields from that of the latents, by the same entries; both [n, r]."""
        return self.inverse_nugget * times(self.given_field, of_latents)

    def at(self, spots: np.ndarray) -> "FieldEvidence":
        """The same for some of the spots, ascending."""
        if len(spots) == len(self.given_field):
            return self  # the matrices of all spots are large
        return FieldEvidence(self.given_field[spots], self.inverse_nugget)


def times(matrices: Tensor, values: Tensor) -> Tensor:
    """Products of the matrix of each spot [n, r, r] with its values [n, r]."""
    out = torch.empty_like(values)

    def one(first: int) -> None:
        some = slice(first, first + _MULTIPLIED_AT_ONCE)
        # NumPy multiplies such small matrices faster than torch.bmm does.
        np.matmul(matrices[some].numpy(), values[some, :, None].numpy(), out=out[some, :, None].numpy())

    parallel_each(one, range(0, len(values), _MULTIPLIED_AT_ONCE))
    return out
