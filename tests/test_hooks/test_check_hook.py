"""The checks, in parts; tests/test_tools/test_train.py runs them for real."""

from types import SimpleNamespace

import pytest
import torch
from mmdet.models import DetTTAModel
from mmengine.hooks import EMAHook
from mmengine.runner import get_priority
from torch import nn

from mmext import audit
from mmext.errors import UserError
from mmext.hooks import CheckHook, check_hook
from mmext.hooks.check_hook import check_checkpoint


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
    monkeypatch.setattr(check_hook, 'check_checkpoint', lambda *_: None)
    loading = SimpleNamespace(model=Named(), _train_loop=None, _resume=False, _load_from='epoch_1.pth')
    hook.after_load_checkpoint(loading, {'meta': {'dataset_meta': {'classes': trained}}} if trained else {})
    hook.before_test(runner(Named(), test=Named()))
    assert ["with the classes ('dog', 'cat')" in message for message in warnings] == [True] * warns


class TestWeights:
    """mmengine skips what does not fit, leaves the initial weights in its place, and reports their AP."""

    @pytest.fixture
    def model(self):
        return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))

    # What is changed in the weights, and words of the message.
    FAULTS = [
        ({'0.weight': torch.zeros(2, 4)}, '0.weight has the shape (2, 4), and the model needs (3, 4)', '1 of another'),
        ({'0.weight': None, '0.bias': None}, '2 tensors are missing', '0.weight is missing'),
        ({'2.weight': torch.zeros(3)}, '1 unexpected', '2.weight is unexpected'),
    ]

    @pytest.mark.parametrize('change, words', [(row[0], row[1:]) for row in FAULTS])
    def test_must_be_those_of_the_model(self, change, words, model):
        weights = {key: value for key, value in {**model.state_dict(), **change}.items() if value is not None}
        with pytest.raises(UserError, match=r'^epoch_1\.pth does not fit the config') as error:
            check_checkpoint(model, {'state_dict': weights}, 'epoch_1.pth', False)
        assert all(word in str(error.value) for word in words)
        # A training may go on with other classes.
        check_checkpoint(model, {'state_dict': weights}, 'epoch_1.pth', True)

    @pytest.mark.parametrize('starts_training', [False, True])
    @pytest.mark.parametrize('checkpoint', [{'ema_state_dict': {'a': 1}}, {'state_dict': {}, 'meta': {}}, {}])
    def test_must_be_there(self, checkpoint, starts_training, model):
        keys = ', '.join(checkpoint) or 'nothing'
        with pytest.raises(UserError, match=rf"^epoch_1\.pth has no weights in 'state_dict', only {keys}: "):
            check_checkpoint(model, checkpoint, 'epoch_1.pth', starts_training)

    @pytest.mark.parametrize('starts_training', [False, True])
    def test_of_another_model(self, starts_training, model):
        other = {'state_dict': {f'backbone.{key}': value for key, value in model.state_dict().items()}}
        with pytest.raises(UserError):
            check_checkpoint(model, other, 'epoch_1.pth', starts_training)

    def test_may_have_a_wrapper_and_the_state_of_losses(self, model):
        weights = {f'module.{key}': value for key, value in model.state_dict().items()}
        check_checkpoint(model, {'state_dict': {**weights, 'loss_bbox.focus.mean': torch.ones(())}}, 'a.pth', False)

    @pytest.mark.parametrize(
        'loop, resume, starts', [(None, False, False), ('train', False, True), ('train', True, False)]
    )
    def test_a_test_and_a_resumed_training_need_all(self, loop, resume, starts, monkeypatch):
        given = []
        monkeypatch.setattr(check_hook, 'check_checkpoint', lambda *arguments: given.append(arguments[2:]))
        monkeypatch.setattr(check_hook, 'BaseLoop', str)
        CheckHook().after_load_checkpoint(
            SimpleNamespace(model=Named(), _train_loop=loop, _resume=resume, _load_from='a.pth'), {}
        )
        assert given == [('a.pth', starts)]

    def test_are_checked_before_the_average_takes_them(self):
        """EMAHook ends in a KeyError on a checkpoint without weights."""
        hook = EMAHook()
        hook.priority = 49
        assert get_priority(CheckHook.priority) < hook.priority
