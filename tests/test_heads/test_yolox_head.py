"""YOLOXHead: mmdet's results with the stock losses, and what it adds."""

import copy
import math
from functools import partial

import pytest
import torch
from mmdet.models.dense_heads import YOLOXHead as MMDetYOLOXHead
from mmdet.models.task_modules import SimOTAAssigner
from mmdet.registry import MODELS, TASK_UTILS
from mmengine.config import ConfigDict
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData

from mmext.heads import YOLOXHead, yolox_head
from mmext.heads.batch import pad
from mmext.heads.nms import suppress
from mmext.testing import OpCounter

CLASSES, CHANNELS, SIZE = 3, 8, 160
BATCH = ConfigDict(assigner={'type': 'mmext.BatchSimOTAAssigner', 'center_radius': 2.5})
SOFTMAX = {'loss_cls': {'type': 'mmext.SoftmaxFocalLoss'}, 'cls_target': 'label'}


@TASK_UTILS.register_module(force=True)
class Float32SimOTA(SimOTAAssigner):
    """mmdet's assigner fails in float64: it keeps the IoUs in float32."""

    def assign(self, pred_instances, gt_instances, gt_instances_ignore=None):
        pred_instances, gt_instances = (
            InstanceData(
                **{key: value.float() if value.is_floating_point() else value for key, value in instances.items()}
            )
            for instances in (pred_instances, gt_instances)
        )
        return super().assign(pred_instances, gt_instances, gt_instances_ignore)


def build(kind, seed=0, **arguments):
    torch.manual_seed(seed)
    config = {
        'type': kind,
        'num_classes': CLASSES,
        'in_channels': CHANNELS,
        'feat_channels': CHANNELS,
        'train_cfg': ConfigDict(assigner={'type': 'Float32SimOTA', 'center_radius': 2.5}),
        'test_cfg': ConfigDict(score_thr=0.01, nms={'type': 'nms', 'iou_threshold': 0.65}),
    }
    with DefaultScope.overwrite_default_scope('mmdet'):
        return MODELS.build({**config, **arguments})


def inputs(dtype=torch.float32, boxes=(5, 0, 3)):
    generator = torch.Generator().manual_seed(1)
    features = [
        torch.randn(len(boxes), CHANNELS, SIZE // stride, SIZE // stride, generator=generator).to(dtype)
        for stride in (8, 16, 32)
    ]
    instances = []
    for number in boxes:
        top_left = torch.rand(number, 2, generator=generator) * 100
        sides = torch.rand(number, 2, generator=generator) * 50 + 5
        labels = torch.randint(0, CLASSES, (number,), generator=generator)
        instances.append(InstanceData(bboxes=torch.cat([top_left, top_left + sides], 1).to(dtype), labels=labels))
    metas = [{'img_shape': (SIZE, SIZE), 'scale_factor': (1.0, 1.0)}] * len(boxes)
    return features, instances, metas


def losses_and_gradients(head, features, instances, metas):
    head.zero_grad()
    losses = head.loss_by_feat(*head(features), instances, metas)
    sum(losses.values()).backward()
    return {name: loss.item() for name, loss in losses.items()}, [parameter.grad for parameter in head.parameters()]


def pair(batch=False, **arguments):
    """mmdet's head and mmext's with the same weights; `batch`: with mmext's assigner, too."""
    ours = {'train_cfg': BATCH, **arguments} if batch else arguments
    theirs, ours = build('mmdet.YOLOXHead', **arguments), build('mmext.YOLOXHead', seed=7, **ours)
    assert type(theirs) is MMDetYOLOXHead
    assert type(ours) is YOLOXHead
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


class TestEqualsMMDet:
    @pytest.mark.parametrize('use_l1', [False, True])
    @pytest.mark.parametrize(('dtype', 'tolerance'), [(torch.float64, 1e-6), (torch.float32, 1e-5)])
    @pytest.mark.parametrize('boxes', [(5, 0, 3), (0, 0), (30,)])
    @pytest.mark.parametrize('batch', [False, True])
    def test_losses_and_gradients(self, boxes, dtype, tolerance, use_l1, batch):
        results = []
        for head in pair(batch):
            head.to(dtype).use_l1 = use_l1
            results.append(losses_and_gradients(head, *inputs(dtype, boxes)))
        (their_losses, their_gradients), (our_losses, our_gradients) = results
        assert set(our_losses) == {'loss_cls', 'loss_bbox', 'loss_obj', *(['loss_l1'] if use_l1 else [])}
        assert our_losses == pytest.approx(their_losses, rel=tolerance, abs=tolerance)
        for theirs, ours in zip(their_gradients, our_gradients):
            torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)

    def test_boxes(self):
        theirs, ours = pair()
        features, _, metas = inputs()
        for expected, result in zip(
            *(head.predict_by_feat(*head(features), metas, rescale=True) for head in (theirs, ours))
        ):
            assert len(result) > 0
            for key in ('bboxes', 'scores', 'labels'):
                torch.testing.assert_close(result[key], expected[key], rtol=0, atol=0)

    def test_state_dict(self):
        theirs, ours = pair()
        assert list(ours.state_dict()) == list(theirs.state_dict())

    @pytest.mark.parametrize('loss', [*('IoULoss', 'GIoULoss', 'DIoULoss', 'CIoULoss', 'EIoULoss', 'SIoULoss')])
    def test_other_losses_of_mmdet_with_our_assigner(self, loss):
        """Slots that hold no positive add nothing, not even where the loss of identical boxes is NaN."""
        arguments = {
            'loss_bbox': {'type': loss, 'reduction': 'sum', 'loss_weight': 5.0},
            'loss_cls': {'type': 'QualityFocalLoss', 'reduction': 'sum'},
        }
        results = [losses_and_gradients(head, *inputs()) for head in pair(True, **copy.deepcopy(arguments))]
        assert results[1][0] == pytest.approx(results[0][0], rel=1e-5)
        for theirs, ours in zip(results[0][1], results[1][1]):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize('batch', [False, True])
    def test_mmdet_head_takes_our_losses(self, batch):
        """With reduction='sum', as with mmext's own head."""
        losses = {
            'loss_cls': {'type': 'mmext.QualityFocalLoss', 'reduction': 'sum'},
            'loss_bbox': {'type': 'mmext.IoULoss', 'variant': 'ciou', 'reduction': 'sum', 'loss_weight': 5.0},
            'loss_obj': {'type': 'mmext.VarifocalLoss', 'reduction': 'sum'},
        }
        results = [losses_and_gradients(head, *inputs()) for head in pair(batch, **copy.deepcopy(losses))]
        assert results[1][0] == pytest.approx(results[0][0], rel=1e-5)
        assert all(loss > 0.01 for loss in results[0][0].values())


class TestReduction:
    @pytest.mark.parametrize('train_cfg', [None, BATCH])
    @pytest.mark.parametrize('name', ['loss_cls', 'loss_bbox', 'loss_obj', 'loss_l1'])
    def test_mean_and_sum_give_the_same(self, name, train_cfg):
        kind = {'loss_cls': 'mmext.QualityFocalLoss', 'loss_bbox': 'mmext.IoULoss', 'loss_obj': 'mmext.FocalLoss',
                'loss_l1': 'mmdet.L1Loss'}[name]  # fmt: skip
        results = []
        for reduction in ('sum', 'mean'):
            given = {'train_cfg': train_cfg} if train_cfg else {}
            head = build('mmext.YOLOXHead', **{name: {'type': kind, 'reduction': reduction}}, **given)
            head.use_l1 = True
            results.append(losses_and_gradients(head, *inputs())[0])
        assert results[0] == pytest.approx(results[1], rel=1e-5)
        assert results[0][name] > 0.01

    @pytest.mark.parametrize('name', ['loss_cls', 'loss_bbox', 'loss_obj', 'loss_l1'])
    def test_none_is_refused(self, name):
        kind = 'mmext.IoULoss' if name == 'loss_bbox' else 'mmext.FocalLoss'
        with pytest.raises(ValueError, match=f"bbox_head.{name} has reduction='none'"):
            build('mmext.YOLOXHead', **{name: {'type': kind, 'reduction': 'none'}})


class TestTargets:
    @staticmethod
    def seen(**arguments):
        """What the losses were given: class target, objectness target, IoUs of the positives."""
        head = build('mmext.YOLOXHead', **arguments)
        given = {}
        for name in ('loss_cls', 'loss_obj', 'loss_bbox'):
            getattr(head, name).register_forward_pre_hook(
                lambda module, args, name=name: given.__setitem__(name, (args[0].detach(), args[1])), with_kwargs=False
            )
        losses_and_gradients(head, *inputs())
        return given

    def test_iou(self):
        given = self.seen()
        target = given['loss_cls'][1]
        assert ((target > 0).sum(-1) <= 1).all()
        assert 0 < target.max() < 1

    def test_hard(self):
        target = self.seen(cls_target='hard')['loss_cls'][1]
        assert (target.sum(-1) == 1).all()
        assert target.unique().tolist() == [0, 1]

    def test_label(self, monkeypatch):
        assigned = []
        original = YOLOXHead._cls_target
        monkeypatch.setattr(
            YOLOXHead, '_cls_target', lambda head, given: assigned.append(given.labels) or original(head, given)
        )
        label = self.seen(**SOFTMAX)['loss_cls'][1]
        assert label.dtype == torch.int64
        assert label.tolist() == assigned[0].tolist()
        one_hot = self.seen(cls_target='hard')['loss_cls'][1]
        assert one_hot.argmax(-1).tolist() == assigned[1].tolist()

    def test_objectness(self):
        hard, soft = self.seen()['loss_obj'][1], self.seen(obj_target='iou')['loss_obj'][1]
        assert hard.unique().tolist() == [0, 1]
        assert ((soft > 0) <= (hard > 0)).all()
        positive = self.seen()['loss_cls'][1].sum(-1)
        torch.testing.assert_close(soft[hard > 0], positive)

    @pytest.mark.parametrize(('name', 'value'), [('obj_target', 'soft'), ('cls_target', 'one-hot')])
    def test_unknown(self, name, value):
        with pytest.raises(ValueError, match=rf"bbox_head.{name} must be one of .* but is '{value}'"):
            build('mmext.YOLOXHead', **{name: value})

    def test_softmax_needs_labels(self):
        with pytest.raises(ValueError, match=r"needs bbox_head\.cls_target='label'"):
            build('mmext.YOLOXHead', loss_cls={'type': 'mmext.SoftmaxFocalLoss'})

    @pytest.mark.parametrize('kind', ['mmdet.CrossEntropyLoss', 'mmext.SoftmaxFocalLoss'])
    def test_objectness_is_no_softmax(self, kind):
        with pytest.raises(ValueError, match='use_sigmoid=True'):
            build('mmext.YOLOXHead', loss_obj={'type': kind, 'reduction': 'sum'})

    @pytest.mark.parametrize(
        'arguments',
        [{'loss_cls': {'type': 'mmext.FocalLoss'}}, {'loss_obj': {'type': 'mmext.FocalLoss'}, 'obj_target': 'iou'}],
    )
    def test_focal_loss_on_soft_targets_warns(self, arguments, warnings):
        build('mmext.YOLOXHead', **arguments)
        assert len(warnings) == 1
        assert 'minimum in the wrong place' in warnings[0]

    def test_focal_loss_on_hard_targets_does_not_warn(self, warnings):
        build('mmext.YOLOXHead', loss_cls={'type': 'mmext.FocalLoss'}, cls_target='hard')
        assert not warnings

    @pytest.fixture
    def warnings(self, monkeypatch):
        messages = []
        monkeypatch.setattr('mmext.heads.yolox_head.print_log', lambda message, **_: messages.append(message))
        return messages


class TestBoxLosses:
    def test_mpdiou_is_given_the_size_of_the_input(self):
        """It follows multi-scale training: features of another size, another input."""
        head = build('mmext.YOLOXHead', loss_bbox={'type': 'mmext.IoULoss', 'variant': 'mpdiou'})
        sizes = []
        head.loss_bbox.register_forward_pre_hook(
            lambda module, args, kwargs: sizes.append(kwargs['image_size']), with_kwargs=True
        )
        features, instances, metas = inputs()
        assert losses_and_gradients(head, features, instances, metas)[0]['loss_bbox'] > 0
        losses_and_gradients(head, [feature[..., :-1, :] for feature in features], instances, metas)
        assert [tuple(size) for size in sizes] == [(SIZE, SIZE), (SIZE - 8, SIZE)]

    def test_mpdiou_in_a_head_that_gives_no_size(self):
        loss = {'type': 'mmext.IoULoss', 'variant': 'mpdiou', 'reduction': 'sum'}
        with pytest.raises(ValueError, match=r'needs image_size=.* mmext\.YOLOXHead passes it'):
            losses_and_gradients(build('mmdet.YOLOXHead', loss_bbox=loss), *inputs())
        fixed = build('mmdet.YOLOXHead', loss_bbox={**loss, 'image_size': (SIZE, SIZE)})
        assert losses_and_gradients(fixed, *inputs())[0]['loss_bbox'] > 0

    def test_a_running_mean_is_asked_for_on_every_rank(self, monkeypatch):
        """A rank without boxes must take part, or the others wait."""
        asked = []
        monkeypatch.setattr('mmext.losses.focus.all_reduce', lambda total: asked.append(total.tolist()))
        focus = {'type': 'mmext.WiseFocus'}
        head = build('mmext.YOLOXHead', loss_bbox={'type': 'mmext.IoULoss', 'focus': focus}).train()
        losses, gradients = losses_and_gradients(head, *inputs(boxes=(0, 0)))
        assert asked == [[0, 0]]
        assert losses['loss_bbox'] == 0
        assert head.loss_bbox.focus.mean == 1
        assert all(gradient.isfinite().all() for gradient in gradients)
        losses_and_gradients(head, *inputs())
        assert len(asked) == 2
        assert 0 < head.loss_bbox.focus.mean < 1

    @pytest.mark.parametrize('loss', [{'type': 'mmext.NWDLoss'}, {'type': 'mmext.IoULoss', 'inner_ratio': 0.8}])
    def test_train(self, loss):
        losses, gradients = losses_and_gradients(build('mmext.YOLOXHead', loss_bbox=loss), *inputs())
        assert losses['loss_bbox'] > 0
        assert all(gradient.isfinite().all() for gradient in gradients)


class TestSoftmax:
    def test_scores_are_those_of_the_softmax(self):
        head = build('mmext.YOLOXHead', **SOFTMAX)
        features, _, metas = inputs(boxes=(1,))
        cls_scores, bbox_preds, objectnesses = head(features)
        results = head.predict_by_feat(cls_scores, bbox_preds, objectnesses, metas, with_nms=False)[0]
        flat = torch.cat([score.permute(0, 2, 3, 1).reshape(-1, CLASSES) for score in cls_scores])
        objectness = torch.cat([score.reshape(-1) for score in objectnesses]).sigmoid()
        expected = (flat.softmax(-1).amax(-1) * objectness).sort(descending=True).values[: len(results)]
        torch.testing.assert_close(results.scores.sort(descending=True).values, expected, rtol=1e-5, atol=1e-6)

    def test_trains(self):
        losses, gradients = losses_and_gradients(build('mmext.YOLOXHead', **SOFTMAX), *inputs())
        assert all(loss > 0 for loss in losses.values())
        assert all(gradient.isfinite().all() for gradient in gradients)


class TestPrecision:
    @pytest.mark.parametrize('loss', [{}, {'loss_bbox': {'type': 'mmext.IoULoss', 'variant': 'ciou'}}])
    def test_a_box_without_end_spoils_no_gradient(self, loss):
        """A prior that no box takes may predict any side: mmdet's head would have a gradient of NaN."""
        finite = {}
        for kind, config in (('mmext.YOLOXHead', BATCH), ('mmdet.YOLOXHead', None)):
            head = build(kind, **({'train_cfg': config} if config else {}), **copy.deepcopy(loss if config else {}))
            features, _, metas = inputs(boxes=(1,))
            instances = [InstanceData(bboxes=torch.tensor([[8.0, 8, 40, 40]]), labels=torch.tensor([0]))]
            outputs = [[level.detach().requires_grad_() for level in levels] for levels in head(features)]
            with torch.no_grad():
                outputs[1][0][..., -5:, -5:] = 200
            sum(head.loss_by_feat(*outputs, instances, metas).values()).backward()
            finite[kind] = all(level.grad.isfinite().all() for levels in outputs for level in levels)
        assert finite == {'mmext.YOLOXHead': True, 'mmdet.YOLOXHead': False}

    def test_half_outputs_are_decoded_in_float32(self):
        """At 600 px float16 has steps of half a pixel: a box a quarter off would not move."""
        head = build('mmext.YOLOXHead', strides=(8,))
        size = 80
        cls_scores = [torch.full((1, CLASSES, size, size), -9.0)]
        bbox_preds, objectnesses = [torch.zeros(1, 4, size, size)], [torch.full((1, 1, size, size), -9.0)]
        cls_scores[0][0, 0, 75, 75] = objectnesses[0][0, 0, 75, 75] = 9.0
        bbox_preds[0][0, :2, 75, 75] = 0.03125
        bbox_preds[0][0, 2:, 75, 75] = 1.0
        half = [[level.half() for level in levels] for levels in (cls_scores, bbox_preds, objectnesses)]
        result = head.predict_by_feat(*half, [{'img_shape': (640, 640)}])[0]
        half_side = 8 * math.e / 2
        expected = torch.tensor([[600.25 - half_side] * 2 + [600.25 + half_side] * 2])
        torch.testing.assert_close(result.bboxes, expected, rtol=0, atol=1e-4)

    def test_half_outputs_have_losses_in_float32(self):
        head = build('mmext.YOLOXHead')
        features, instances, metas = inputs()
        outputs = [[level.half() for level in levels] for levels in head(features)]
        losses = head.loss_by_feat(*outputs, instances, metas)
        expected = head.loss_by_feat(*[[level.float() for level in levels] for levels in outputs], instances, metas)
        assert losses['loss_bbox'].dtype == torch.float32
        torch.testing.assert_close(losses['loss_bbox'], expected['loss_bbox'], rtol=1e-3, atol=1e-3)


class TestNMSFallback:
    def test_equals_mmcv(self):
        """On the CPU both are there; torchvision is not."""
        generator = torch.Generator().manual_seed(0)
        top_left = torch.rand(60, 2, generator=generator) * 50
        results = InstanceData(
            bboxes=torch.cat([top_left, top_left + 20], 1),
            scores=torch.rand(60, generator=generator),
            labels=torch.randint(0, 3, (60,), generator=generator),
        )
        head = build('mmext.YOLOXHead')
        nms = ConfigDict(type='nms', iou_threshold=0.65)
        expected = head._bbox_post_process(results, ConfigDict(nms=nms), img_meta={})
        kept = suppress(results, nms)
        assert 0 < len(kept) < 60
        for key in ('bboxes', 'scores', 'labels'):
            torch.testing.assert_close(kept[key], expected[key])

    @pytest.mark.parametrize('max_num', [-1, 2])
    def test_keeps_as_many_as_asked(self, max_num):
        results = InstanceData(
            bboxes=torch.tensor([[0.0, 0, 9, 9], [20, 0, 29, 9], [40, 0, 49, 9]]),
            scores=torch.tensor([0.9, 0.8, 0.7]),
            labels=torch.zeros(3).long(),
        )
        kept = suppress(results, ConfigDict(type='nms', iou_threshold=0.5, max_num=max_num))
        assert len(kept) == (3 if max_num < 0 else 2)

    @pytest.mark.gpu
    def test_predicts_on_a_gpu(self):
        head = build('mmext.YOLOXHead').cuda()
        features, _, metas = inputs()
        results = head.predict_by_feat(*head([feature.cuda() for feature in features]), metas)
        assert all(result.bboxes.is_cuda for result in results)


@pytest.mark.gpu
def test_trains_in_mixed_precision_on_a_gpu():
    head = build('mmext.YOLOXHead').cuda()
    features, instances, metas = inputs()
    instances = [instance.to('cuda') for instance in instances]
    with torch.autocast('cuda', dtype=torch.float16):
        losses = head.loss_by_feat(*head([feature.cuda() for feature in features]), instances, metas)
    sum(losses.values()).backward()
    assert all(parameter.grad.isfinite().all() for parameter in head.parameters())


OWN = {
    'loss_cls': {'type': 'mmext.QualityFocalLoss'},
    'loss_bbox': {'type': 'mmext.IoULoss', 'variant': 'ciou', 'focus': {'type': 'mmext.WiseFocus'}},
    'loss_obj': {'type': 'mmext.VarifocalLoss'},
}
FOCAL = {'loss_cls': {'type': 'mmext.FocalLoss'}, 'loss_obj': {'type': 'mmext.FocalLoss'}, 'cls_target': 'hard'}


def own(variant, **arguments):
    """mmext's losses with another loss of boxes."""
    return OWN | {'loss_bbox': {'type': 'mmext.IoULoss', 'variant': variant, **arguments}}


class TestFixedOperations:
    """What is launched depends on no value: as many operations for every batch, and the host never waits."""

    @staticmethod
    def count(boxes, **arguments):
        head = build('mmext.YOLOXHead', train_cfg=BATCH, **copy.deepcopy(arguments))
        features, instances, metas = inputs(boxes=boxes)
        outputs = [[level.detach().requires_grad_() for level in levels] for levels in head(features)]
        head.loss_by_feat(*outputs, instances, metas)
        with OpCounter() as counter:
            loss = sum(head.loss_by_feat(*outputs, instances, metas).values())
            torch.autograd.grad(loss, [level for levels in outputs for level in levels])
        assert not counter.syncs
        return counter.operations.total()

    @pytest.mark.parametrize(
        ('losses', 'limit'),
        [
            ({}, 350),
            (own('iou', alpha=2.0), 250),
            (own('iou', alpha=2.0) | FOCAL, 250),
            (own('giou'), 250),
            (own('diou'), 250),
            (own('mpdiou'), 250),
            (own('piou'), 250),
            # What is left above 250 is the penalty, and its gradient.
            (own('ciou'), 275),
            (own('eiou'), 275),
            (OWN, 305),
            (SOFTMAX, 350),
        ],
    )
    def test_same_for_every_batch(self, losses, limit):
        numbers = [self.count(boxes, **losses) for boxes in ((5, 0, 3), (1, 1), (9,), (30,) * 8, (100, 2))]
        assert len(set(numbers)) == 1
        assert numbers[0] <= limit
        # Nothing is assigned, or scored for it.
        assert self.count((0, 0), **losses) <= numbers[0] - 80

    @pytest.mark.parametrize('losses', [{}, OWN])
    def test_no_memory_for_the_gradient_of_no_boxes(self, losses):
        head = build('mmext.YOLOXHead', train_cfg=BATCH, **copy.deepcopy(losses))
        features, instances, metas = inputs(boxes=(0, 0))
        cls_scores, *others = ([level.detach().requires_grad_() for level in levels] for levels in head(features))
        loss = sum(head.loss_by_feat(cls_scores, *others, instances, metas).values())
        for level, gradient in zip(cls_scores, torch.autograd.grad(loss, cls_scores)):
            assert gradient.shape == level.shape and not gradient.any()
            assert gradient.untyped_storage().nbytes() == gradient.element_size()

    def test_mmdet_asks_the_host(self):
        head = build('mmdet.YOLOXHead')
        features, instances, metas = inputs()
        with OpCounter() as counter:
            head.loss_by_feat(*head(features), instances, metas)
        assert counter.syncs.total() > 30

    @pytest.mark.gpu
    def test_no_host_sync_on_a_gpu(self):
        head = build('mmext.YOLOXHead', train_cfg=BATCH, **copy.deepcopy(OWN)).cuda()
        features, instances, metas = inputs()
        instances = [instance.to('cuda') for instance in instances]
        outputs = head([feature.cuda() for feature in features])
        head.loss_by_feat(*outputs, instances, metas)
        torch.cuda.set_sync_debug_mode('error')
        try:
            sum(head.loss_by_feat(*outputs, instances, metas).values()).backward()
        finally:
            torch.cuda.set_sync_debug_mode('default')

    @pytest.mark.gpu
    def test_captured_in_a_cuda_graph(self):
        """Replayed with other numbers in the same memory it gives their losses and gradients."""
        head = build('mmext.YOLOXHead', train_cfg=BATCH, **copy.deepcopy(own('ciou'))).cuda()
        mine, others = (self.tensors(head, seed) for seed in (0, 1))
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self.step(head, *mine)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = self.step(head, *mine)
        expected = self.step(head, *others)
        with torch.no_grad():
            for tensor, other in zip(mine[0] + mine[1], others[0] + others[1]):
                tensor.copy_(other)
        graph.replay()
        for ours, theirs in zip(captured, expected):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)

    @staticmethod
    def tensors(head, seed):
        """The outputs of the head, level by level, and the padded ground truth."""
        torch.manual_seed(seed)
        features, instances, _ = inputs()
        device = next(head.parameters()).device
        outputs = head([torch.randn_like(feature).to(device) for feature in features])
        truth = pad([instance.to(device) for instance in instances], features[0].to(device))
        return [level.detach().requires_grad_() for levels in outputs for level in levels], list(truth)

    @staticmethod
    def step(head, levels, truth):
        """The losses, and the gradients of the outputs."""
        outputs = levels[:3], levels[3:6], levels[6:]
        losses = head._batch_losses(head._priors(outputs[1]), *outputs, truth)
        return [*losses.values(), *torch.autograd.grad(sum(losses.values()), levels)]


class TestCompiled:
    """`loss_by_feat` as one graph."""

    @pytest.mark.parametrize('losses', [{}, OWN])
    def test_equals_eager(self, losses, monkeypatch):
        self.compare(losses, monkeypatch, 'aot_eager')

    @pytest.mark.slow
    @pytest.mark.parametrize('losses', [{}, OWN, SOFTMAX])
    def test_code_equals_eager(self, losses, monkeypatch):
        self.compare(losses, monkeypatch, 'inductor')

    @staticmethod
    def compare(losses, monkeypatch, backend):
        monkeypatch.setattr(torch, 'compile', partial(torch.compile, backend=backend))
        torch.compiler.reset()
        yolox_head._compiled_losses.cache_clear()
        graphs = torch._dynamo.utils.counters['stats']
        heads = [
            build('mmext.YOLOXHead', train_cfg=BATCH, compile=compiled, **copy.deepcopy(losses))
            for compiled in (False, True)
        ]
        made = []
        # 5 and 8 boxes are in one bucket, 9 in the next; without boxes there is nothing to assign. Another size, of
        # which YOLOX has eleven, is another graph, once.
        for boxes, rows in (
            *(((5, 0, 3), None), ((2, 8, 1), None), ((0, 9, 1), None), ((0, 0, 0), None), ((1, 1, 1), None)),
            *(((5, 0, 3), -1), ((2, 8, 1), -1), ((2, 8, 1), None)),
        ):
            features, *truth = inputs(boxes=boxes)
            features = [feature[..., :rows, :] for feature in features]
            (expected, their_gradients), (ours, our_gradients) = (
                losses_and_gradients(head, features, *truth) for head in heads
            )
            assert ours == pytest.approx(expected, rel=1e-4, abs=1e-6)
            for theirs, own in zip(their_gradients, our_gradients):
                torch.testing.assert_close(own, theirs, rtol=1e-4, atol=1e-5)
            made.append(graphs['unique_graphs'])
        assert [later - made[0] for later in made] == [0, 0, 1, 2, 2, 3, 3, 3]
        yolox_head._compiled_losses.cache_clear()
