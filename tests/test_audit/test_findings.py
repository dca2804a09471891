"""Findings are refused or logged, all of them."""

import pytest

from mmext.audit.findings import Finding, enforce
from mmext.errors import UserError


def test_refuses_all_errors_at_once_and_logs_the_warnings(log):
    found = [Finding(level, f'key{i}', 'wrong', 'Mend it') for i, level in enumerate(('error', 'warning', 'error'))]
    with pytest.raises(UserError) as error:
        enforce(found)
    assert str(error.value) == '2 errors:\n1. key0: wrong. Mend it\n2. key2: wrong. Mend it'
    assert [record.message for record in log.records] == ['key1: wrong. Mend it']


def test_a_warning_and_a_note_refuse_nothing(log):
    enforce(Finding(level, 'key', 'odd', 'Look') for level in ('note', 'warning'))
    assert len(log.records) == 1


@pytest.mark.parametrize(
    'text, message, remedy',
    [
        ('X: gamma is -1: set gamma=2', 'X: gamma is -1', 'Set gamma=2'),
        ("no 'a'; did you mean b?", "no 'a'", 'Did you mean b?'),
        ("takes no 'a'. Add b: it replaces a", "takes no 'a'", 'Add b: it replaces a'),
        ('it is odd', 'it is odd', 'Change what it names'),
    ],
)
def test_an_error_message_is_split_at_its_remedy(text, message, remedy):
    finding = Finding.of_error('key', ValueError(text))
    assert (finding.level, finding.key, finding.message, finding.remedy) == ('error', 'key', message, remedy)


def test_other_errors_say_where_they_were_raised():
    with pytest.raises(KeyError) as error:
        {}['x']
    finding = Finding.of_error('key', error.value)
    assert finding.message == "KeyError: 'x'"
    assert finding.remedy.startswith('It was raised in test_findings.py, line ')
