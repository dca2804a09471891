"""The head's tensor operations beside plain ones."""

from types import SimpleNamespace

import pytest
import torch
from mmdet.models.dense_heads import YOLOXHead
from mmengine.structures import InstanceData
from yolox import inputs

from mmext.heads.ops import (
    DecodeWithGrad,
    GatherRows,
    decode,
    flatten_levels,
    gather_rows,
    pad_ground_truth,
    places_in_levels,
)
from mmext.testing import OpCounter


def test_flatten_levels():
    levels = [torch.arange(2 * 3 * side * side).view(2, 3, side, side) for side in (4, 2, 1)]
    expected = torch.cat([level.permute(0, 2, 3, 1).reshape(2, -1, 3) for level in levels], 1)
    assert torch.equal(flatten_levels(levels), expected)


SIZES = ((4, 4), (2, 3), (1, 1))


def random_levels(channels=3):
    return [torch.randn(2, channels, *size, dtype=torch.float64, requires_grad=True) for size in SIZES]


class TestGatherRows:
    # The first and the last prior of each level, and one of them twice.
    INDEX = [[0, 15, 16, 21, 22], [22, 3, 3, 17, 0]]

    @staticmethod
    def places(index):
        index = torch.tensor(index).long()
        return [each[:, index] for each in places_in_levels(SIZES, index.device)], index

    @pytest.mark.parametrize('index', [INDEX, [[], []]])
    @pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
    def test_equals_gathering_from_flattened_levels(self, index, layout):
        places, index = self.places(index)
        levels = random_levels()
        given = [level.contiguous(memory_format=layout) for level in levels]
        weight = torch.randn(*index.shape, 3, dtype=torch.float64)
        rows = GatherRows.apply(*places, *given), gather_rows(flatten_levels(given), index)
        assert torch.equal(*rows)
        ours, theirs = (torch.autograd.grad((each * weight).sum(), given) for each in rows)
        for gradient, expected in zip(ours, theirs):
            torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-12)
            # A convolution in this layout would copy another one.
            assert not index.numel() or gradient.is_contiguous(memory_format=layout)

    @pytest.mark.parametrize('index', [INDEX, [[], []]])
    def test_derivatives(self, index):
        places, _ = self.places(index)

        def function(*levels):
            return GatherRows.apply(*places, *levels).square()

        assert torch.autograd.gradcheck(function, random_levels())
        assert torch.autograd.gradgradcheck(function, random_levels())

    def test_writes_each_gradient_once(self):
        places, _ = self.places(self.INDEX)
        levels = [level.float().detach().requires_grad_() for level in random_levels(channels=500)]
        loss = GatherRows.apply(*places, *levels).sum()
        with OpCounter() as counter:
            gradients = torch.autograd.grad(loss, levels)
        rows = 500 * len(self.INDEX[0]) * 2
        # Beside the gradients: the rows that are added, and the index of each of their elements.
        assert counter.bytes['scatter_add'] <= sum(each.nbytes for each in gradients) + 3 * (4 + 8) * rows
        assert counter.operations['scatter_add'] == 3


def test_decode():
    """The head's boxes are mmdet's, bit by bit."""
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(50, 4, generator=generator) * 600
    corners[:, 2:] = torch.tensor([8.0, 16, 32])[torch.randint(3, (50, 1), generator=generator)]
    offsets = torch.randn(2, 50, 4, generator=generator)
    expected = YOLOXHead._bbox_decode(None, corners, offsets)
    for layout in (offsets, offsets.permute(2, 0, 1).contiguous().permute(1, 2, 0)):
        assert torch.equal(decode(corners, layout), expected)


def test_decode_with_grad():
    offsets = torch.randn(2, 5, 4, dtype=torch.float64, requires_grad=True)
    corners = torch.tensor([[8.0, 16, 8, 8]] * 4 + [[0, 32, 16, 32]], dtype=torch.float64).expand(2, 5, 4)
    boxes, weight = decode(corners, offsets), torch.randn(2, 5, 4, dtype=torch.float64)
    (expected,) = torch.autograd.grad((boxes * weight).sum(), offsets)
    same = DecodeWithGrad.apply(offsets, corners, boxes.detach())
    assert torch.equal(same, boxes)
    torch.testing.assert_close(torch.autograd.grad((same * weight).sum(), offsets)[0], expected)


class TestPadGroundTruth:
    def test_holds_what_is_real(self):
        _, instances, _ = inputs(boxes=(5, 0, 3))
        boxes, labels, mask = pad_ground_truth(instances, torch.empty(0, dtype=torch.float64))
        assert boxes.dtype == torch.float64 and labels.dtype == torch.int64
        assert mask.sum(1).tolist() == [5, 0, 3]
        for image, each in enumerate(instances):
            assert torch.equal(boxes[image][mask[image]], each.bboxes.double())
            assert torch.equal(labels[image][mask[image]], each.labels)

    @pytest.mark.parametrize(
        ('numbers', 'width'), [((1, 0), 8), ((8, 3), 8), ((9,), 16), ((16, 1), 16), ((40, 33), 64), ((0, 0), 0)]
    )
    def test_in_buckets(self, numbers, width):
        _, instances, _ = inputs(boxes=numbers)
        boxes, labels, mask = pad_ground_truth(instances, torch.empty(0), in_buckets=True)
        assert boxes.shape == (len(numbers), width, 4)
        assert labels.shape == mask.shape == (len(numbers), width)
        assert mask.sum(1).tolist() == list(numbers)

    @pytest.mark.parametrize('is_cuda', [False, True])
    def test_copies_from_pinned_memory_to_a_gpu(self, is_cuda, monkeypatch):
        """A copy from pageable memory may wait for the device. A stand-in for a GPU shows what it is asked for."""
        pinned, copies, make, to = [], [], torch.tensor, torch.Tensor.to
        monkeypatch.setattr(
            torch, 'tensor', lambda data, dtype, pin_memory: pinned.append(pin_memory) or make(data, dtype=dtype)
        )
        monkeypatch.setattr(
            torch.Tensor, 'to', lambda tensor, *args, **kwargs: copies.append(kwargs) or to(tensor, *args, **kwargs)
        )
        instances = [InstanceData(bboxes=make([[0.0, 0, 1, 1]]), labels=make([2]))]
        like = SimpleNamespace(is_cuda=is_cuda, device=torch.device('cpu'), dtype=torch.float32)
        boxes, labels, mask = pad_ground_truth(instances, like)
        assert (boxes.tolist(), labels.tolist(), mask.tolist()) == ([[[0, 0, 1, 1]]], [[2]], [[True]])
        assert pinned == [is_cuda]
        assert copies[0] == {'non_blocking': True}

    @pytest.mark.gpu
    def test_on_a_gpu(self):
        _, instances, _ = inputs()
        expected = pad_ground_truth(instances, torch.empty(0))
        found = pad_ground_truth([each.to('cuda') for each in instances], torch.empty(0, device='cuda'))
        for ours, theirs in zip(found, expected):
            assert torch.equal(ours.cpu(), theirs)
