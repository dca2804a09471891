"""Each fault of the data is found, and training with an error does not start."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT
from mmengine.config import Config
from planted import CLASSES, FAULTS, IMAGE_FAULTS, Data, change, set_config

from mmext.audit import data_findings
from mmext.audit.findings import Finding, errors
from mmext.cli import common
from mmext.cli import train as cli_train
from mmext.cli.common import read_config
from mmext.errors import UserError


@pytest.fixture
def data(tmp_path):
    return Data(tmp_path)


def hits(findings, fault):
    return [
        each
        for each in findings
        if each.level == fault.level
        and each.key.endswith(fault.key)
        and all(word in f'{each.message}. {each.remedy}' for word in fault.words)
    ]


def test_right_data_have_no_findings(data):
    assert data_findings(data.write()) == []


@pytest.mark.parametrize('fault', [*FAULTS, *IMAGE_FAULTS], ids=lambda fault: fault.name)
def test_finds(fault, data):
    fault.plant(data)
    config = data.write()
    findings = data_findings(config, images=fault in IMAGE_FAULTS)
    assert len(hits(findings, fault)) == 1, '\n'.join(map(str, findings))
    # A warning or a note does not stop a training for another reason.
    assert bool(errors(findings)) is (fault.level == 'error'), '\n'.join(map(str, findings))
    # Images are opened on demand alone.
    assert fault not in IMAGE_FAULTS or not errors(data_findings(config, images=False))


@pytest.mark.parametrize('fault', [each for each in FAULTS if each.level == 'error'], ids=lambda fault: fault.name)
def test_training_does_not_start(fault, data, monkeypatch):
    fault.plant(data)
    monkeypatch.setattr(common, 'read_config', lambda name: data.write())
    monkeypatch.setattr(cli_train, 'build_runner', lambda config: pytest.fail('the training starts'))
    with pytest.raises(UserError) as error:
        cli_train.main(['mine.py', '--work-dir', str(data.folder)])
    assert all(word in str(error.value) for word in fault.words)
