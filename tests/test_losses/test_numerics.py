"""Types, powers and logits at the edges of their range."""

import pytest
import torch

from mmext.losses.numerics import inverse_sigmoid, lerp, power, upcast


@pytest.mark.parametrize('exponent', [0, 0.5, 1, 1.5, 2, 6])
def test_power(exponent):
    base = torch.tensor([-1e-9, 0.0, 1e-30, 0.25, 1.0], dtype=torch.float64, requires_grad=True)
    result = power(base, exponent)
    if exponent > 0:
        result.sum().backward()
        assert base.grad.isfinite().all()
    expected = [0.0**exponent] * 3 + [0.25**exponent, 1.0]
    torch.testing.assert_close(result, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize('exponent', [0.5, 1, 2, 6, 30])
def test_power_saturates(exponent):
    base = torch.tensor([1e30], requires_grad=True)
    result = power(base, exponent)
    result.backward()
    assert result.isfinite().all()
    assert base.grad.isfinite().all()


@pytest.mark.parametrize('exponent', [0.5, 1, 2, 6])
def test_power_of_nan(exponent):
    assert power(torch.tensor([float('nan')]), exponent).isnan()


@pytest.mark.parametrize('end', [0.7, torch.tensor([0.7, 0.1])])
def test_lerp(end):
    weight = torch.tensor([[0.0, 0.25], [0.5, 1.0]])
    start = torch.tensor([0.3, 0.5]) if isinstance(end, torch.Tensor) else 0.3
    torch.testing.assert_close(lerp(start, end, weight), start + weight * (end - start))


def test_upcast():
    half, double = torch.ones(1, dtype=torch.float16), torch.ones(1, dtype=torch.float64)
    assert [tensor.dtype for tensor in upcast(half, half.bool())] == [torch.float32] * 2
    assert [tensor.dtype for tensor in upcast(half, double)] == [torch.float64] * 2


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.float16])
def test_inverse_sigmoid(dtype):
    probability = torch.tensor([0.0, 1e-4, 0.25, 0.5, 0.75, 1.0], dtype=dtype, requires_grad=True)
    logit = inverse_sigmoid(probability)
    logit.sum().backward()
    assert logit.dtype == torch.promote_types(dtype, torch.float32)
    assert probability.grad.isfinite().all()
    torch.testing.assert_close(logit.sigmoid(), probability.to(logit.dtype), rtol=1e-3, atol=1e-6)
