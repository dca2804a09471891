"""README, docs and notes in configs: links lead somewhere, configs build, commands and their arguments exist."""

import ast
import json
import re
import runpy
import shlex
import shutil
import sys
from argparse import ArgumentParser
from functools import cache
from importlib import import_module
from inspect import isclass
from pathlib import Path
from typing import NamedTuple

import pytest
from conftest import ROOT, load_tool, run
from mmengine.config import Config
from mmengine.registry import init_default_scope

import mmext
from mmext import losses
from mmext.cli.check import check_types
from mmext.cli.main import COMMANDS
from mmext.cli.main import main as command
from mmext.losses.base import ElementwiseLoss
from mmext.registry import MODELS

DOCS = sorted((ROOT / 'docs').glob('*.md'))
PAGES = [ROOT / 'README.md', ROOT / 'CONTRIBUTING.md', *DOCS, *sorted((ROOT / 'configs').glob('*/*.md'))]
TABLES = runpy.run_path(str(ROOT / 'docs' / 'tables.py'))
MAKEFILE = (ROOT / 'Makefile').read_text()
# Details of pages that the start page leads to.
REACHED_FROM_OTHERS = ('boxes.md', 'classification.md', 'plot.md', 'regression.md')


def name(part):
    """The name of a page, for the id of a test; None, the default, for another part."""
    return part.name if isinstance(part, Path) else None


def included(page, path, options):
    """What an include directive puts into a page."""
    if path.startswith('_generated/'):
        return TABLES['PARTS'][path.removeprefix('_generated/').removesuffix('.md')]()
    text = (page.parent / path).read_text()
    for option, cut in ((':start-after:', 2), (':end-before:', 0)):
        if marker := re.search(rf'{option} "(.*)"', options):
            assert marker[1] in text, f'{page.name} includes {path} from or up to {marker[1]!r}, which it has not'
            text = text.partition(marker[1])[cut]
    return text


@cache
def content(page):
    """The text of a page with its includes."""
    return re.sub(
        r'```\{include\} (\S+)\n(.*?)```',
        lambda found: included(page, found[1], found[2]),
        page.read_text(),
        flags=re.S,
    )


def prose(text):
    """The text without its blocks of code."""
    return re.sub(r'```.*?```', '', text, flags=re.S)


def anchors(page):
    """The anchors of a page's headings, as GitHub and MyST make them."""
    headings = re.findall(r'^#+ (.*)$', prose(content(page)), re.MULTILINE)
    return {re.sub(r'[^\w\- ]', '', heading.lower()).replace(' ', '-') for heading in headings}


def links(page):
    """The relative links of a page; those of an included README are relative to the README, and tested there."""
    parts = [page.read_text()] + [
        TABLES['PARTS'][part]() for part in re.findall(r'_generated/(\w+)\.md', page.read_text())
    ]
    targets = [target for part in parts for target in re.findall(r'\]\(([^)\s]+)\)', prose(part))]
    return sorted({target for target in targets if '://' not in target})


def test_readme_is_short():
    assert len((ROOT / 'README.md').read_text().splitlines()) <= 150


@pytest.mark.parametrize(('page', 'link'), [(page, link) for page in PAGES for link in links(page)], ids=name)
def test_a_link_leads_somewhere(page, link):
    path, _, anchor = link.partition('#')
    target = (page.parent / path).resolve() if path else page
    assert target.is_file() and target.is_relative_to(ROOT)
    if anchor:
        assert anchor in anchors(target)


def test_every_page_is_in_the_navigation():
    trees = re.findall(r'```\{toctree\}\n(.*?)```', (ROOT / 'docs' / 'index.md').read_text(), re.S)
    pages = [page for tree in trees for page in re.findall(r'^\w+$', tree, re.MULTILINE)]
    assert sorted(pages) == sorted({page.stem for page in DOCS} - {'index'})


def test_the_start_page_leads_to_every_page():
    linked = {link.partition('#')[0] for link in links(ROOT / 'docs' / 'index.md')}
    assert {page.name for page in DOCS} - linked == {'index.md', *REACHED_FROM_OTHERS}


class TestTables:
    @pytest.mark.parametrize(
        ('part', 'names'),
        [
            ('box_table', list(losses.VARIANTS)),
            ('factor_table', [item for item in losses.__all__ if item.endswith('Focus')]),
            (('factor_table', 'class_table'), [item for item in losses.__all__ if item.endswith('Loss')]),
        ],
        ids=str,
    )
    def test_have_a_row_with_a_paper_for_each_loss(self, part, names):
        parts = (part,) if isinstance(part, str) else part
        rows = [row for part in parts for row in TABLES['PARTS'][part]().splitlines()]
        for name in set(names) - {'IoULoss'}:
            (row,) = [row for row in rows if re.match(rf'\| (focus )?\[`{name}`\]', row)]
            _, summary, *_, paper, configs = (cell.strip() for cell in row.split('|')[1:-1])
            assert len(summary) > 10
            assert re.fullmatch(r'\[.+\]\(https://\S+\)', paper)
            assert configs

    def test_name_every_config_with_a_loss_of_mmext(self):
        text = ''.join(TABLES['PARTS'][part]() for part in ('box_table', 'factor_table', 'class_table'))
        shipped = {
            path.name
            for path, found in TABLES['shipped']().items()
            if any(setting['type'].endswith('Loss') for setting in found)
        }
        assert set(re.findall(r'\(\.\./configs/\w+/(\S+\.py)\)', text)) == shipped
        assert len(shipped) > 30

    @pytest.mark.parametrize('page', TABLES['FILLED'], ids=name)
    def test_say_what_the_record_says(self, page):
        text = page.read_text()
        assert '<!-- table: ' in text
        assert TABLES['filled'](text) == text, 'run `python docs/tables.py`'

    def test_a_wrong_number_is_put_right(self):
        text = TABLES['FILLED'][0].read_text()
        wrong = re.sub(r'(<!-- table: evidence -->.*?\d\.)\d{3}', r'\g<1>999', text, flags=re.S)
        assert wrong != text
        assert TABLES['filled'](wrong) == text

    def test_the_record_belongs_together(self):
        for title, results in TABLES['recorded']().items():
            assert results.all_runs
            assert not results.problems, f'{title}: {results.problems[0]}'


class Code(NamedTuple):
    """A block of code on a page."""

    page: Path
    language: str
    text: str

    def __str__(self):
        return f'{self.page.name}: {self.text.strip().splitlines()[0][:50]}'


BLOCKS = [
    Code(page, language, text)
    for page in PAGES
    for language, text in re.findall(r'^```([^\n]*)\n(.*?)^```', page.read_text(), re.S | re.MULTILINE)
]
# Directives of the pages, and output of programs: a symptom is produced by test_troubleshooting.py.
NOT_CODE = re.compile(r'\{\w[\w-]*\}.*|text|')
# Those of other projects need their packages: tests/test_projects has them.
PYTHON = [block for block in BLOCKS if block.language == 'python' and block.page.stem != 'projects']
CONFIGS = [block for block in PYTHON if re.search(r'^_base_|^model = dict|^dict\(type=', block.text, re.MULTILINE)]
SCRIPTS = [block for block in PYTHON if block not in CONFIGS]
# Python that needs what only its page describes; the test that runs it, or follows the page.
RUN_ELSEWHERE = {
    'import torch.nn.functional as F\nfrom mmdet.registry': 'TestAddALoss',
    'import torch\nimport torch.nn.functional as F\nfrom my_losses': 'TestAddALoss',
    'from mmengine.registry import MODELS as ROOT': 'test_inheritance.py',
    'from cells.registry import MODELS': 'test_inheritance.py',
    'import mmext\nfrom mmengine.hub': 'test_inheritance.py',
    'from mmengine.config import read_base': 'test_inheritance.py',
    'from mmdet.apis import DetInferencer': 'needs a published model: test_deployment/test_publishing.py',
    'import json\n\nimport cv2': 'needs a published model: test_deployment/test_onnx_export.py computes the same',
}


def test_no_block_is_of_an_unknown_language():
    unknown = [block for block in BLOCKS if not NOT_CODE.fullmatch(block.language)]
    assert {block.language for block in unknown} == {'python', 'bash'}


# Configs with a type that the page itself defines.
EXTENDS = re.compile(r'custom_imports|cells\.')


def built(node):
    """The losses of mmext in a part of a config, built by the registry."""
    kind = node.get('type') if isinstance(node, dict) else None
    kind = getattr(losses, kind.removeprefix('mmext.'), None) if isinstance(kind, str) else None
    if isclass(kind) and issubclass(kind, ElementwiseLoss):
        return [MODELS.build(node)]
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    return [loss for child in children for loss in built(child)]


@pytest.mark.parametrize('block', [block for block in CONFIGS if not EXTENDS.search(block.text)], ids=str)
def test_a_config_builds_its_losses(block, tmp_path):
    init_default_scope('mmdet')
    block, file = block.text, tmp_path / 'config.py'
    shutil.copy(mmext.config('yolox/yolox_s_finetune_1xb8-30e_custom.py'), tmp_path / 'mine.py')
    file.write_text(f'loss = {block}' if block.startswith('dict(') else block)
    config = Config.fromfile(file).to_dict()
    check_types(config)
    written = re.findall(r"type='mmext\.(\w+Loss)'", block)
    assert {type(loss).__name__ for loss in built(config)} >= set(written)
    if 'custom_hooks' in block:
        assert len(config['custom_hooks']) > 1


def test_there_are_configs():
    assert len(CONFIGS) >= 12
    extending = [block for block in CONFIGS if EXTENDS.search(block.text)]
    assert {block.page.name for block in extending} == {'add_a_loss.md'}


def test_all_python_parses():
    assert all(ast.parse(block.text) for block in PYTHON)


@pytest.mark.parametrize('block', [b for b in SCRIPTS if not b.text.startswith(tuple(RUN_ELSEWHERE))], ids=str)
def test_a_script_runs(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_what_pages_assume(tmp_path)
    exec(compile(block.text, str(block), 'exec'), {})  # noqa: S102


@pytest.mark.parametrize('start', RUN_ELSEWHERE)
def test_an_excused_script_is_there(start):
    assert any(block.text.startswith(start) for block in SCRIPTS)


def make_what_pages_assume(folder):
    """The files that the script of docs/predict.md reads."""
    annotations = dict(images=[dict(id=1)], annotations=[], categories=[dict(id=0, name='RBC')], info={})
    predictions = [dict(image_id=1, category_id=0, bbox=[1, 2, 3, 4], score=0.5)]
    for name, content in {
        'data/bccd/annotations/val.json': annotations,
        'predictions/yolox_nano_1xb8-60e_bccd/predictions.json': predictions,
    }.items():
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text(json.dumps(content))


class TestAddALoss:
    """docs/add_a_loss.md, followed: its files, its test, and an audit of its config."""

    @pytest.fixture(scope='class')
    def folder(self, tmp_path_factory):
        folder = tmp_path_factory.mktemp('add_a_loss')
        page = (ROOT / 'docs' / 'add_a_loss.md').read_text()
        for file, text in re.findall(r'^`(\w+\.py)`:\n\n```python\n(.*?)```', page, re.S | re.MULTILINE):
            (folder / file).write_text(text)
        assert {'my_losses.py', 'test_my_losses.py', 'mine.py'} <= {path.name for path in folder.iterdir()}
        return folder

    def test_its_tests_pass(self, folder):
        output = run(sys.executable, '-m', 'pytest', '-q', folder / 'test_my_losses.py', PYTHONPATH=f'{folder}:{ROOT}')
        assert '3 passed' in output.stdout

    def test_the_config_uses_both(self, folder, shapes):
        options = [f'{name}_dataloader.dataset.data_root={shapes}' for name in ('train', 'val', 'test')]
        options += [f'{name}_evaluator.ann_file={shapes}/annotations/val.json' for name in ('val', 'test')]
        command = [sys.executable, '-m', 'mmext', 'audit', folder / 'mine.py', '--cfg-options']
        output = run(*command, *options, PYTHONPATH=f'{folder}:{ROOT}', COLUMNS='200').stdout
        rows = {row.split()[0]: row.split()[1] for row in output.splitlines() if row.startswith('loss_')}
        assert rows['loss_cls'] == 'my_losses.SmoothedBCELoss'
        assert rows['loss_bbox'] == 'mmext.IoULoss'


# Programs that are not of this project, and why no test runs or parses them.
OTHER_PROGRAMS = {
    'apt': 'changes the system',
    'pip': 'needs a network',
    'git': 'needs a network',
    'cp': 'copies data that the page has described',
    'source': 'a shell builtin',
    'for': 'a loop; the command in it is parsed',
    'done': 'the end of a loop',
    'python -m pytest test_my_losses.py': 'TestAddALoss runs it',
    'python -c': 'a line of Python',
}
SETTING = re.compile(r'[A-Z_]+=\S*')


def shell_lines():
    """Each command in a block of shell code, without the settings before it, and its page."""
    for block in BLOCKS:
        if block.language == 'bash':
            for line in block.text.replace('\\\n', ' ').splitlines():
                words = shlex.split(line, comments=True)
                while words and SETTING.fullmatch(words[0]):
                    words = words[1:]
                if words:
                    yield block.page, words


def is_command(words):
    """Whether the words are a command of this project."""
    return words[0] in ('mmext', 'make', 'torchrun') or bool(re.match(r'(python )?tools/\w+\.(py|sh)', ' '.join(words)))


def commands_in_sentences():
    for page in PAGES:
        for span in re.findall(r'(?<!`)`([^`\n]+)`(?!`)', prose(page.read_text())):
            # Settings before a command; a file's name alone is no command.
            span = re.sub(r'^([A-Z_]+=\S* )+', '', span)
            if re.match(r'(mmext|make) [a-z]|(python )?tools/\w+\.(py|sh) |python tools/', span):
                for part in span.split(' && '):
                    yield page, shlex.split(part, comments=True)


COMMANDS_WRITTEN = [pair for pair in shell_lines() if is_command(pair[1])] + list(commands_in_sentences())


def test_there_are_commands():
    assert len(COMMANDS_WRITTEN) >= 60


def test_no_shell_command_escapes():
    others = [' '.join(words) for _, words in shell_lines() if not is_command(words)]
    assert [line for line in others if not line.startswith(tuple(OTHER_PROGRAMS))] == []


@pytest.mark.parametrize('start', OTHER_PROGRAMS)
def test_an_excused_program_is_used(start):
    everything = ''.join(page.read_text() for page in PAGES)
    assert re.search(rf'^\s*(PYTHONPATH=\. )?{re.escape(start)}|`{re.escape(start)}', everything, re.MULTILINE)


class Parsed(Exception):  # noqa: N818
    """Raised instead of running a command."""


@pytest.mark.parametrize(('page', 'words'), COMMANDS_WRITTEN, ids=lambda part: name(part) or ' '.join(part))
def test_a_command_parses(page, words, monkeypatch):
    """A command without arguments within a sentence need only exist."""
    program, *arguments = words[1:] if words[0] == 'python' else words
    if program == 'torchrun':
        # What follows its own arguments is a command of mmext.
        assert arguments[1:3] == ['-m', 'mmext']
        program, arguments = 'mmext', arguments[3:]
    if program == 'make':
        target, *settings = arguments
        assert re.search(rf'^{target}:', MAKEFILE, re.MULTILINE)
        assert all(re.search(rf'\b{setting.partition("=")[0]}\b', MAKEFILE) for setting in settings)
        return
    if program == 'mmext':
        command, *arguments = (argument for argument in arguments if argument != '--traceback')
        assert command in COMMANDS
        module = import_module(f'mmext.cli.{command.replace("-", "_")}')
    else:
        assert (ROOT / program).is_file()
        if program.endswith('.sh'):
            check_launcher(program, arguments)
            return
        monkeypatch.syspath_prepend(ROOT / 'tools')
        module = load_tool(Path(program).stem)
    if arguments:
        monkeypatch.setattr(ArgumentParser, 'parse_args', parse_and_stop)
        with pytest.raises(Parsed):
            module.main(arguments)


def parse_and_stop(parser, args=None, namespace=None, parse=ArgumentParser.parse_args):
    parse(parser, args, namespace)
    raise Parsed


def check_launcher(program, arguments):
    """A launcher has as many arguments as its usage names; what follows goes to the parser of train or test."""
    usage = re.search(rf'{program} (.*?) *(?:\[|$)', (ROOT / program).read_text(), re.MULTILINE)[1].split()
    if arguments:
        assert len(arguments) >= len(usage)
        module = import_module('mmext.cli.test' if 'test' in program else 'mmext.cli.train')
        config = ['CONFIG', 'CHECKPOINT'] if 'test' in program else ['CONFIG']
        module.parse_args([*config, *arguments[len(usage) :]])


class TestCheapCommandsRun:
    """Commands of the pages that need no training, run as they are written."""

    @pytest.mark.parametrize('words', [['mmext', 'list'], ['mmext', 'shapes']], ids=' '.join)
    def test_runs(self, words, tmp_path, monkeypatch, capsys):
        assert words in [written for _, written in COMMANDS_WRITTEN]
        monkeypatch.chdir(tmp_path)
        assert command(words[1:]) == 0
        assert capsys.readouterr().out
