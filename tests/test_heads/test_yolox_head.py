"""YOLOXHead: mmdet's results with the stock losses, and what it adds."""

import copy
import math
from functools import partial

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from yolox import BATCH, CLASSES, FOCAL, OWN, SIZE, SOFTMAX, build, inputs, losses_and_gradients, own, pair

from mmext.compat import torch_can
from mmext.heads import YOLOXHead, yolox_head
from mmext.heads.ops import pad_ground_truth
from mmext.testing import OpCounter

GPU = pytest.param('cuda', marks=pytest.mark.gpu)


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

    @pytest.mark.parametrize('alpha', [0.25, 1])
    def test_softmax_with_one_alpha(self, alpha):
        """It would take a class of objects for the background."""
        loss = {'type': 'mmext.SoftmaxFocalLoss', 'alpha': alpha, 'background_index': 1}
        with pytest.raises(ValueError, match=rf'alpha is {alpha}, .*class 1 would .*one weight per class, or'):
            build('mmext.YOLOXHead', loss_cls=loss, cls_target='label')

    @pytest.mark.parametrize('alpha', [None, [1.0, 2.0, 0.5]])
    def test_softmax_with_an_alpha_for_each_class(self, alpha):
        build('mmext.YOLOXHead', loss_cls={'type': 'mmext.SoftmaxFocalLoss', 'alpha': alpha}, cls_target='label')

    @pytest.mark.parametrize(
        'arguments',
        [{'loss_cls': {'type': 'mmext.FocalLoss'}}, {'loss_obj': {'type': 'mmext.FocalLoss'}, 'obj_target': 'iou'}],
    )
    def test_focal_loss_on_soft_targets_warns(self, arguments, warnings):
        build('mmext.YOLOXHead', **arguments)
        assert len(warnings) == 1
        assert 'minimum in the wrong place' in warnings[0]
        name = next(iter(arguments)).removeprefix('loss_')
        assert f'bbox_head.loss_{name} (FocalLoss)' in warnings[0]
        assert f"set bbox_head.{name}_target='hard', or use" in warnings[0]

    def test_focal_loss_on_hard_targets_does_not_warn(self, warnings):
        build('mmext.YOLOXHead', loss_cls={'type': 'mmext.FocalLoss'}, cls_target='hard')
        assert not warnings

    @pytest.fixture
    def warnings(self, monkeypatch):
        messages = []
        monkeypatch.setattr('mmext.heads.yolox_head.print_log', lambda message, **_: messages.append(message))
        return messages


class TestAssigner:
    def test_one_that_takes_logits(self):
        with pytest.raises(ValueError, match=r'DynamicSoftLabelAssigner, which takes class logits.* use mmext'):
            build('mmext.YOLOXHead', train_cfg=ConfigDict(assigner={'type': 'DynamicSoftLabelAssigner'}))

    @pytest.mark.parametrize('train_cfg', [None, BATCH])
    def test_others(self, train_cfg):
        build('mmext.YOLOXHead', train_cfg=train_cfg)

    def test_is_given_the_boxes_to_ignore(self, monkeypatch):
        head = build('mmext.YOLOXHead')
        features, instances, metas = inputs()
        given, assign = [], head.assigner.assign
        monkeypatch.setattr(
            head.assigner,
            'assign',
            lambda gt_instances_ignore, **kwargs: given.append(gt_instances_ignore) or assign(**kwargs),
        )
        head.loss_by_feat(*head(features), instances, metas, instances)
        head.loss_by_feat(*head(features), instances, metas)
        assert all(ours is theirs for ours, theirs in zip(given, [*instances, None, None, None], strict=True))


def test_keeps_the_priors_of_the_last_sizes():
    head = build('mmext.YOLOXHead', strides=(8,))
    number = yolox_head.MAX_KNOWN_SIZES
    levels = [[torch.empty(1, 4, side, 1)] for side in range(1, number + 3)]
    priors = [head._priors(each) for each in levels]
    assert len(head._known_priors) == number
    assert head._priors(levels[-number]) is priors[-number]
    assert head._priors(levels[0]) is not priors[0]
    assert torch.equal(head._priors(levels[0]).corners, priors[0].corners)


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

    @pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32, torch.float64])
    @pytest.mark.parametrize('train_cfg', [{}, {'train_cfg': BATCH}])
    def test_targets_are_not_rounded(self, train_cfg, dtype):
        """bfloat16 would round an IoU to a multiple of 1/256."""
        head = build('mmext.YOLOXHead', obj_target='iou', **train_cfg)
        targets = []
        for loss in (head.loss_cls, head.loss_obj):
            loss.register_forward_pre_hook(lambda module, args: targets.append(args[1]))
        features, instances, metas = inputs(boxes=(30, 0, 9))
        outputs = [[level.to(dtype) for level in levels] for levels in head(features)]
        wide = torch.promote_types(dtype, torch.float32)
        for given in (outputs, [[level.to(wide) for level in levels] for levels in outputs]):
            head.loss_by_feat(*given, instances, metas)
        for ours, theirs in ((targets[0], targets[2]), (targets[1], targets[3])):
            assert (ours > 0).sum() > 10
            torch.testing.assert_close(ours, theirs, rtol=0, atol=0)

    def test_half_outputs_have_losses_in_float32(self):
        head = build('mmext.YOLOXHead')
        features, instances, metas = inputs()
        outputs = [[level.half() for level in levels] for levels in head(features)]
        losses = head.loss_by_feat(*outputs, instances, metas)
        expected = head.loss_by_feat(*[[level.float() for level in levels] for levels in outputs], instances, metas)
        assert losses['loss_bbox'].dtype == torch.float32
        torch.testing.assert_close(losses['loss_bbox'], expected['loss_bbox'], rtol=1e-3, atol=1e-3)


class TestMixedPrecision:
    """Under autocast, with the stock and mmext's own losses, by both assigners."""

    @pytest.mark.parametrize(
        ('device', 'dtype'),
        [
            ('cpu', torch.bfloat16),
            *(pytest.param('cuda', each, marks=pytest.mark.gpu) for each in (torch.float16, torch.bfloat16)),
        ],
    )
    @pytest.mark.parametrize('train_cfg', [{}, {'train_cfg': BATCH}])
    @pytest.mark.parametrize('losses', [{}, OWN, SOFTMAX, FOCAL, {'obj_target': 'iou', **OWN}])
    def test_equals_float32_of_the_same_outputs(self, losses, train_cfg, device, dtype):
        head = build('mmext.YOLOXHead', **train_cfg, **copy.deepcopy(losses)).to(device)
        # Both calls have the same running mean.
        head.loss_bbox.eval()
        head.use_l1 = True
        features, instances, metas = inputs(boxes=(30, 0, 9))
        instances = [instance.to(device) for instance in instances]
        results = {}
        for name in ('half', 'float32'):
            with torch.autocast(device, dtype=dtype):
                outputs = head([feature.to(device) for feature in features])
            assert outputs[0][0].dtype == dtype
            with torch.autocast(device, dtype=dtype, enabled=name == 'half'):
                given = outputs if name == 'half' else [[level.float() for level in levels] for levels in outputs]
                losses = head.loss_by_feat(*given, instances, metas)
            head.zero_grad()
            sum(losses.values()).backward()
            results[name] = losses, [parameter.grad for parameter in head.parameters()]
        for name, loss in results['float32'][0].items():
            assert loss > 0.01
            torch.testing.assert_close(results['half'][0][name].float(), loss, rtol=1e-4, atol=1e-5)
        for ours, theirs in zip(*(gradients for _, gradients in results.values())):
            assert (ours - theirs).norm() <= 0.02 * theirs.norm() + 1e-3


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
        # The limits are those of torch 2.13; torch 2.1 runs two operations more.
        assert numbers[0] <= limit + (0 if torch_can('compile') else 2)
        # Nothing is assigned, or scored for it.
        assert self.count((0, 0), **losses) <= numbers[0] - 80

    @pytest.mark.parametrize(
        ('losses', 'dtype', 'limit'), [({}, torch.float32, 2.4), ({}, torch.float16, 2.4), (OWN, torch.float32, 2.5)]
    )
    def test_bytes(self, losses, dtype, limit):
        """In GB, of 64 images of 640 px with 10 boxes each: one pass over the logits of 80 classes is 0.17."""
        head = build('mmext.YOLOXHead', num_classes=80, train_cfg=BATCH, **copy.deepcopy(losses)).to('meta')
        levels = [
            [
                torch.empty(64, channels, side, side, dtype=dtype, device='meta', requires_grad=True)
                for side in (80, 40, 20)
            ]
            for channels in (80, 4, 1)
        ]
        boxes, labels = torch.empty(10, 4, device='meta'), torch.empty(10, dtype=torch.long, device='meta')
        instances = [InstanceData(bboxes=boxes, labels=labels)] * 64
        with OpCounter() as counter:
            sum(head.loss_by_feat(*levels, instances, [{}] * 64).values()).backward()
        assert counter.bytes.total() <= limit * 1e9

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

    @pytest.mark.parametrize('device', ['cpu', GPU])
    def test_replayed(self, device):
        """With other numbers in the same memory it gives their losses and gradients, on a GPU as a CUDA graph."""
        head = build('mmext.YOLOXHead', train_cfg=BATCH, **copy.deepcopy(own('ciou'))).to(device)
        mine, others = (self.tensors(head, seed) for seed in (0, 1))
        replay = self.capture(head, mine) if device == 'cuda' else partial(self.step, head, *mine)
        before = [result.clone() for result in replay()]
        expected = self.step(head, *others)
        with torch.no_grad():
            for tensor, other in zip(mine[0] + mine[1], others[0] + others[1]):
                assert tensor.dtype == torch.bool or not torch.equal(tensor, other)
                tensor.copy_(other)
        for ours, theirs, former in zip(replay(), expected, before):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
            assert (ours - former).abs().max() > 1e-3 * former.abs().max()

    def capture(self, head, inputs):
        """The step as a CUDA graph; returns a function that replays it."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self.step(head, *inputs)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = self.step(head, *inputs)
        return lambda: graph.replay() or captured

    @staticmethod
    def tensors(head, seed):
        """The outputs of the head, level by level, and the padded ground truth."""
        features, instances, _ = inputs(seed=seed)
        device = next(head.parameters()).device
        outputs = head([feature.to(device) for feature in features])
        truth = pad_ground_truth([instance.to(device) for instance in instances], features[0].to(device))
        return [level.detach().requires_grad_() for levels in outputs for level in levels], list(truth)

    @staticmethod
    def step(head, levels, truth):
        """The losses, and the gradients of the outputs."""
        outputs = levels[:3], levels[3:6], levels[6:]
        losses = head._batch_losses(head._priors(outputs[1]), *outputs, truth)
        return [*losses.values(), *torch.autograd.grad(sum(losses.values()), levels)]


@pytest.mark.torch_can('compile')
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
            for theirs, gradient in zip(their_gradients, our_gradients):
                torch.testing.assert_close(gradient, theirs, rtol=1e-4, atol=1e-5)
            made.append(graphs['unique_graphs'])
        assert [later - made[0] for later in made] == [0, 0, 1, 2, 2, 3, 3, 3]
        yolox_head._compiled_losses.cache_clear()
