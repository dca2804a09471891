"""The head's tensor operations beside plain ones."""

from types import SimpleNamespace

import pytest
import torch
from mmengine.structures import InstanceData
from yolox import inputs

from mmext.heads.ops import DecodeWithGrad, GatherRows, decode, flatten_levels, pad_ground_truth


def test_flatten_levels():
    levels = [torch.arange(2 * 3 * side * side).view(2, 3, side, side) for side in (4, 2, 1)]
    expected = torch.cat([level.permute(0, 2, 3, 1).reshape(2, -1, 3) for level in levels], 1)
    assert torch.equal(flatten_levels(levels), expected)


@pytest.mark.parametrize('index', [[[0, 4, 2], [1, 1, 1]], [[], []]])
def test_gather_rows(index):
    rows, index = torch.randn(2, 5, 3, dtype=torch.float64, requires_grad=True), torch.tensor(index).long()
    assert torch.equal(GatherRows.apply(rows, index), rows.gather(1, index.unsqueeze(-1).expand(-1, -1, 3)))
    torch.autograd.gradcheck(lambda rows: GatherRows.apply(rows, index).square(), rows)


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
