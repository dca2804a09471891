"""README, docs and notes in configs: links lead somewhere, configs build, commands and their arguments exist."""

import ast
import re
import runpy
import shlex
from argparse import ArgumentParser
from functools import cache
from importlib import import_module
from inspect import isclass
from pathlib import Path

import pytest
from conftest import ROOT, load_tool
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mmext import losses
from mmext.cli.check import check_types
from mmext.cli.main import COMMANDS
from mmext.losses.base import ElementwiseLoss
from mmext.registry import MODELS

DOCS = sorted((ROOT / 'docs').glob('*.md'))
PAGES = [ROOT / 'README.md', *DOCS, *sorted((ROOT / 'configs').glob('*/*.md'))]
TABLES = runpy.run_path(str(ROOT / 'docs' / 'tables.py'))
MAKEFILE = (ROOT / 'Makefile').read_text()


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


def blocks(page, language):
    return re.findall(rf'```{language}\n(.*?)```', page.read_text(), re.S)


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
    (tree,) = re.findall(r'```\{toctree\}\n(.*?)```', (ROOT / 'docs' / 'index.md').read_text(), re.S)
    assert set(re.findall(r'^\w+$', tree, re.MULTILINE)) == {page.stem for page in DOCS} - {'index'}


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


CONFIGS = [
    (page, block)
    for page in PAGES
    for block in blocks(page, 'python')
    if re.search(r'_base_|model = dict|^dict\(type=', block)
]


def built(node):
    """The losses of mmext in a part of a config, built by the registry."""
    kind = node.get('type') if isinstance(node, dict) else None
    kind = getattr(losses, kind.removeprefix('mmext.'), None) if isinstance(kind, str) else None
    if isclass(kind) and issubclass(kind, ElementwiseLoss):
        return [MODELS.build(node)]
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    return [loss for child in children for loss in built(child)]


@pytest.mark.parametrize(('page', 'block'), CONFIGS, ids=name)
def test_a_config_builds_its_losses(page, block, tmp_path, named_configs):
    init_default_scope('mmdet')
    file = tmp_path / 'config.py'
    file.write_text(f'loss = {block}' if block.startswith('dict(') else block)
    config = Config.fromfile(file).to_dict()
    check_types(config)
    written = re.findall(r"type='mmext\.(\w+Loss)'", block)
    assert {type(loss).__name__ for loss in built(config)} >= set(written)
    if 'custom_hooks' in block:
        assert len(config['custom_hooks']) > 1


def test_there_are_configs():
    assert len(CONFIGS) >= 6
    assert all(ast.parse(block) for page in PAGES for block in blocks(page, 'python'))


def commands(page):
    """The commands in blocks of shell code, and in code within a sentence."""
    lines = [line for block in blocks(page, 'bash') for line in block.replace('\\\n', ' ').splitlines()]
    spans = re.findall(r'(?<!`)`([^`\n]+)`(?!`)', prose(page.read_text()))
    found = [shlex.split(text, comments=True) for text in [*lines, *spans] if is_command(text)]
    return [words for words in found if words]


def is_command(text):
    """Whether the text is a command of this project, and not a file's name."""
    return re.match(r'(mmext|make) [a-z]|(python )?tools/\w+\.(py|sh) |python tools/', text) is not None


COMMANDS_WRITTEN = [(page, words) for page in PAGES for words in commands(page)]


def test_there_are_commands():
    assert len(COMMANDS_WRITTEN) >= 20


class Parsed(Exception):  # noqa: N818
    """Raised instead of running a command."""


@pytest.mark.parametrize(('page', 'words'), COMMANDS_WRITTEN, ids=lambda part: name(part) or ' '.join(part))
def test_a_command_parses(page, words, monkeypatch):
    """A command without arguments within a sentence need only exist."""
    program, *arguments = words[1:] if words[0] == 'python' else words
    if program == 'make':
        target, *settings = arguments
        assert re.search(rf'^{target}:', MAKEFILE, re.MULTILINE)
        assert all(re.search(rf'\b{setting.partition("=")[0]}\b', MAKEFILE) for setting in settings)
        return
    if program == 'mmext':
        command, *arguments = arguments
        assert command in COMMANDS
        module = import_module(f'mmext.cli.{command.replace("-", "_")}')
    else:
        assert (ROOT / program).is_file()
        if program.endswith('.sh'):
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
