"""BatchSimOTAAssigner: mmdet's assignment, prior for prior."""

import pytest
import torch
from mmdet.models.task_modules import SimOTAAssigner
from mmengine.structures import InstanceData

from mmext.assigners import BatchSimOTAAssigner
from mmext.assigners.sim_ota import sigmoid_of_levels, yolox_scores
from mmext.registry import TASK_UTILS
from mmext.testing import OneDevice

CLASSES = 5


def priors(size=160, strides=(8, 16, 32)):
    """Center and stride of each prior, (A, 4)."""
    levels = []
    for stride in strides:
        places = torch.arange(size // stride) * stride + stride / 2
        y, x = torch.meshgrid(places, places, indexing='ij')
        step = torch.full_like(x, stride)
        levels.append(torch.stack([x, y, step, step], -1).flatten(0, 1))
    return torch.cat(levels)


def ground_truth(numbers, size, generator, side=0.5):
    instances = []
    for number in numbers:
        corner = torch.rand(number, 2, generator=generator) * size * 0.9
        sides = torch.rand(number, 2, generator=generator).square() * size * side + 1
        labels = torch.randint(0, CLASSES, (number,), generator=generator)
        instances.append(InstanceData(bboxes=torch.cat([corner, corner + sides], -1), labels=labels))
    return instances


def predictions(gt, size, generator, kind, classes=CLASSES):
    """Boxes and scores: of an untrained model, of a trained one, or all alike."""
    places = priors(size)
    number = len(places)
    center = places[:, :2] + torch.randn(number, 2, generator=generator) * places[:, 2:]
    half = places[:, 2:] * torch.randn(number, 2, generator=generator).exp()
    boxes = torch.cat([center - half, center + half], -1)
    logit = torch.randn(number, classes, generator=generator) * 2 - 2
    if kind == 'late' and len(gt):
        of = torch.randint(0, len(gt), (number,), generator=generator)
        boxes = gt.bboxes[of] + torch.randn(number, 4, generator=generator) * 2
        boxes = torch.cat([boxes[:, :2], torch.maximum(boxes[:, 2:], boxes[:, :2] + 1)], -1)
    elif kind == 'start':
        logit = logit * 0.01 - 4.6
    elif kind == 'certain':
        logit = logit * 30
    elif kind == 'alike':
        boxes, logit = torch.tensor([3.0, 4, 60, 70]).expand(number, 4).clone(), torch.zeros_like(logit)
    objectness = logit[:, :1].flip(0)
    return boxes, (logit.sigmoid() * objectness.sigmoid()).sqrt()


class Watched(SimOTAAssigner):
    """mmdet's assigner, which keeps the costs of the last image."""

    def dynamic_k_matching(self, cost, pairwise_ious, num_gt, valid_mask):
        self.cost, self.valid = cost.clone(), valid_mask.clone()
        topk = min(self.candidate_topk, len(cost))
        self.number = pairwise_ious.topk(topk, dim=0).values.sum(0).int().clamp(min=1)
        return super().dynamic_k_matching(cost, pairwise_ious, num_gt, valid_mask)

    def tied(self):
        """Whether the last cost that a box pays is also the first that it does not."""
        lowest = self.cost.sort(0).values
        last = lowest.gather(0, (self.number - 1).long().unsqueeze(0))
        beyond = lowest.gather(0, self.number.long().clamp(max=len(lowest) - 1).unsqueeze(0))
        return bool(((last == beyond) & (self.number < len(lowest))).any())


def batch(instances, boxes, scores):
    """Stacked predictions and padded ground truth, the padding outside of every image."""
    number = max(len(each) for each in instances)
    gt_boxes, gt_labels = torch.full((len(instances), number, 4), -7.0), torch.zeros(len(instances), number).long()
    for index, each in enumerate(instances):
        gt_boxes[index, : len(each)], gt_labels[index, : len(each)] = each.bboxes, each.labels
    mask = torch.arange(number) < torch.tensor([len(each) for each in instances]).unsqueeze(1)
    return torch.stack(boxes), torch.stack(scores), gt_boxes, gt_labels, mask


def compare(numbers, kind, seed, size=160, side=0.5, classes=CLASSES, edit=lambda gt: gt, theirs=None, **arguments):
    """Assign a batch by both; the number of images whose costs tie."""
    generator = torch.Generator().manual_seed(seed)
    instances = [edit(gt) for gt in ground_truth(numbers, size, generator, side)]
    boxes, scores = zip(*(predictions(gt, size, generator, kind, classes) for gt in instances))
    boxes, scores, gt_boxes, gt_labels, mask = batch(instances, boxes, scores)
    ours = BatchSimOTAAssigner(**arguments).assign_batch(boxes, scores, priors(size), gt_boxes, gt_labels, mask)
    gt_inds, ious = ours.scatter_to_priors(ours.gt_inds, -1), ours.scatter_to_priors(ours.ious, 0)
    assert torch.equal(ours.positive, gt_inds >= 0)
    theirs, ties = Watched(**theirs or {}), 0
    for index, gt in enumerate(instances):
        expected = theirs.assign(InstanceData(bboxes=boxes[index], scores=scores[index], priors=priors(size)), gt)
        positive = ours.positive[index]
        if len(gt) and expected.gt_inds.any() and theirs.tied():
            ties += 1
            check_tied(theirs, positive, gt_inds[index])
            continue
        assert torch.equal(positive, expected.gt_inds > 0)
        assert torch.equal(gt_inds[index][positive], expected.gt_inds[positive] - 1)
        assert torch.equal(ious[index][positive], expected.max_overlaps[positive])
    check_slots(ours, arguments.get('candidate_topk', 10))
    return ties


def check_tied(theirs, positive, gt_inds):
    """Each prior pays no more than the last cost of its box, or went to its cheapest box."""
    rows = torch.full_like(gt_inds, -1)
    rows[theirs.valid] = torch.arange(int(theirs.valid.sum()))
    assert (rows[positive] >= 0).all()
    cost = theirs.cost[rows[positive]]
    paid = cost.gather(1, gt_inds[positive].unsqueeze(1)).squeeze(1)
    last = theirs.cost.sort(0).values.gather(0, (theirs.number - 1).long().unsqueeze(0))[0]
    tolerance = 1e-5 * last.abs().max()
    assert ((paid <= last[gt_inds[positive]] + tolerance) | (paid <= cost.min(1).values + tolerance)).all()
    assert positive.sum() <= theirs.number.sum()


def check_slots(result, topk):
    """As many slots are owned as there are positives, and each holds one of them."""
    assert result.candidates.shape[1] % topk == 0
    for positive, slots, owned in zip(result.positive, result.candidates, result.valid):
        assert sorted(slots[owned].tolist()) == positive.nonzero().flatten().tolist()


@pytest.mark.parametrize('kind', ['early', 'late', 'start', 'certain'])
@pytest.mark.parametrize('seed', range(12))
def test_equals_mmdet(kind, seed):
    """Ragged batches of six images."""
    compare([0, 1, 3, 20, 7, 2], kind, seed)


@pytest.mark.parametrize('kind', ['early', 'late'])
@pytest.mark.parametrize('seed', range(4))
class TestAdversarial:
    def test_tiny_boxes(self, kind, seed):
        """Smaller than a stride: hardly a prior lies in one, and costs differ by less than float32 shows."""
        compare([12, 30, 1], kind, seed, side=0.02)

    def test_huge_boxes(self, kind, seed):
        compare([8, 2], kind, seed, side=3.0)

    def test_boxes_outside_of_the_image(self, kind, seed):
        def move(gt):
            gt.bboxes = gt.bboxes + 1000
            return gt

        compare([3, 1], kind, seed, edit=move)

    def test_twice_the_same_box(self, kind, seed):
        compare([6, 4], kind, seed, edit=lambda gt: InstanceData.cat([gt, gt]))

    def test_boxes_without_area(self, kind, seed):
        def flatten(gt):
            gt.bboxes[:, 2] = gt.bboxes[:, 0]
            return gt

        compare([6, 4], kind, seed, edit=flatten)

    @pytest.mark.parametrize('classes', [1, 80, 1000])
    def test_numbers_of_classes(self, kind, seed, classes):
        def fold(gt):
            gt.labels = gt.labels % classes
            return gt

        compare([5, 9], kind, seed, classes=classes, edit=fold)

    def test_many_boxes(self, kind, seed):
        compare([320, 1], kind, seed, side=0.2)

    @pytest.mark.parametrize('weight', ['iou_weight', 'cls_weight'])
    def test_without_one_of_the_costs(self, kind, seed, weight):
        compare([0, 5, 20, 1], kind, seed, theirs={weight: 0.0}, **{weight: 0.0})

    def test_fewer_priors_than_candidates(self, kind, seed):
        compare([3, 0], kind, seed, size=32, candidate_topk=10)

    @pytest.mark.parametrize('max_bytes', [1, 3 * 10**6])
    def test_groups_of_images(self, kind, seed, max_bytes):
        compare([0, 5, 20, 1, 3], kind, seed, max_bytes=max_bytes)


def test_ties_are_met_and_paid_alike():
    assert sum(compare([4, 8, 2], 'alike', seed) for seed in range(4)) > 0


def test_images_without_boxes():
    compare([0, 0], 'early', 0)


def test_padding_is_not_read():
    """Whatever stands in the padding, and however much of it."""
    generator = torch.Generator().manual_seed(0)
    instances = ground_truth([3, 1], 160, generator)
    boxes, scores = zip(*(predictions(gt, 160, generator, 'late') for gt in instances))
    boxes, scores, gt_boxes, gt_labels, mask = batch(instances, boxes, scores)
    expected = BatchSimOTAAssigner().assign_batch(boxes, scores, priors(), gt_boxes, gt_labels, mask)
    padding = torch.tensor([0.0, 0, 160, 160]).expand(2, 4, 4)
    padded = BatchSimOTAAssigner().assign_batch(
        boxes,
        scores,
        priors(),
        torch.cat([torch.where(mask.unsqueeze(-1), gt_boxes, padding[:, :3]), padding], 1),
        torch.cat([gt_labels, torch.ones(2, 4).long()], 1),
        torch.cat([mask, torch.zeros(2, 4).bool()], 1),
    )
    assert torch.equal(padded.positive, expected.positive)
    for name in ('gt_inds', 'ious'):
        spread = [result.scatter_to_priors(getattr(result, name), -1) for result in (padded, expected)]
        assert torch.equal(*spread)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
def test_other_types_are_assigned_in_float32(dtype):
    generator = torch.Generator().manual_seed(0)
    instances = ground_truth([4], 160, generator)
    boxes, scores = predictions(instances[0], 160, generator, 'late')
    given = [tensor.to(dtype) for tensor in (boxes, scores, instances[0].bboxes)]
    results = []
    for tensors in (given, [tensor.float() for tensor in given]):
        arguments = batch([InstanceData(bboxes=tensors[2], labels=instances[0].labels)], [tensors[0]], [tensors[1]])
        results.append(BatchSimOTAAssigner().assign_batch(*arguments[:2], priors(), *arguments[2:]))
    for ours, theirs in zip(*results):
        assert torch.equal(ours, theirs)
    assert results[0].ious.dtype == torch.float32


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16])
def test_from_logits(dtype):
    """YOLOX's score is computed group by group, in float32, and the logits are left as they are."""
    generator = torch.Generator().manual_seed(0)
    instances = ground_truth([3, 9], 160, generator)
    logits = torch.randn(2, 525, CLASSES + 1, generator=generator).to(dtype)
    cls_logits, objectness = logits.split([CLASSES, 1], -1)
    boxes, scores = zip(*(predictions(gt, 160, generator, 'late') for gt in instances))
    boxes, _, *truth = batch(instances, boxes, scores)
    before = cls_logits.clone()
    exact = (cls_logits.float().sigmoid() * objectness.float().sigmoid()).sqrt()
    assert torch.equal(yolox_scores(cls_logits, objectness), exact)
    results = [
        BatchSimOTAAssigner().assign_batch(boxes, scores, priors(), *truth)
        for scores in ((cls_logits, objectness), exact)
    ]
    for ours, theirs in zip(*results):
        assert torch.equal(ours, theirs)
    assert torch.equal(cls_logits, before)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
def test_sigmoid_of_levels(layout, dtype):
    """In float32, not rounded to the type of the logits."""
    levels = [torch.randn(2, CLASSES, side, side).to(dtype).contiguous(memory_format=layout) for side in (4, 2, 1)]
    result = sigmoid_of_levels(levels)
    expected = torch.cat([level.flatten(2) for level in levels], 2).double().sigmoid().float()
    assert result.is_contiguous()
    torch.testing.assert_close(result, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16])
@pytest.mark.parametrize('max_bytes', [None, 1])
def test_from_logits_level_by_level(max_bytes, dtype):
    """As the head has them, in both memory layouts; groups of images, too."""
    generator = torch.Generator().manual_seed(0)
    instances = ground_truth([3, 9, 0], 160, generator)
    cls_logits = torch.randn(3, 525, CLASSES, generator=generator).to(dtype)
    objectness = torch.randn(3, 525, 1, generator=generator).to(dtype)
    boxes, scores = zip(*(predictions(gt, 160, generator, 'late') for gt in instances))
    boxes, _, *truth = batch(instances, boxes, scores)
    levels = [
        part.transpose(1, 2).unflatten(2, (side, side))
        for part, side in zip(cls_logits.split([400, 100, 25], 1), (20, 10, 5))
    ]
    assigner = BatchSimOTAAssigner(max_bytes=max_bytes)
    # A sigmoid in half precision would be rounded.
    expected = assigner.assign_batch(boxes, (cls_logits.float(), objectness.float()), priors(), *truth)
    assert expected.valid.sum() > 9
    for layout in (torch.contiguous_format, torch.channels_last):
        given = [level.contiguous(memory_format=layout) for level in levels], objectness
        for ours, theirs in zip(assigner.assign_batch(boxes, given, priors(), *truth), expected):
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize('sign', [-1, 1])
def test_logits_without_end(sign):
    """Probabilities that round to 0 and to 1 have finite costs: the priors are ranked by their IoUs."""
    generator = torch.Generator().manual_seed(0)
    instances = ground_truth([5, 2], 160, generator)
    boxes, scores = zip(*(predictions(gt, 160, generator, 'late') for gt in instances))
    boxes, scores, *truth = batch(instances, boxes, scores)
    results = [
        BatchSimOTAAssigner().assign_batch(
            boxes, (torch.full_like(scores, logit), torch.full_like(scores[..., :1], logit)), priors(), *truth
        )
        for logit in (0.0, 1000.0 * sign)
    ]
    ordinary, extreme = (result.scatter_to_priors(result.gt_inds, -1) for result in results)
    assert results[0].valid.sum() > 10
    # Rounding at costs of a hundred may change a few.
    assert (ordinary != extreme).sum() <= 0.1 * results[0].valid.sum()


class TestMeta:
    """`meta` tensors have no values: what reads one is an error, and so is a tensor of another device."""

    @staticmethod
    def arguments(numbers, logits=False):
        generator = torch.Generator().manual_seed(0)
        instances = ground_truth(numbers, 160, generator)
        boxes, scores = zip(*(predictions(gt, 160, generator, 'late') for gt in instances))
        boxes, scores, *truth = batch(instances, boxes, scores)
        given = (scores, scores[..., :1]) if logits else scores
        return boxes, given, priors(), *truth

    @pytest.mark.parametrize('numbers', [[3, 0, 9], [0, 0]])
    @pytest.mark.parametrize('logits', [False, True])
    @pytest.mark.parametrize('arguments', [{}, {'max_bytes': 1}, {'cls_weight': 2.0, 'candidate_topk': 13}])
    def test_assigns_a_batch(self, arguments, logits, numbers):
        given = self.arguments(numbers, logits)
        meta = [tuple(part.to('meta') for part in each) if type(each) is tuple else each.to('meta') for each in given]
        assigner = BatchSimOTAAssigner(**arguments)
        with OneDevice():
            result = assigner.assign_batch(*meta)
            spread = result.scatter_to_priors(result.ious, 0)
        expected = assigner.assign_batch(*given)
        for ours, theirs in zip((*result, spread), (*expected, expected.scatter_to_priors(expected.ious, 0))):
            assert (ours.shape, ours.dtype, ours.device.type) == (theirs.shape, theirs.dtype, 'meta')

    @pytest.mark.parametrize('assigner', [BatchSimOTAAssigner(), SimOTAAssigner()])
    def test_of_one_image(self, assigner):
        """mmdet's reads values."""
        (boxes,), (scores,), places, (gt_boxes,), (gt_labels,), _ = (each.to('meta') for each in self.arguments([4]))
        instances = InstanceData(bboxes=boxes, scores=scores, priors=places)
        truth = InstanceData(bboxes=gt_boxes, labels=gt_labels)
        if isinstance(assigner, BatchSimOTAAssigner):
            with OneDevice():
                assert assigner.assign(instances, truth).gt_inds.is_meta
        else:
            with pytest.raises(NotImplementedError, match='nonzero'):
                assigner.assign(instances, truth)


class TestOneImage:
    """mmdet's own heads may use it, too."""

    @pytest.mark.parametrize('number', [0, 1, 9])
    def test_result_of_mmdet(self, number):
        generator = torch.Generator().manual_seed(number)
        (gt,) = ground_truth([number], 160, generator)
        boxes, scores = predictions(gt, 160, generator, 'late')
        instances = InstanceData(bboxes=boxes, scores=scores, priors=priors())
        ours = TASK_UTILS.build({'type': 'mmext.BatchSimOTAAssigner', 'center_radius': 2.5}).assign(instances, gt)
        theirs = SimOTAAssigner(center_radius=2.5).assign(instances, gt)
        assert ours.num_gts == theirs.num_gts
        for name in ('gt_inds', 'max_overlaps', 'labels'):
            assert torch.equal(getattr(ours, name), getattr(theirs, name)), name

    def test_points(self):
        """Neither the predictions nor the boxes have an area: the union is 0."""
        generator = torch.Generator().manual_seed(3)
        (gt,) = ground_truth([4], 160, generator)
        gt.bboxes[:, 2:] = gt.bboxes[:, :2]
        boxes, scores = predictions(gt, 160, generator, 'early')
        instances = InstanceData(bboxes=gt.bboxes[:1].expand_as(boxes), scores=scores, priors=priors())
        ours, theirs = (kind(center_radius=2.5).assign(instances, gt) for kind in (BatchSimOTAAssigner, SimOTAAssigner))
        assert theirs.gt_inds.any()
        for name in ('gt_inds', 'max_overlaps', 'labels'):
            assert torch.equal(getattr(ours, name), getattr(theirs, name)), name

    def test_inverted_boxes(self):
        """They have no area, and overlap nothing."""
        generator = torch.Generator().manual_seed(3)
        (gt,) = ground_truth([9], 160, generator)
        boxes, scores = predictions(gt, 160, generator, 'late')
        boxes[::3] = boxes[::3].flip(-1)
        boxes[1::3, :2], boxes[1::3, 2:] = boxes[1::3, 2:].clone(), boxes[1::3, :2].clone()
        instances = InstanceData(bboxes=boxes, scores=scores, priors=priors())
        ours, theirs = (kind(center_radius=2.5).assign(instances, gt) for kind in (BatchSimOTAAssigner, SimOTAAssigner))
        assert (theirs.max_overlaps == 0).any()
        for name in ('gt_inds', 'max_overlaps', 'labels'):
            assert torch.equal(getattr(ours, name), getattr(theirs, name)), name


class TestArguments:
    @pytest.mark.parametrize(
        'arguments',
        [
            {'center_radius': 0},
            {'candidate_topk': 0},
            {'candidate_topk': 9.5},
            {'iou_weight': -1.0},
            {'cls_weight': '1'},
            {'max_bytes': 0},
        ],
    )
    def test_out_of_range(self, arguments):
        with pytest.raises(ValueError, match=next(iter(arguments))):
            BatchSimOTAAssigner(**arguments)

    def test_another_calculator(self):
        with pytest.raises(ValueError, match=r'BboxOverlaps2D_GLIP.* use mmdet\.SimOTAAssigner'):
            BatchSimOTAAssigner(iou_calculator={'type': 'BboxOverlaps2D_GLIP'})
        assert BatchSimOTAAssigner(iou_calculator={'type': 'mmdet.BboxOverlaps2D'})

    @pytest.mark.parametrize('arguments', [{'iou_weight': 1.0, 'cls_weight': 2.0}, {'center_radius': 1.5}])
    def test_reach_the_assignment(self, arguments):
        generator = torch.Generator().manual_seed(0)
        (gt,) = ground_truth([6], 160, generator)
        boxes, scores = predictions(gt, 160, generator, 'early')
        instances = InstanceData(bboxes=boxes, scores=scores, priors=priors())
        expected = SimOTAAssigner(**arguments).assign(instances, gt).gt_inds
        assert torch.equal(BatchSimOTAAssigner(**arguments).assign(instances, gt).gt_inds, expected)
        assert not torch.equal(SimOTAAssigner().assign(instances, gt).gt_inds, expected)


class TestBadInput:
    """Of two images with six priors, three boxes and four classes."""

    @staticmethod
    def inputs():
        corner = torch.rand(2, 6, 2) * 30
        return {
            'boxes': torch.cat([corner, corner + 10], -1),
            'scores': torch.rand(2, 6, 4),
            'priors': torch.rand(6, 4) * 8 + 8,
            'gt_boxes': torch.tensor([0.0, 0, 20, 20]).expand(2, 3, 4),
            'gt_labels': torch.zeros(2, 3, dtype=torch.long),
            'gt_mask': torch.ones(2, 3, dtype=torch.bool),
        }

    @pytest.mark.parametrize('name', ['priors', 'gt_boxes', 'gt_labels', 'gt_mask'])
    def test_shapes_and_devices(self, name):
        given = self.inputs()
        BatchSimOTAAssigner().assign_batch(**given)
        for bad, message in ((given[name][..., :-1], f'{name} must have shape'), (given[name].to('meta'), 'meta')):
            with pytest.raises(ValueError, match=rf'^BatchSimOTAAssigner: .*{message}'):
                BatchSimOTAAssigner().assign_batch(**{**given, name: bad})

    @pytest.mark.parametrize('scores', [torch.rand(2, 5, 4), torch.rand(1, 6, 4)])
    def test_scores_of_other_priors_or_images(self, scores):
        logits = [scores.transpose(1, 2).unsqueeze(-1)], torch.rand(2, 6, 1)
        for bad in (scores, logits):
            with pytest.raises(ValueError, match=r'scores are of \d images with \d priors, but the boxes of 2 with 6'):
                BatchSimOTAAssigner().assign_batch(**{**self.inputs(), 'scores': bad})

    @pytest.mark.parametrize(('name', 'change'), [('gt_labels', torch.Tensor.float), ('gt_mask', torch.Tensor.long)])
    def test_types(self, name, change):
        given = self.inputs()
        with pytest.raises(TypeError, match='gt_labels must be integers and gt_mask bools'):
            BatchSimOTAAssigner().assign_batch(**{**given, name: change(given[name])})

    @pytest.mark.parametrize('label', [-1, 4])
    def test_a_label_that_does_not_exist(self, label):
        with pytest.raises(RuntimeError, match=f'index {label} is out of bounds'):
            BatchSimOTAAssigner().assign_batch(**{**self.inputs(), 'gt_labels': torch.full((2, 3), label)})

    def test_a_nan_box_takes_priors(self):
        """So that the losses become NaN; padding of NaN takes none."""
        given = self.inputs()
        given['gt_boxes'] = given['gt_boxes'].clone()
        given['gt_boxes'][0, 1, 2] = float('nan')
        taken = self.boxes_that_have_priors(given)
        assert 1 in taken
        given['gt_mask'][0, 1] = False
        assert 1 not in self.boxes_that_have_priors(given)

    @staticmethod
    def boxes_that_have_priors(given):
        result = BatchSimOTAAssigner().assign_batch(**given)
        return result.gt_inds[0][result.valid[0]].tolist()
