"""Softmax attention for heads of two channels, in time linear in the number of tokens.

The paper's 16 heads share 32 channels, so a query and a key meet in a plane: exp(q . k) = exp(q_1 k_1) exp(q_2 k_2). On
a bounded interval exp(q_i k_i) is a short Chebyshev series in q_i and k_i, which converges faster than any power: 8 to
19 terms reach float32's precision. Sums over all keys then become two small matrix products, and no matrix over pairs
of tokens is formed. The result is that of softmax attention to float32's precision. Where queries and keys are too
large for the series, PyTorch's own attention is used.
"""

import math
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

_TOLERANCE = 1e-6
_FARTHEST = 5.0
"""Largest |q_i k_i| for the series. Beyond it, the rounding in sums of terms as large as exp(|q . k|) is too large."""
_TOKENS = 800
"""Tokens of several rows that are computed together: more do not fit the cache."""


def _n_terms(extent: float) -> int:
    """Terms after which the series of exp(x) for |x| <= extent is within tolerance; the n-th is a Bessel number."""
    n = 4
    while 2 * (extent / 2) ** n / math.factorial(n) * math.exp(extent) > _TOLERANCE:
        n += 1
    return n


@lru_cache
def _to_coefficients(n: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Chebyshev nodes [n] and the matrix from values at them to coefficients [n, n], float64."""
    angle = (torch.arange(n, dtype=torch.float64) + 0.5) * (math.pi / n)
    transform = torch.cos(torch.arange(n, dtype=torch.float64)[:, None] * angle) * (2 / n)
    transform[0] /= 2
    return torch.cos(angle).to(device), transform.to(device)


def _kernel(extent: Tensor, n: int) -> Tensor:
    """Coefficients A [..., n, n] of exp(extent x y) = sum_ab A_ab T_a(x) T_b(y) on [-1, 1] x [-1, 1]."""
    nodes, transform = _to_coefficients(n, extent.device)
    values = torch.exp(extent.double()[..., None, None] * nodes[:, None] * nodes)
    return (transform @ values @ transform.T).to(extent.dtype)


def _polynomials(x: Tensor, n: int) -> Tensor:
    """T_0(x)..T_{n-1}(x) by their recurrence: [..., G] to [..., n, G]."""
    out = x.new_empty(*x.shape[:-1], n, x.shape[-1])
    out[..., 0, :] = 1
    out[..., 1, :] = x
    twice = 2 * x
    for a in range(2, n):
        torch.mul(twice, out[..., a - 1, :], out=out[..., a, :])
        out[..., a, :] -= out[..., a - 2, :]
    return out


def _polynomials_backward(x: Tensor, gradient: Tensor) -> Tensor:
    """Sum of gradient_a T_a'(x) = gradient_a a U_{a-1}(x) over a, by Clenshaw's recurrence for U."""
    twice = 2 * x
    last = before = torch.zeros_like(x)
    for a in range(gradient.shape[-2] - 1, 0, -1):
        last, before = torch.addcmul(a * gradient[..., a, :] - before, twice, last), last
    return last


class _Planar(torch.autograd.Function):
    """Attention: q, k, v [R, heads, 2, G] to [R, heads, 2, G]; `half` [2, 2, R, heads] bounds |q| and |k|."""

    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor, half: Tensor, n: int) -> Tensor:
        x = _planes_first(torch.stack([q, k])) / half[..., None]  # [q or k, plane, R, heads, G]
        (q_1, q_2), (k_1, k_2) = basis = _polynomials(x, n)
        a_1, a_2 = _kernel(half[0] * half[1], n)
        values = torch.cat([v, torch.ones_like(v[..., :1, :])], -2)  # the ones add up to the softmax's denominator
        keys = _products(values, k_2)  # [R, heads, 3 n, G]
        moments = a_1 @ (k_1 @ keys.mT)
        moments = (moments.unflatten(-1, (3, n)) @ a_2.mT[..., None, :, :]).flatten(-2)  # [R, heads, n, 3 n]
        sums = (moments.mT @ q_1).unflatten(-2, (3, n))
        sums = (sums * q_2[..., None, :, :]).sum(-2)  # [R, heads, 3, G]
        out = sums[..., :2, :] / sums[..., 2:, :]
        ctx.save_for_backward(x, basis, values, half, a_1, a_2, moments, out, sums[..., 2:, :])
        return out

    @staticmethod
    def backward(ctx, gradient: Tensor):
        x, basis, values, half, a_1, a_2, moments, out, denominator = ctx.saved_tensors
        n = basis.shape[-2]
        (q_1, q_2), (k_1, k_2) = basis
        d_basis = torch.empty_like(basis)
        d_sums = gradient / denominator
        d_sums = torch.cat([d_sums, -(d_sums * out).sum(-2, keepdim=True)], -2)  # [R, heads, 3, G]
        sums = (moments.mT @ q_1).unflatten(-2, (3, n))
        torch.sum(d_sums[..., None, :] * sums, -3, out=d_basis[0, 1])
        d_sums = _products(d_sums, q_2)  # [R, heads, 3 n, G]
        torch.matmul(moments, d_sums, out=d_basis[0, 0])
        d_moments = a_1.mT @ (q_1 @ d_sums.mT)
        d_moments = (d_moments.unflatten(-1, (3, n)) @ a_2[..., None, :, :]).flatten(-2)
        torch.matmul(d_moments, _products(values, k_2), out=d_basis[1, 0])
        d_keys = (d_moments.mT @ k_1).unflatten(-2, (3, n))
        d_values = (d_keys * k_2[..., None, :, :]).sum(-2)
        torch.sum(d_keys * values[..., None, :], -3, out=d_basis[1, 1])
        d_x = _polynomials_backward(x, d_basis) / half[..., None]
        d_q, d_k = d_x.permute(0, 2, 3, 1, 4)
        return d_q, d_k, d_values[..., :2, :], None, None


def _planes_first(x: Tensor) -> Tensor:
    """[q or k, R, heads, 2, G] to [q or k, 2, R, heads, G]."""
    return x.permute(0, 3, 1, 2, 4)


def _products(values: Tensor, basis: Tensor) -> Tensor:
    """Every product of a value and a term: [R, heads, 3, G] and [R, heads, n, G] to [R, heads, 3 n, G]."""
    return (values[..., :, None, :] * basis[..., None, :, :]).flatten(-3, -2)


def planar_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax attention over G tokens with heads of two channels.

    What is computed for a row of the batch does not depend on the other rows. Rows that need series of the same length
    are computed together while they fit the cache: with few tokens a single row takes less time than to start it.

    Parameters
    ----------
    q, k, v
        [B, heads, 2, G]

    Returns
    -------
    [B, heads, 2, G].
    """
    q = q / math.sqrt(2)
    # Shifting all keys alters no softmax. With keys centred the denominator is at least G (Jensen's inequality), so
    # that an absolute error of the series is a relative one of the result.
    k = k - k.detach().mean(-1, keepdim=True)
    with torch.no_grad():
        half = torch.stack([q, k]).abs().amax(-1).permute(0, 3, 1, 2)  # [q or k, plane, B, heads]
        half = half.clamp(min=1e-6) * (1 + 1e-6)
        extents = (half[0] * half[1]).amax((0, 2)).tolist()
    groups: dict[int, list[int]] = {}  # rows by the length of their series; 0 where there is none
    for row, extent in enumerate(extents):
        groups.setdefault(_n_terms(extent) if extent <= _FARTHEST else 0, []).append(row)
    rows, out = [], []
    for n, members in groups.items():
        at_a_time = max(1, _TOKENS // q.shape[-1]) if n else 1
        for start in range(0, len(members), at_a_time):
            some = members[start : start + at_a_time]
            rows += some
            q_s, k_s, v_s = (part[some] for part in (q, k, v))
            out.append(_Planar.apply(q_s, k_s, v_s, half[:, :, some], n) if n else _exact(q_s, k_s, v_s))
    return torch.cat(out)[torch.tensor(rows).argsort()]


def _exact(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention of rows whose values are too large for the series, by the fused kernel for heads of 8 channels."""
    q, k, v = (F.pad(part.mT, (0, 6)) for part in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, scale=1.0)[..., :2].mT
