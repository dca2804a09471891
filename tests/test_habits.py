"""What surrounds the code: versions that must agree, and files that other programs read."""

import configparser
import json
import re
from datetime import date

import pytest
import yaml
from conftest import ROOT
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

import mmext

STACKS = sorted(path.stem for path in (ROOT / 'requirements').glob('*.txt'))
YAML = ['CITATION.cff', '.pre-commit-config.yaml', 'model-index.yml', *ROOT.glob('.github/**/*.yml')]


def constraints(stack: str = 'onedl') -> dict[str, str]:
    lines = (ROOT / 'requirements' / f'{stack}.txt').read_text().splitlines()
    return dict(line.split('==') for line in lines if '==' in line)


def requirements(section: str, name: str) -> dict[str, SpecifierSet]:
    setup = configparser.ConfigParser()
    setup.read(ROOT / 'setup.cfg')
    lines = [line for line in setup[section][name].splitlines() if line and not line.startswith('#')]
    return {each.name: each.specifier for each in map(Requirement, lines)}


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


def test_the_workflow_tests_every_stack():
    entries = workflow()['jobs']['test']['strategy']['matrix']['include']
    assert {entry['stack'] for entry in entries} == set(STACKS)
    for entry in entries:
        stack = entry['stack']
        assert entry['constraints'] == f'requirements/{stack}.txt'
        assert entry['venv'] == ('.venv' if stack == 'onedl' else f'.venv-{stack}')


@pytest.mark.parametrize('stack', STACKS)
def test_the_bounds_of_an_extra_are_the_tested_versions(stack):
    """Each pinned version is within the bounds, and each bound is the minor version of a pinned one."""
    bounds = requirements('options.extras_require', stack.partition('-')[0])
    family = [constraints(name) for name in STACKS if name.partition('-')[0] == stack.partition('-')[0]]
    for name in {'torch', 'numpy', *(name for name in bounds if 'mm' in name)} - {'mmext'}:
        version, specifiers = constraints(stack)[name], bounds[name]
        assert version in specifiers, f'{name} {version} is not {specifiers}'
        assert {each.operator for each in specifiers} == {'>=', '<'}, name
        lowest = Version(next(each.version for each in specifiers if each.operator == '>='))
        highest = Version(next(each.version for each in specifiers if each.operator == '<'))
        pinned = [Version(each[name]) for each in family]
        # A system's torch may come with numpy 1, see docs/install.md.
        assert name == 'numpy' or lowest.release[:2] == min(pinned).release[:2], name
        major, minor, *_ = max(pinned).release
        assert highest in (Version(f'{major}.{minor + 1}'), Version(f'{major + 1}')), name


def test_torch_is_bounded_by_all_stacks_together():
    every = [requirements('options.extras_require', name)['torch'] for name in ('onedl', 'openmmlab')]
    bounds = {str(each) for specifiers in every for each in specifiers}
    assert {str(each) for each in requirements('options', 'install_requires')['torch']} <= bounds
    assert all(constraints(stack)['torch'] in requirements('options', 'install_requires')['torch'] for stack in STACKS)


def test_what_was_run_is_on_a_stack_and_dated():
    for run in json.loads((ROOT / 'requirements' / 'tested.json').read_text()):
        assert run['stack'] in STACKS
        assert date.fromisoformat(run['date']) <= date.today()
        assert run.keys() == {'stack', 'python', 'what', 'result', 'date'}


def test_modules_without_type_checks_exist():
    """A name that is left in the list would exempt a later module of that name."""
    tomllib = pytest.importorskip('tomllib', reason='tomllib is new in Python 3.11')
    overrides = tomllib.loads((ROOT / 'pyproject.toml').read_text())['tool']['mypy']['overrides']
    for name in (name for override in overrides for name in override['module']):
        path = ROOT / name.removesuffix('.*').replace('.', '/')
        assert path.is_dir() if name.endswith('.*') else path.with_suffix('.py').is_file(), name
