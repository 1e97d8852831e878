import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from stmcdi_cli.model.attention import planar_attention as module
from stmcdi_cli.model.attention.planar_attention import planar_attention


def inputs(spread, *, shift=0.0, tokens=301, rows=2, heads=4):
    generator = torch.Generator().manual_seed(0)
    q, k, v = (spread * torch.randn(rows, heads, 2, tokens, generator=generator, dtype=torch.float64) for _ in range(3))
    return [q, k + shift, v]


def attend(function, qkv):
    """Values and gradients of a curved function of the result, so that no gradient vanishes by symmetry."""
    qkv = [x.clone().requires_grad_() for x in qkv]
    out = function(*qkv)
    return out, torch.autograd.grad((out.sin() * torch.arange(out.shape[-1])).sum(), qkv)


def exact(q, k, v):
    return scaled_dot_product_attention(q.mT, k.mT, v.mT).mT


@pytest.mark.parametrize("shift", [0.0, 2.0])
@pytest.mark.parametrize("spread", [0.1, 0.3, 0.6, 0.8])
def test_is_softmax_attention_to_single_precision(spread, shift):
    qkv = inputs(spread, shift=shift)
    reference, gradients = attend(exact, qkv)
    out, ours = attend(planar_attention, [x.float() for x in qkv])
    assert (out - reference).abs().max() < 1e-5 * reference.abs().max()
    for a, b in zip(ours, gradients, strict=True):
        assert (a - b).abs().max() < 1e-4 * b.abs().max()


def test_series_alone_meets_its_bound_in_double_precision():
    """Without rounding, the error is that of the series."""
    reference = exact(*inputs(0.5))
    assert (planar_attention(*inputs(0.5)) - reference).abs().max() < 1e-6


def test_gradient_is_the_derivative():
    qkv = [x.requires_grad_() for x in inputs(0.5, tokens=7, rows=1, heads=2)]
    assert torch.autograd.gradcheck(planar_attention, qkv, eps=1e-5, atol=1e-5)


def test_far_queries_fall_back_to_pairs(monkeypatch):
    monkeypatch.setattr(module, "_n_terms", None)  # would raise if the series were used
    qkv = inputs(20.0)
    torch.testing.assert_close(planar_attention(*qkv), exact(*qkv))


def test_a_row_does_not_depend_on_its_batch():
    q, k, v = (x.float() for x in inputs(0.5, rows=5))
    k[2] *= 30  # one row needs the fallback, the others another number of terms
    q[3] *= 0.01
    whole = planar_attention(q, k, v)
    for row in range(5):
        alone = planar_attention(*(x[row : row + 1].clone() for x in (q, k, v)))
        assert torch.equal(whole[row], alone[0])
