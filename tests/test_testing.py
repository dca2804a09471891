"""What is counted as an operation, a view, a host sync, and the bytes of an operation."""

import pytest
import torch

from mmext.testing import OneDevice, OpCounter


def test_counts_operations_views_and_syncs():
    x = torch.ones(2, 3)
    with OpCounter() as counter:
        y = x.view(6) * 2
        y.add_(1)
        y.unsqueeze(0).sum().item()
    # item() copies a number to the host.
    assert counter.operations == {'mul': 1, 'add_': 1, 'sum': 1, '_local_scalar_dense': 1}
    assert counter.views == {'view': 1, 'unsqueeze': 1}
    assert counter.syncs == {'_local_scalar_dense': 1}


def test_counts_the_backward():
    x = torch.ones(3, requires_grad=True)
    loss = (x * x).sum()
    with OpCounter() as counter:
        torch.autograd.grad(loss, x)
    assert counter.operations == {'ones_like': 1, 'mul': 2, 'add': 1}
    assert counter.views == {'expand': 1}


def test_an_allocation_is_no_operation():
    with OpCounter() as counter:
        torch.empty(3)
        torch.empty_like(torch.empty(2))
        torch.ones(2, 2, 2) @ torch.ones(2, 2)
    assert counter.operations == {'ones': 2, 'mm': 1}


@pytest.mark.parametrize(
    ('function', 'expected'),
    [
        # Of 6 float32 numbers, 24 bytes.
        (lambda x: x + x.clone(), {'clone': 48, 'add': 72}),
        (lambda x: x + x, {'add': 48}),
        (lambda x: x.t().mul_(2), {'mul_': 24}),
        (lambda x: torch.exp(x, out=x), {'exp': 24}),
        (lambda x: x.double(), {'_to_copy': 72}),
        (lambda x: x > 0, {'gt': 30}),
        (lambda x: x.topk(1), {'topk': 24 + 2 * (4 + 8)}),
        (lambda x: torch.cat([x, x[:1]]), {'cat': 24 + 12 + 36}),
        # An expanded tensor is as large as what it repeats.
        (lambda x: x[:1].expand(1000, 3).sum(), {'sum': 12 + 4}),
        (lambda x: x[:0].expand(1000, 0, 3).sum(), {'sum': 4}),
        # Views and bare allocations have none.
        (lambda x: torch.empty_like(x).view(6), {}),
        # Selections read what they select, and the indices.
        (lambda x: x.gather(0, x.new_zeros(1, 1, dtype=torch.long)), {'new_zeros': 24 + 8, 'gather': 4 + 8 + 4}),
        (lambda x: x[x.new_zeros(4, dtype=torch.long)], {'new_zeros': 24 + 32, 'index': 48 + 32 + 48}),
    ],
)
@pytest.mark.parametrize('device', ['cpu', 'meta'])
def test_counts_bytes(function, expected, device):
    x = torch.ones(2, 3, device=device)
    with OpCounter() as counter:
        function(x)
    assert counter.bytes == expected


MASK, X = torch.tensor([True, False, True]), torch.arange(3.0)


@pytest.mark.parametrize(
    'function, name',
    [
        (lambda x: bool((x > 1).any()), '_local_scalar_dense'),
        (lambda x: x.nonzero(), 'nonzero'),
        (lambda x: x.unique(), '_unique2'),
        (lambda x: x[MASK], 'index'),
        (lambda x: x.masked_select(MASK), 'masked_select'),
        (lambda x: x.__setitem__(MASK, torch.ones(2)), 'index_put_'),
        (lambda x: x.equal(X), 'equal'),
    ],
)
def test_waits_for_a_value(function, name):
    with OpCounter() as counter:
        function(X.clone())
    assert counter.syncs == {name: 1}


@pytest.mark.parametrize(
    'function',
    [
        lambda x: x.__setitem__(MASK, 1.0),
        lambda x: x[torch.tensor([0, 2])],
        lambda x: x.__setitem__(torch.tensor([0, 2]), torch.ones(2)),
        lambda x: x.masked_fill(MASK, 0),
        lambda x: torch.where(MASK, x, 0).topk(2).values,
        lambda x: x.gather(0, torch.tensor([0])),
    ],
)
def test_waits_for_nothing(function):
    with OpCounter() as counter:
        function(X.clone())
    assert not counter.syncs


def test_the_gradient_of_a_mask_waits():
    x = X.clone().requires_grad_()
    loss = x[MASK].sum()
    with OpCounter() as counter:
        loss.backward()
    assert counter.syncs.total() == 1


META, INDEX = torch.ones(3, device='meta'), torch.tensor([0, 2])


class TestOneDevice:
    """What `meta` tensors alone let pass."""

    @pytest.mark.parametrize(
        'function',
        [
            lambda x: x[INDEX],
            lambda x: x.gather(0, INDEX),
            lambda x: x.scatter(0, INDEX, 1.0),
            lambda x: X.to('meta'),
            lambda x: x.copy_(X),
            lambda x: x.clone().copy_(X, False),
        ],
    )
    def test_refuses(self, function):
        function(META.clone())
        with (
            pytest.raises(RuntimeError, match=r'mixes tensors on cpu and meta|between cpu and meta blocks'),
            OneDevice(),
        ):
            function(META.clone())

    def test_in_the_backward(self):
        class Stray(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x):
                return x.clone()

            @staticmethod
            def backward(ctx, gradient):
                return gradient[torch.tensor([0, 1, 2])]

        x = META.clone().requires_grad_()
        Stray.apply(x).sum().backward()
        with pytest.raises(RuntimeError, match='index mixes'), OneDevice():
            Stray.apply(x).sum().backward()

    @pytest.mark.parametrize(
        'function',
        [
            lambda x: x * torch.tensor(2.0),
            lambda x: x.clamp(min=0).sum() / 3,
            lambda x: X.to('meta', non_blocking=True),
            lambda x: x.copy_(X, True),
            lambda x: x.to(torch.float64),
            lambda x: x[torch.tensor([0, 2]).to('meta', non_blocking=True)],
        ],
    )
    def test_lets_pass(self, function):
        with OneDevice():
            assert function(META.clone()).is_meta
