"""What the console shows; tests/test_cli/test_mistakes.py trains and looks at both the console and the log file."""

import io
import logging
import warnings

import pytest
from mmengine.logging import MMLogger
from pycocotools.coco import COCO

from mmext import console


@pytest.fixture
def logger(tmp_path, monkeypatch):
    """A tidy logger with a log file."""
    monkeypatch.setattr(warnings, 'showwarning', warnings.showwarning)
    made = MMLogger.get_instance(str(tmp_path), log_file=str(tmp_path / 'run.log'))
    made.handlers[0].setStream(io.StringIO())
    console.tidy(made)
    yield made
    MMLogger._instance_dict.pop(str(tmp_path))


def shown(logger):
    return logger.handlers[0].stream.getvalue()


@pytest.mark.parametrize('text', [*console.LONG, 'Config:\nmodel = dict()', 'paramwise_options -- backbone'])
def test_long_records_go_to_the_file_alone(text, logger, tmp_path):
    logger.info(text)
    assert shown(logger) == ''
    assert text in (tmp_path / 'run.log').read_text()


@pytest.mark.parametrize(
    'text, level, line',
    [
        ('resumed epoch: 1, iter: 2', logging.INFO, 'resumed epoch: 1, iter: 2'),
        ('no EMAHook', logging.WARNING, 'WARNING: no EMAHook'),
        ('no metric', logging.ERROR, 'ERROR: no metric'),
        ('"FileClient" will be deprecated in future', logging.WARNING, ''),
    ],
)
def test_what_a_user_needs_is_shown(text, level, line, logger, tmp_path, monkeypatch):
    monkeypatch.setenv('NO_COLOR', '1')
    for _ in range(2):
        logger.log(level, text)
    lines = [each.split(' ', 1)[1] for each in shown(logger).splitlines()]
    assert lines == [line] * (2 if level in (logging.INFO, logging.ERROR) else bool(line))
    assert text in (tmp_path / 'run.log').read_text()


def test_warnings_of_python_are_lines_of_the_log(logger, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter('always')
        warnings.showwarning = console._log_warning
        warnings.warn('the driver is too old', UserWarning, stacklevel=1)
        warnings.warn('use another function', FutureWarning, stacklevel=1)
        warnings.warn('torch.meshgrid: in an upcoming release', UserWarning, stacklevel=1)
    (line,) = shown(logger).splitlines()
    assert 'the driver is too old' in line
    assert 'use another function' in (tmp_path / 'run.log').read_text()


def test_pycocotools_prints_to_the_file(logger, tmp_path):
    coco = COCO()
    coco.dataset = dict(images=[], annotations=[], categories=[])
    coco.createIndex()
    assert shown(logger) == ''
    assert 'creating index' in (tmp_path / 'run.log').read_text()


def test_what_an_import_prints_is_kept_for_the_file(logger, tmp_path):
    with console.keep_for_the_log():
        print('Could not import OneDL')
        warnings.warn('faster_coco_eval is not installed', stacklevel=1)
    console.tidy(logger)
    assert shown(logger) == ''
    text = (tmp_path / 'run.log').read_text()
    assert 'Could not import OneDL' in text and 'faster_coco_eval' in text


def test_progress_by_iterations_and_other_lines():
    line = 'Iter(train) [ 5/100]  lr: 1.0e-02  loss: 4.0000  loss_a: 1.0  d0.loss_b: 3.0  share_a: 0.25  share_b: 0.75'
    assert console.progress(line) == (
        'Iter(train) [ 5/100]  loss 4.0000  loss_a 1.0 (25%)  d0.loss_b 3.0  share_b 0.75  lr 1.00e-02'
    )
    for other in ('Epoch(val) [3][25/25]    coco/bbox_mAP: 0.1', 'loss: 3', 'Saving checkpoint at 1 epochs'):
        assert console.progress(other) == other
