"""The examples in docstrings run, and each public loss has one."""

import doctest
from importlib import import_module
from pkgutil import walk_packages

import pytest
import torch

import mmext
from mmext import losses

MODULES = [module.name for module in walk_packages(mmext.__path__, 'mmext.') if '__main__' not in module.name]


@pytest.mark.parametrize('name', MODULES)
def test_examples_run(name):
    failed, _ = doctest.testmod(import_module(name), extraglobs={'torch': torch})
    assert not failed


@pytest.mark.parametrize('name', [name for name in losses.__all__ if callable(getattr(losses, name))])
def test_a_public_loss_has_an_example(name):
    assert doctest.DocTestFinder(recurse=False).find(getattr(losses, name), name)[0].examples
