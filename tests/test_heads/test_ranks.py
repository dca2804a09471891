"""Several ranks over gloo train like one process with the batches of all of them."""

import copy
import time
from functools import partial
from itertools import cycle, product

import pytest
import torch
from mmengine.config import ConfigDict
from ranks import on_ranks
from torch.nn.parallel import DistributedDataParallel
from yolox import OWN, build, inputs

from mmext.compat import torch_can
from mmext.losses import VARIANTS
from mmext.losses.base import BoxLoss, ElementwiseLoss, SigmoidLoss
from mmext.losses.focus import Focus
from mmext.visualization.loss_curves import exported

# How many of the four images each rank has; the last batch of an epoch may be uneven.
SPLITS = {'two ranks': (2, 2), 'two ranks, an uneven batch': (3, 1), 'four ranks': (1, 1, 1, 1)}
# The number of boxes in each image. With one box and one candidate there are fewer positives than ranks.
BOXES = {
    'boxes in each image': (5, 3, 4, 2),
    'ranks without boxes': (0, 0, 12, 0),
    'one positive': (0, 0, 1, 0),
    'no boxes': (0, 0, 0, 0),
}
SHAPE = {'shape': {'scale': 1.0}}


def rows():
    """Each variant, each focus and each other loss that mmext exports, combined to the three losses of a head."""
    iou = {'type': 'mmext.IoULoss'}
    boxes = {variant: {**iou, 'variant': variant, **SHAPE.get(variant, {})} for variant in VARIANTS}
    boxes |= {kind: {**iou, 'focus': {'type': f'mmext.{kind}'}} for kind in exported(Focus)}
    boxes |= {kind: {'type': f'mmext.{kind}'} for kind in exported(BoxLoss) if kind != 'IoULoss'}
    objectness = exported(SigmoidLoss)
    classes = [kind for kind in exported(ElementwiseLoss) if kind not in exported(BoxLoss)]
    for box, cls, obj in zip(boxes, cycle(classes), cycle(reversed(objectness))):
        arguments = {
            'loss_cls': {'type': f'mmext.{cls}'},
            'loss_bbox': boxes[box],
            'loss_obj': {'type': f'mmext.{obj}'},
        }
        arguments['dtype'] = torch.float64
        yield f'{cls}, {box}, {obj}', {**arguments, 'cls_target': 'hard' if cls in objectness else 'label'}


HEADS = {
    "mmdet's assigner and losses": {'assigner': 'Float32SimOTA'},
    "mmdet's losses": {},
    "mmext's losses": OWN,
    "mmdet's assigner": {'assigner': 'Float32SimOTA', **OWN},
    **({'compiled': {'compile': True, **OWN}} if torch_can('compile') else {}),
    'float64': {'dtype': torch.float64, **OWN},
    **dict(rows()),
}


class Trained(torch.nn.Module):
    """A head, as DDP wraps it: losses are what the forward pass returns."""

    def __init__(self, boxes, assigner='mmext.BatchSimOTAAssigner', dtype=torch.float32, **arguments):
        super().__init__()
        topk = 1 if sum(boxes) == 1 else 10
        self.head = build(
            'mmext.YOLOXHead',
            # Batch normalization has statistics of each rank.
            norm_cfg={'type': 'GN', 'num_groups': 2},
            train_cfg=ConfigDict(assigner={'type': assigner, 'center_radius': 2.5, 'candidate_topk': topk}),
            **copy.deepcopy(arguments),
        )
        self.to(dtype).train()
        self.head.use_l1 = True

    def forward(self, features, instances, metas):
        return self.head.loss_by_feat(*self.head(features), instances, metas)

    def mean(self):
        """The running mean of WiseFocus."""
        return getattr(getattr(self.head.loss_bbox, 'focus', None), 'mean', torch.zeros(()))


def step(model, features, instances, metas):
    """The losses, the gradients, and WiseFocus's mean after the step."""
    losses = model(features, instances, metas)
    sum(losses.values()).backward()
    gradients = {name.removeprefix('module.'): weight.grad for name, weight in model.named_parameters()}
    return {name: loss.item() for name, loss in losses.items()}, gradients, getattr(model, 'module', model).mean()


ALL_BOXES = [name for name in HEADS if name not in ('compiled', *dict(rows()))]
# The losses differ in what they do with no box at all on a rank. A compilation takes seconds; ranks with 12 boxes and
# with none have graphs of their own.
CASES = [*product(ALL_BOXES, BOXES), *((name, 'ranks without boxes') for name in HEADS if name not in ALL_BOXES)]


def batch(name, boxes):
    return inputs(HEADS[name].get('dtype', torch.float32), BOXES[boxes])


def steps_of_rank(split, rank):
    """A step of each head on this rank's part of each batch."""
    torch.compile = partial(torch.compile, backend='aot_eager')
    images = slice(sum(split[:rank]), sum(split[: rank + 1]))
    results = {}
    for name, boxes in CASES:
        features, instances, metas = batch(name, boxes)
        part = [feature[images] for feature in features], instances[images], metas[images]
        results[name, boxes] = step(DistributedDataParallel(Trained(BOXES[boxes], **HEADS[name])), *part)
    return results


@pytest.fixture(scope='module', params=SPLITS)
def ranks(request, tmp_path_factory):
    """The steps of all heads, on each rank."""
    split = SPLITS[request.param]
    return on_ranks(len(split), partial(steps_of_rank, split), tmp_path_factory.mktemp('ranks'), seconds=280)


def whole(gradients):
    """The gradients of all weights as one vector."""
    return torch.cat([gradient.flatten() for gradient in gradients.values()])


def relative(ours, theirs):
    """The norm of the difference over the norm."""
    return float((ours - theirs).norm() / theirs.norm().clamp(min=1e-30))


@pytest.mark.parametrize(('name', 'boxes'), CASES)
def test_equals_one_process(name, boxes, ranks):
    """Averaged over the ranks, the losses are those of one process; DDP's gradients are, and WiseFocus's mean is."""
    arguments = {**HEADS[name], 'compile': False}
    losses, gradients, mean = step(Trained(BOXES[boxes], **arguments), *batch(name, boxes))
    assert any(gradient.any() for gradient in gradients.values())
    exact = HEADS[name].get('dtype') == torch.float64
    bound = 1e-12 if exact else 1e-6
    for our_losses, our_gradients, our_mean in (results[name, boxes] for results in ranks):
        assert our_losses.keys() == losses.keys()
        assert relative(whole(our_gradients), whole(gradients)) < bound
        for key, gradient in gradients.items():
            # In float32 small ones differ by the rounding of sums over all priors.
            assert relative(our_gradients[key], gradient) < (1e-12 if exact else 1e-5), key
        torch.testing.assert_close(our_mean, mean, rtol=1e-7, atol=0)
    for key, loss in losses.items():
        average = sum(results[name, boxes][0][key] for results in ranks) / len(ranks)
        assert average == pytest.approx(loss, rel=bound, abs=1e-12), key


def test_a_rank_that_waits_forever_fails_its_test(tmp_path):
    with pytest.raises(pytest.fail.Exception, match=r'ranks \[0, 1\] still wait after 3 s'):
        on_ranks(2, lambda rank: rank and time.sleep(60), tmp_path, seconds=3)
