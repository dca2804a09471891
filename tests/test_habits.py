"""What surrounds the code: versions that must agree, and files that other programs read."""

import configparser
import re

import pytest
import yaml
from conftest import ROOT

import mmext

YAML = ['CITATION.cff', '.pre-commit-config.yaml', 'model-index.yml', *ROOT.glob('.github/**/*.yml')]


def constraints() -> dict[str, str]:
    lines = (ROOT / 'requirements' / 'onedl.txt').read_text().splitlines()
    return dict(line.split('==') for line in lines if '==' in line)


def workflow() -> dict:
    return yaml.safe_load((ROOT / '.github' / 'workflows' / 'ci.yml').read_text())


@pytest.mark.parametrize('path', YAML, ids=str)
def test_yaml_parses(path):
    assert yaml.safe_load((ROOT / path).read_text())


def test_the_citation_has_the_version():
    citation = yaml.safe_load((ROOT / 'CITATION.cff').read_text())
    assert citation['version'] == mmext.__version__
    assert citation['license'] == 'Apache-2.0'


def test_pre_commit_uses_the_pinned_ruff():
    hooks = yaml.safe_load((ROOT / '.pre-commit-config.yaml').read_text())['repos'][0]['hooks']
    versions = {hook['id']: hook['additional_dependencies'] for hook in hooks if hook['id'].startswith('ruff')}
    assert set(versions) == {'ruff-check', 'ruff-format'}
    assert all(packages == [f'ruff=={constraints()["ruff"]}'] for packages in versions.values())


def test_the_workflow_runs_targets_that_exist():
    makefile = (ROOT / 'Makefile').read_text()
    commands = [step['run'] for job in workflow()['jobs'].values() for step in job['steps'] if 'run' in step]
    targets = {target for command in commands for target in re.findall(r'\bmake ([a-z-]+)', command)}
    assert targets >= {'lint', 'test', 'docs'}
    assert all(re.search(rf'^{target}:', makefile, re.MULTILINE) for target in targets)


def test_the_workflow_tests_what_the_classifiers_say():
    setup = configparser.ConfigParser()
    setup.read(ROOT / 'setup.cfg')
    classifiers = re.findall(r'Python :: (3\.\d+)$', setup['metadata']['classifiers'], re.MULTILINE)
    entries = workflow()['jobs']['test']['strategy']['matrix']['include']
    assert {entry['python'] for entry in entries} == set(classifiers)
    assert all((ROOT / entry['constraints']).is_file() for entry in entries)


def test_modules_without_type_checks_exist():
    """A name that is left in the list would exempt a later module of that name."""
    tomllib = pytest.importorskip('tomllib', reason='tomllib is new in Python 3.11')
    overrides = tomllib.loads((ROOT / 'pyproject.toml').read_text())['tool']['mypy']['overrides']
    for name in (name for override in overrides for name in override['module']):
        path = ROOT / name.removesuffix('.*').replace('.', '/')
        assert path.is_dir() if name.endswith('.*') else path.with_suffix('.py').is_file(), name
