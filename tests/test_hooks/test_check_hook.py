"""The checks, in parts; tests/test_tools/test_train.py runs them for real."""

from types import SimpleNamespace

import pytest
from mmdet.models import DetTTAModel
from torch import nn

from mmext import audit
from mmext.hooks import CheckHook, check_hook


class Named(nn.Module):
    """A data set or a model, for checks that are replaced."""

    metainfo = {'classes': ('cat', 'dog')}
    test_step = None


@pytest.fixture
def checks(monkeypatch):
    """The names of the checks that are called, each with its first argument; all pass."""
    called = []

    def replace(name):
        monkeypatch.setattr(check_hook, name, lambda *given: called.append((name, given[0])) or [])

    for name in audit.__all__:
        if name.startswith(('check_', 'label_orders')):
            replace(name)
    return called


def runner(model, train=None, val=None, test=None, **others):
    loaders = {
        f'{split}_dataloader': SimpleNamespace(dataset=dataset)
        for split, dataset in dict(train=train, val=val, test=test).items()
    }
    return SimpleNamespace(model=model, hooks=[], val_loop=val, cfg={}, **loaders, **others)


def test_training_calls_every_check(checks):
    model, train, val = Named(), Named(), Named()
    it = runner(model, train, val)
    it.cfg = {'test_dataloader': {'dataset': 'test'}}
    CheckHook().before_train(it)
    # check_wiring calls check_operators.
    assert {name for name, _ in checks} | {'check_operators'} == {
        name for name in audit.__all__ if name.startswith(('check_', 'label_orders'))
    }
    assert [dataset for name, dataset in checks if name == 'label_orders'] == [train, val]
    assert ('label_orders_of_config', 'test') in checks


def test_training_without_validation_checks_the_training_data_alone(checks):
    train = Named()
    CheckHook().before_train(runner(Named(), train))
    assert [dataset for name, dataset in checks if name.startswith('label_orders')] == [train]


def test_testing_checks_the_detector_below_its_wrappers(checks):
    model, test = Named(), Named()
    wrapped = DetTTAModel(module=model, tta_cfg=None)
    CheckHook().before_test(runner(wrapped, test=test))
    assert {given for name, given in checks if name in ('check_operators', 'check_num_classes')} == {model}
    assert [dataset for name, dataset in checks if name == 'label_orders'] == [test]


@pytest.mark.parametrize(
    'trained, warns', [(('cat', 'dog'), False), (('dog', 'cat'), True), (('dog', 'eel'), False), (None, False)]
)
def test_testing_warns_of_a_checkpoint_with_another_order(trained, warns, checks, monkeypatch):
    warnings = []
    monkeypatch.setattr(check_hook, 'print_log', lambda message, **_: warnings.append(message))
    hook = CheckHook()
    hook.after_load_checkpoint(None, {'meta': {'dataset_meta': {'classes': trained}}} if trained else {})
    hook.before_test(runner(Named(), test=Named()))
    assert ["with the classes ('dog', 'cat')" in message for message in warnings] == [True] * warns
