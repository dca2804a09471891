"""YOLOXHead in two processes over gloo, the second without boxes."""

import copy
import os
from pathlib import Path

import pytest
import torch
from conftest import run
from yolox import BATCH, OWN, build, inputs, losses_and_gradients

SCRIPT = """
import copy, os, sys
from functools import partial
import torch
from yolox import BATCH, OWN, build, inputs, losses_and_gradients
from mmext.compat import torch_can

torch.distributed.init_process_group('gloo')
rank = torch.distributed.get_rank()
torch.compile = partial(torch.compile, backend='aot_eager')
results = {}
kinds = {'mmdet': {}, 'batch': {'train_cfg': BATCH}}
if torch_can('compile'):
    kinds['compiled'] = {'train_cfg': BATCH, 'compile': True}
for name, arguments in kinds.items():
    for losses in ({}, OWN):
        head = build('mmext.YOLOXHead', **arguments, **copy.deepcopy(losses)).train()
        head.use_l1 = True
        values, gradients = losses_and_gradients(head, *inputs(boxes=[(5, 0, 3), (0, 0)][rank]))
        mean = head.loss_bbox.focus.mean.item() if losses else None
        results[name, bool(losses)] = values, gradients, mean
torch.save(results, f'{sys.argv[1]}/{rank}.pth')
torch.distributed.barrier()
# Without teardown, in which the threads of gloo abort the process now and then.
os._exit(0)
"""


@pytest.fixture(scope='module')
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp('ranks')
    (folder / 'ranks.py').write_text(SCRIPT)
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get('PYTHONPATH')])])
    script = folder / 'ranks.py'
    run('torchrun', '--nproc_per_node', 2, '--master_port', 29714, script, folder, PYTHONPATH=path)
    return [torch.load(folder / f'{rank}.pth') for rank in (0, 1)]


@pytest.mark.parametrize('losses', [{}, OWN])
@pytest.mark.parametrize('kind', ['mmdet', 'batch', pytest.param('compiled', marks=pytest.mark.torch_can('compile'))])
def test_a_rank_without_boxes(kind, losses, results):
    """Both divide by the mean number of positives, have the same running mean, and a gradient for each weight."""
    head = build('mmext.YOLOXHead', train_cfg=BATCH, **copy.deepcopy(losses)).train()
    head.use_l1 = True
    numbers = []
    head.loss_obj.register_forward_pre_hook(lambda module, args: numbers.append(args[1].sum().item()))
    for boxes, (ours, our_gradients, our_mean) in zip(
        [(5, 0, 3), (0, 0)], [each[kind, bool(losses)] for each in results], strict=True
    ):
        alone, gradients = losses_and_gradients(head, *inputs(boxes=boxes))
        assert numbers[0] > 4
        factor = max(1, numbers[-1]) / (numbers[0] / 2)
        assert ours == pytest.approx({name: factor * loss for name, loss in alone.items()}, rel=1e-4)
        for ours, gradient in zip(our_gradients, gradients, strict=True):
            torch.testing.assert_close(ours, factor * gradient, rtol=1e-3, atol=1e-4)
        # The rank without boxes leaves it alone.
        assert our_mean == (head.loss_bbox.focus.mean.item() if losses else None)
