"""Keys that nobody reads, in the files of a config."""

import pytest
from mmengine.config import Config

from mmext.audit.keys import KNOWN_KEYS, lr_findings, unread_keys
from mmext.cli.common import read_config


@pytest.fixture
def unread(tmp_path):
    """The keys that are found, with remedies, in a config with these bases; the last is the config."""

    def find(*texts):
        for number, text in enumerate(texts):
            base = f"_base_ = './{number - 1}.py'\n" if number else ''
            (tmp_path / f'{number}.py').write_text(base + text)
        found = unread_keys(Config.fromfile(tmp_path / f'{len(texts) - 1}.py'))
        assert all(finding.level == 'warning' for finding in found)
        return {finding.key: f'{finding.message}. {finding.remedy}' for finding in found}

    return find


def test_the_runner_tells_what_it_reads():
    assert {'train_dataloader', 'optim_wrapper', 'load_from', 'auto_scale_lr', 'sync_bn', 'tta_model'} <= {*KNOWN_KEYS}
    assert not {'self', 'cfg'} & {*KNOWN_KEYS}


@pytest.mark.parametrize(
    'texts, keys',
    [
        # Variables that a file, or one that inherits it, reads.
        (['size = 3\nmodel = dict(size=size)'], []),
        (['size = 3', 'model = dict(size=_base_.size)'], []),
        (['size = 3', "model = dict(size='{{_base_.size}}')"], []),
        # A base may have variables for other configs.
        (['size = 3\ntwice = size * 2', 'model = dict(a=1)'], []),
        # A config that mmengine has written: what was read before.
        (["size = 3\ntrain_pipeline = [\n    dict(type='A'),\n]\nmodel = dict(a=dict(size=3))"], []),
        (['size = 3\nmodel = dict(size=size)', 'size = 4'], ['size']),
        (['model = dict(a=1)', 'size = 4'], ['size']),
        (['modle = dict(a=1)'], ['modle']),
        (['val_evaluater = dict(a=1)', 'model = dict(a=1)'], ['val_evaluater']),
        (['optim_wraper: dict = dict(a=1)'], ['optim_wraper']),
        (['_hidden = 3\nmodel = dict(a=1)'], []),
    ],
)
def test_finds_what_nobody_reads(texts, keys, unread):
    assert list(unread(*texts)) == keys


def test_says_why_and_what_to_do(unread):
    assert 'variable of a base config' in unread('size = 3\nmodel = dict(size=size)', 'size = 4')['size']
    assert unread('modle = dict(a=1)')['modle'] == 'nothing reads this key in 0.py. Did you mean model?'


def test_the_shipped_configs_have_no_unread_key():
    for name in ('yolox_nano_recommended_1xb8-15e_shapes', 'yolox_nano_1xb8-60e_bccd', 'yolox_s_ciou_8xb8-300e_coco'):
        assert unread_keys(read_config(f'mmext::yolox/{name}.py')) == []


@pytest.mark.parametrize(
    'lr, kind, batch, scaling, factor',
    [
        (0.01, 'SGD', 8, None, None),
        (0.99, 'SGD', 8, None, None),
        (1.0, 'SGD', 8, None, 100),
        (0.99, 'SGD', 8, {'base_batch_size': 64}, 792),
        # It is scaled by as much as the usual one.
        (0.99, 'SGD', 8, {'base_batch_size': 64, 'enable': True}, None),
        (0.1, 'AdamW', 8, None, 100),
        (0.004, 'torch.optim.AdamW', 32, {'base_batch_size': 256}, None),
    ],
)
def test_compares_the_learning_rate_with_the_usual_one(lr, kind, batch, scaling, factor):
    optimizer = dict(optimizer=dict(type=kind, lr=lr))
    config = Config(dict(optim_wrapper=optimizer, train_dataloader=dict(batch_size=batch), auto_scale_lr=scaling))
    found = lr_findings(config)
    assert [f'is {factor} times' in finding.message for finding in found] == ([] if factor is None else [True])


@pytest.mark.parametrize('lr', [0, -0.1, float('nan'), float('inf'), '0.1'])
def test_refuses_what_is_no_learning_rate(lr):
    (finding,) = lr_findings(Config(dict(optim_wrapper=dict(optimizer=dict(type='SGD', lr=lr)))))
    assert (finding.level, finding.key) == ('error', 'optim_wrapper.optimizer.lr')
    assert repr(lr) in finding.message
