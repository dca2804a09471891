"""Mixed precision in bfloat16."""

import pytest
import torch
from torch import nn

from mmext import optim
from mmext.optim import BFloat16OptimWrapper, exempt_from_autocast


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, stride=2, groups=4), nn.Conv2d(4, 2, 1))


def wrapper(model):
    return BFloat16OptimWrapper(optimizer=torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))


def output_types(model):
    types = []
    for layer in model:
        layer.register_forward_hook(lambda module, inputs, output: types.append(output.dtype))
    return types


def test_convolutions_run_in_bfloat16_except_strided_depthwise_ones():
    model = network()
    types, optimizer = output_types(model), wrapper(model)
    for _ in range(2):
        with optimizer.optim_context(model):
            loss = model(torch.rand(2, 4, 9, 9)).float().sum()
        optimizer.update_params(loss)
    assert types == 2 * [torch.bfloat16, torch.float32, torch.bfloat16]
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    assert {state['momentum_buffer'].dtype for state in optimizer.optimizer.state.values()} == {torch.float32}
    assert nn.Conv2d(4, 4, 3)(torch.rand(1, 4, 9, 9)).dtype == torch.float32


def test_gradients_are_those_of_float32_within_rounding():
    model, images = network(), torch.rand(2, 4, 9, 9)
    optimizer = wrapper(model)
    expected = torch.autograd.grad(model(images).square().sum(), list(model.parameters()))
    with optimizer.optim_context(model):
        loss = model(images).float().square().sum()
    for gradient, exact in zip(torch.autograd.grad(loss, list(model.parameters())), expected, strict=True):
        torch.testing.assert_close(gradient, exact, rtol=0.05, atol=0.02 * exact.abs().max().item())


def test_an_error_in_an_exempt_module_leaves_autocast_as_it_was():
    conv = nn.Conv2d(4, 4, 3)
    exempt_from_autocast(conv)
    with torch.autocast('cpu', torch.bfloat16):
        with pytest.raises(RuntimeError, match='channels'):
            conv(torch.rand(1, 3, 9, 9))
        assert conv(torch.rand(1, 4, 9, 9)).dtype == torch.float32
        assert nn.Conv2d(4, 4, 3)(torch.rand(1, 4, 9, 9)).dtype == torch.bfloat16


@pytest.mark.parametrize('capabilities, warns', [({'avx512_bf16': True}, 0), ({'avx512_bf16': False, 'avx2': True}, 1)])
def test_warns_once_if_the_processor_has_no_bfloat16(capabilities, warns, monkeypatch, log):
    monkeypatch.setattr(optim, 'cpu_capabilities', lambda: {'cpu_name': 'Old', **capabilities})
    model = network()
    optimizer = wrapper(model)
    for _ in range(2):
        with optimizer.optim_context(model):
            model(torch.rand(2, 4, 9, 9))
    messages = [record.message for record in log.records if 'bfloat16' in record.message]
    assert len(messages) == warns
    assert all('Old' in message and 'without --amp' in message for message in messages)


def test_gradients_accumulate():
    model = network()
    optimizer = BFloat16OptimWrapper(optimizer=torch.optim.SGD(model.parameters(), lr=0.1), accumulative_counts=2)
    before = model[0].weight.clone()
    for changed in (False, True):
        with optimizer.optim_context(model):
            loss = model(torch.ones(2, 4, 9, 9)).float().sum()
        optimizer.update_params(loss)
        assert torch.equal(model[0].weight, before) != changed
