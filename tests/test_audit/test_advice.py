"""Advice follows from the data and from the records, and claims no more than they show."""

import json
import shlex

import pytest
from mmengine.config import Config
from records import CLASSES

from mmext.audit.advice import advise, choose, command, describe, measured, settings_of
from mmext.audit.boxes import Boxes
from mmext.audit.evidence import Evidence, read_evidence
from mmext.cli.common import read_config
from mmext.cli.compare import parse_args, read_variants
from mmext.comparison.statistics import compare

ROOT = 'mmext::yolox/yolox_nano_1xb8-60e_bccd.py'
HEAD = {'type': 'mmext.YOLOXHead'}


def boxes(counts=(100, 90), median=64.0, **others):
    values = dict(
        counts=dict(zip('abc', counts)),
        images=20,
        sampled=16,
        boxes=190,
        per_image=8.0,
        sides=(10.0, median, 90.0),
        stride=8,
        priors=2100,
        aspect=1.4,
        crowded=0.25,
        unmatched=0.03,
    )
    return Boxes(**{**values, **others})


def evidence(dataset='cells', seeds=5, **gains):
    """A comparison in which each idea gains so much in AP, with a little noise."""
    noise = [0.001 * (seed % 3 - 1) for seed in range(seeds)]
    baseline = {seed: 0.5 for seed in range(seeds)}
    ideas = {
        name.replace('_', '-'): {seed: 0.5 + gain + noise[seed] for seed in range(seeds)}
        for name, gain in gains.items()
    }
    return Evidence(dataset, ('a', 'b'), compare(baseline, ideas))


def test_describes_the_data():
    data, sizes = describe(boxes((100, 25)))
    assert data == (
        'Data: 20 images, 125 objects: a 80%, b 20%; the most frequent class has 4.0 times the objects of the rarest'
    )
    assert sizes == (
        'Boxes: side 10 to 90 px, median 64 (1.2, 8.0, 11.2 strides), aspect 1.4, 8 in an image, 25% crowded, 3.0% '
        'without a prior in box and center region'
    )


@pytest.mark.parametrize(
    'data, ideas',
    [
        (boxes(), ['alpha-ciou', 'obj-varifocal']),
        (boxes(median=20.0), ['nwd', 'obj-varifocal']),
        (boxes((100, 10)), ['cls-softmax-focal', 'alpha-ciou', 'obj-varifocal']),
        # A class without objects has no weight.
        (boxes((100, 90, 0)), ['alpha-ciou', 'obj-varifocal']),
    ],
)
def test_suggests_what_suits_the_data(data, ideas):
    assert list(choose(data, [])) == ideas


def test_the_records_come_first():
    known = [evidence(obj_focal=0.05, alpha_ciou=-0.05, obj_varifocal=0.0)]
    assert choose(boxes(), known) == {
        'obj-focal': 'better on cells',
        'obj-varifocal': '2,100 priors for 8 boxes: most objectness targets are easy negatives',
    }


def test_better_here_and_worse_there_is_not_suggested():
    known = [evidence('cells', obj_focal=0.05), evidence('fish', obj_focal=-0.05)]
    assert 'obj-focal' not in choose(boxes(), known)


def test_says_what_the_records_show():
    assert measured(['a'], []) == 'none, so this order is a guess from the data'
    assert measured(['a'], [evidence(seeds=2, a=0.1)]).startswith('on cells, none of these with the 3 seeds')
    assert measured(['a'], [evidence(b=0.1)]).endswith('this order is a guess')
    said = measured(['a', 'b'], [evidence(a=0.05, b=0.0)])
    assert 'a +0.050 AP on cells, +0.049 to +0.051 over 5 seeds, better' in said
    assert 'b ' in said and 'no difference seen' in said


def test_the_command_for_a_shipped_config_names_its_siblings():
    config = read_config(ROOT)
    words = shlex.split(command(['alpha-ciou', 'obj-focal'], boxes(), config, ROOT, {}))
    names = [f'mmext::yolox/yolox_nano_{idea}_1xb8-60e_bccd.py' for idea in ('alpha-ciou', 'obj-focal')]
    assert words == ['mmext', 'compare', ROOT, *names, '--seeds', '5']


def test_the_command_for_a_config_with_an_idea_compares_it_with_its_root():
    given = 'mmext::yolox/yolox_nano_recommended_1xb8-60e_bccd.py'
    words = shlex.split(command(['obj-focal'], boxes(), read_config(given), given, {}))
    assert words[2:5] == [ROOT, given, 'mmext::yolox/yolox_nano_obj-focal_1xb8-60e_bccd.py']


@pytest.mark.parametrize('kind', ['mmext.YOLOXHead', 'mmdet.YOLOXHead'])
def test_the_command_for_another_config_can_be_run(kind, tmp_path):
    """All ideas that advice may name, as `mmext compare` reads them."""
    file = tmp_path / 'mine.py'
    config = read_config(ROOT)
    config.model.bbox_head.type = kind
    config.dump(file)
    ideas = ['cls-softmax-focal', 'nwd', 'alpha-ciou', 'obj-varifocal', 'obj-focal', 'obj-iou-varifocal', 'recommended']
    line = command(ideas, boxes((90, 30, 10)), Config.fromfile(file), str(file), {'train_cfg.max_epochs': 3})
    variants, configs = read_variants(parse_args(shlex.split(line)[2:]))
    assert list(variants) == ['mine', *ideas]
    assert {config.train_cfg.max_epochs for config in configs.values()} == {3}
    assert configs['obj-focal'].model.bbox_head.type == 'mmext.YOLOXHead'
    loss = configs['cls-softmax-focal'].model.bbox_head.loss_cls
    assert loss.type == 'mmext.SoftmaxFocalLoss' and len(loss.alpha) == 3 and loss.alpha[0] < loss.alpha[2]
    assert configs['nwd'].model.bbox_head.loss_bbox.type == 'mmext.NWDLoss'


def test_the_settings_of_an_idea_are_those_of_its_config():
    shipped = read_config('mmext::yolox/yolox_nano_obj-iou-varifocal_1xb8-60e_bccd.py').model.bbox_head
    settings = settings_of('obj-iou-varifocal', boxes(), HEAD)
    prefix = 'model.bbox_head.'
    assert settings.pop(f'{prefix}loss_obj._delete_') is True
    made = {key.removeprefix(prefix): value for key, value in settings.items()}
    assert {key: made.pop(key) for key in ('obj_target', 'cls_target')} == {'obj_target': 'iou', 'cls_target': 'hard'}
    assert {key.removeprefix('loss_obj.'): value for key, value in made.items()} == shipped.loss_obj


def test_other_heads_get_no_command():
    advice = advise(boxes(), read_config(ROOT), ROOT, {}, [], yolox=False)
    assert advice.command is None


def test_five_lines():
    advice = advise(boxes(), read_config(ROOT), ROOT, {}, [evidence(obj_focal=0.05)], yolox=True)
    assert len([*advice.lines, advice.command]) == 5


def test_reads_the_records_of_each_data_set(tmp_path):
    assert read_evidence(tmp_path) == []
    folder = tmp_path / 'cells'
    names = {'yolox_nano_1xb8-60e_cells': 0.5, 'yolox_nano_obj-focal_1xb8-60e_cells': 0.6}
    plan = dict(
        format=1,
        baseline=next(iter(names)),
        classes=CLASSES,
        annotations='',
        images='',
        amp=False,
        data='x',
        command='',
    )
    plan['runs'] = {name: dict(config=f'{name}.py', options={}, seeds=[0, 1, 2]) for name in names}
    for name, ap in names.items():
        for seed in range(3):
            result = dict(format=1, name=name, seed=seed, config=f'{name}.py', options={}, curve=dict(train=[], val=[]))
            result |= dict(metrics=dict(AP=ap + 0.001 * seed), hashes=dict(config=name, data='x', code='y'))
            (folder / name).mkdir(parents=True, exist_ok=True)
            (folder / name / f'seed_{seed}.json').write_text(json.dumps(result))
    (folder / 'comparison.json').write_text(json.dumps(plan))
    (found,) = read_evidence(tmp_path)
    assert (found.dataset, list(found.differences)) == ('cells', ['obj-focal'])
    assert found.differences['obj-focal'].mean == pytest.approx(0.1)
    assert found.differences['obj-focal'].verdict == 'better'


def test_the_package_carries_the_records():
    """Whatever is recorded is read without an error."""
    assert all(each.differences for each in read_evidence())
