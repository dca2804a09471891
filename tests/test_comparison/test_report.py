"""The report of small made-up comparisons."""

import csv
import io
import json
import re
import shlex

import pytest
import records
from html_page import Page
from rich.console import Console

from mmext.comparison import analysis as analysis_module
from mmext.comparison.analysis import option, short_names
from mmext.comparison.report import write_report
from mmext.comparison.statistics import compare

NAMES = ('stock', 'good', 'same')
SKILLS = dict(zip(NAMES, (0.6, 0.75, 0.6)))


def terminal(report):
    console = Console(width=200, file=io.StringIO())
    console.print(report)
    return console.file.getvalue()


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp('data')
    return records.ground_truth(folder, images=20, pictures=True), folder / 'images'


@pytest.fixture(scope='module')
def folder(data, tmp_path_factory):
    return records.comparison(tmp_path_factory.mktemp('runs'), *data, SKILLS)


@pytest.fixture(scope='module')
def report(folder):
    return write_report(folder, resamples=100)


@pytest.fixture(scope='module')
def page(report):
    return Page(report.html)


def remade(folder, tmp_path, change):
    """The report of a copy of the folder whose result files went through `change`, which may drop them (None)."""
    for path in folder.glob('**/*.json'):
        content = json.loads(path.read_text())
        if path.name == 'result.json':
            content = change(content)
        if content is not None and path.name != 'report.json':
            records.write(tmp_path / path.relative_to(folder), content)
    return write_report(tmp_path, resamples=20)


def without_detections(content):
    return {key: value for key, value in content.items() if key != 'detections'}


def test_verdict_comes_first(page, report):
    assert report.analysis.headline == 'good is better than the baseline'
    # The title and the heading.
    assert page.text.count('good is better than the baseline') == 2
    assert page.text.index('good is better than the baseline') < page.text.index('AP: 1 better')
    assert page.text.index('95 % interval') < page.text.index('AP: 1 better')


def test_the_page_needs_nothing_else(report, page):
    """No script, and no address but those of the parts of the page itself."""
    assert not page.all('script')
    assert not page.all('link')
    text = report.html.read_text()
    assert re.findall(r'(?:href|src)="(?!data:image/jpeg;base64,|#photo-)', text) == []
    assert not re.search(r'https?://|url\(|@import', text)
    assert report.html.stat().st_size < 1e6


def test_each_picture_is_stored_once(page):
    stored = {attributes['id']: attributes['href'] for attributes in page.all('image')}
    used = [attributes['href'] for attributes in page.all('use')]
    assert len(set(stored.values())) == len(page.all('image')) > 0
    assert {f'#{name}' for name in stored} == set(used)
    # Both variants share a picture; each has three views of it.
    assert len(used) > 3 * len(stored)


def test_pictures_show_all_boxes(report, page):
    matches = report.analysis.matches
    images = matches['stock'][0].truth.images
    views = [
        (
            re.fullmatch(r'(\w+), seed (\d): (\d+) boxes', attributes.get('aria-label', '')),
            page.elements[position + 1][1],
        )
        for position, (tag, attributes) in enumerate(page.elements)
        if tag == 'svg'
    ]
    views = [(*match.groups(), use['href']) for match, use in views if match]
    for name, seed, boxes, photo in views:
        image = images[int(photo.removeprefix('#photo-'))]
        assert len(matches[name][int(seed)].outcomes[image]) == int(boxes)
    assert {name for name, *_ in views} == set(NAMES)
    drawn = [attributes for attributes in page.all('rect') if attributes['class'] == 'halo']
    truth = [
        int(label.split()[2])
        for attributes in page.all('svg')
        if (label := attributes.get('aria-label', '')).startswith('ground truth')
    ]
    assert len(drawn) == sum(int(boxes) for _, _, boxes, _ in views) + sum(truth)


def test_pictures_show_a_typical_seed(report, page):
    """Of the seeds that differ in the direction of the mean, the one nearest to it."""
    matches = report.analysis.matches
    labels = [
        (attributes['aria-label'], page.elements[position + 1][1]['href'])
        for position, (tag, attributes) in enumerate(page.elements)
        if tag == 'svg' and ', seed ' in attributes.get('aria-label', '')
    ]
    for label, photo in labels:
        if label.startswith('stock'):
            continue
        name, seed = re.match(r'(\w+), seed (\d)', label).groups()
        position = int(photo.removeprefix('#photo-'))
        gains = {seed: matches[name][seed].f1()[position] - matches['stock'][seed].f1()[position] for seed in range(5)}
        mean = sum(gains.values()) / 5
        alike = {seed: abs(gain - mean) for seed, gain in gains.items() if gain * mean > 0}
        assert alike[int(seed)] == min(alike.values())


def test_confusion_matrix(report, page):
    counts = sum(matched.confusion() for matched in report.analysis.matches['good'].values()) / 5
    row = ' '.join(f'{100 * count / counts[0].sum():.0f} % {count:.1f}' if count else '0' for count in counts[0])
    text = page.text[page.text.index('good, mean of 5 seeds') :]
    assert f'missed {records.CLASSES[0]} {row} {records.CLASSES[1]}' in text
    false = ' '.join(f'{count:.1f}' for count in counts[-1, :-1])
    assert f'no object {false}' in text


def test_every_section_is_there(page):
    for text in (
        'AP while training',
        'Precision over recall',
        'AP50',
        'AP75',
        'Small objects',
        'true \\ found',
        'gains most',
        'loses most',
        'ground truth',
        'The commands that reproduce each row',
        'How to read this',
        'mmext compare ...',
    ):
        assert text in page.text, text
    assert 'class="absent"' not in ''.join(map(str, page.elements))
    assert [attributes for attributes in page.all('p') if attributes.get('class') == 'absent'] == []


def test_numbers_of_the_page_are_those_of_the_statistics(report, page):
    analysis = report.analysis
    scores = {name: analysis.results.scores(name, 'AP') for name in NAMES}
    expected = compare(scores['stock'], {name: scores[name] for name in NAMES[1:]})['good']
    difference = analysis.differences['AP']['good']
    assert difference.values == expected.values
    assert (difference.mean, difference.interval, difference.p_holm) == (
        expected.mean,
        expected.interval,
        expected.p_holm,
    )
    low, high = (
        f'{value:+.3f}'.replace('-', '\N{MINUS SIGN}') for value in (expected.interval.low, expected.interval.high)
    )
    assert f'AP {expected.mean:+.3f}, 95 % interval {low} to {high} over 5 paired seeds' in page.text
    assert 'after correction for 2 variants.' in page.text
    assert f'({low} to {high})' in page.text


def test_intervals_over_images_surround_the_difference(report):
    for metric in report.analysis.metrics:
        difference = report.analysis.differences[metric]['good']
        assert difference.images.low < difference.mean < difference.images.high, metric


def test_terminal(report):
    text = terminal(report)
    for words in (
        'good is better than the baseline',
        'mean ± SD',
        '95 % over images',
        'no difference seen',
        str(report.html),
    ):
        assert words in text, words
    assert 'seeds find a difference of' in ' '.join(text.split())


def test_csv(report):
    rows = list(csv.DictReader(report.csv.open()))
    assert len(rows) == len(NAMES) * len(report.analysis.metrics)
    row = next(row for row in rows if row['run'] == 'good' and row['metric'] == 'AP')
    difference = report.analysis.differences['AP']['good']
    assert float(row['difference']) == difference.mean
    assert float(row['low']) == difference.interval.low
    assert float(row['images_high']) == difference.images.high
    assert (row['seeds'], row['missing_seeds'], row['pairs'], row['verdict']) == ('0 1 2 3 4', '', '5', 'better')


def test_json(report):
    content = json.loads(report.json.read_text())
    entry = content['metrics']['AP']['good']
    assert entry['difference']['interval']['low'] == report.analysis.differences['AP']['good'].interval.low
    assert entry['values'] == {str(seed): value for seed, value in report.analysis.results.scores('good', 'AP').items()}
    assert content['metrics']['AP']['stock'].keys() == {'values', 'mean', 'sd'}


def test_markdown(report):
    lines = report.markdown.splitlines()
    assert len(lines) == 2 + len(NAMES)
    assert len({line.count('|') for line in lines}) == 1
    assert lines[3].startswith('| good | 5 | ') and lines[3].endswith('| better |')


def test_from_a_record_without_detections(folder, tmp_path):
    """All that needs no detections is there and the same; the rest says why it is not."""
    report = remade(folder, tmp_path, without_detections)
    page = Page(report.html)
    assert report.analysis.differences['AP']['good'].verdict == 'better'
    assert report.analysis.differences['AP']['good'].images is None
    absent = [attributes for attributes in page.all('p') if attributes.get('class') == 'absent']
    assert len(absent) == 4
    assert page.text.count('The files have no detections') == 4
    assert 'AP while training' in page.text and not page.all('image')
    assert 'The files have no detections' in terminal(report)


def test_without_annotations(folder, data, tmp_path):
    plan = json.loads((folder / 'comparison.json').read_text())
    records.write(tmp_path / 'comparison.json', {**plan, 'annotations': 'elsewhere/val.json'})
    path = 'good/seed_0/result.json'
    records.write(tmp_path / path, json.loads((folder / path).read_text()))
    page = Page(write_report(tmp_path).html)
    assert 'The annotations elsewhere/val.json are not there: run this in the folder' in page.text


def test_without_images(folder, tmp_path):
    plan = json.loads((folder / 'comparison.json').read_text())
    for path in folder.glob('*/seed_*/result.json'):
        records.write(tmp_path / path.relative_to(folder), json.loads(path.read_text()))
    records.write(tmp_path / 'comparison.json', {**plan, 'images': str(tmp_path / 'nowhere')})
    page = Page(write_report(tmp_path, resamples=20).html)
    assert re.search(r'Images are missing, the first is .*nowhere/\d+\.png', page.text)
    assert not page.all('image')
    assert 'true \\ found' in page.text


def test_missing_seed_is_named_and_not_averaged_over(folder, tmp_path):
    report = remade(folder, tmp_path, lambda run: None if (run['name'], run['seed']) == ('good', 3) else run)
    assert report.analysis.differences['AP']['good'].values.keys() == {0, 1, 2, 4}
    assert report.analysis.summaries['AP']['stock'].values.keys() == {0, 1, 2, 3, 4}
    named = 'good lacks seed 3; only seeds 0, 1, 2 and 4 count'
    assert named in Page(report.html).text
    assert named in terminal(report)
    assert '4 of 5' in terminal(report)
    assert '4 seeds of 5' in Page(report.html).text
    rows = [row for row in csv.DictReader(report.csv.open()) if row['run'] == 'good']
    assert {row['missing_seeds'] for row in rows} == {'3'}


def test_baseline_unfinished(folder, tmp_path):
    report = remade(folder, tmp_path, lambda run: None if run['name'] == 'stock' else run)
    assert report.analysis.headline == 'No verdict yet: it needs 3 seeds of both baseline and variant'
    assert report.analysis.best is None
    text = Page(report.html).text
    assert 'stock lacks seeds 0, 1, 2, 3 and 4; it does not count' in text
    assert 'No seed has finished both here and with the baseline' in text


def test_two_seeds_give_no_verdict(folder, tmp_path):
    report = remade(folder, tmp_path, lambda run: run if run['seed'] < 2 else None)
    assert report.analysis.headline.startswith('No verdict yet')
    assert 'over 2 paired seeds; a verdict needs 3.' in Page(report.html).text


def test_nothing_finished(folder, tmp_path):
    with pytest.raises(ValueError, match='has no finished run: let `mmext compare` train first'):
        remade(folder, tmp_path, lambda run: None)


def test_detections_of_other_annotations(folder, tmp_path):
    """Detections that do not give the AP of their file are no ground for a bootstrap."""

    def spoil(run):
        if (run['name'], run['seed']) == ('good', 2):
            run['detections'] = run['detections'][::2]
        return run

    report = remade(folder, tmp_path, spoil)
    (problem,) = report.analysis.problems
    assert re.search(
        r'good/seed_2/result.json are left out: with the current annotations their AP is 0\.\d+', str(problem)
    )
    assert 2 not in report.analysis.matches['good']
    assert 2 in report.analysis.differences['AP']['good'].values


def test_names_do_not_become_markup(data, tmp_path):
    hostile = 'x<script>alert(1)<b> "q" & [bold]'
    folder = records.comparison(tmp_path, *data, {'stock': 0.6, hostile: 0.7}, seeds=range(3))
    report = write_report(folder, resamples=20)
    page = Page(report.html)
    assert not page.all('script')
    assert hostile in page.text
    # In the headline or the sentence, and in the table.
    assert terminal(report).count(hostile) > 1
    assert any(
        hostile in line for line in terminal(report).splitlines() if line.startswith('\N{BOX DRAWINGS LIGHT VERTICAL}')
    )


def test_commands_reproduce_each_row(data, tmp_path):
    plan = records.plan(['stock', 'odd', 'focal'], [3, 5], *data)
    plan['runs']['stock'] = dict(config='my configs/a.py', options={'model.z': 0}, seeds=[3, 5])
    options = {'model.z': 0, 'model.x': [1, 2], 'model.name': "it's", 'model.y': None}
    plan['runs']['odd'] = dict(config='my configs/a.py', options=options, seeds=[3, 5])
    plan['runs']['focal'] = dict(config='focal.py', options={'model.z': 0}, seeds=[3])
    records.write(tmp_path / 'comparison.json', {**plan, 'amp': True})
    run = records.result('odd', 3, plan['runs']['odd'], dict(AP=0.5), records.np.random.default_rng(0))
    records.write(tmp_path / 'odd' / 'seed_3.json', run)
    analysis = write_report(tmp_path).analysis
    commands = {name: shlex.split(analysis.command(name)) for name in plan['runs']}
    start, end = ['mmext', 'compare', 'my configs/a.py'], ['--amp', '--cfg-options', 'model.z=0']
    assert commands['stock'] == [*start, '--seeds', '6', *end]
    assert commands['focal'] == [*start, 'focal.py', '--seeds', '4', *end]
    variant = ['--variant', 'odd', 'model.x=[1,2]', "model.name=it's", 'model.y=None']
    assert commands['odd'] == [*start, *variant, '--seeds', '6', *end]


def test_short_names():
    names = [f'yolox_nano_{part}1xb8-60e_bccd' for part in ('', 'ciou_', 'obj-focal_ciou_')]
    assert list(short_names(names, names[0]).values()) == ['baseline', 'ciou', 'obj-focal_ciou']
    assert short_names([*names[:2], 'other', 'yolox_s_ciou_1xb8-60e_bccd'], names[0]) == {
        names[0]: 'baseline',
        names[1]: 'ciou',
        'other': 'other',
        'yolox_s_ciou_1xb8-60e_bccd': 'yolox_s_ciou_1xb8-60e_bccd',
    }
    assert short_names(['stock', 'giou'], 'stock') == {'stock': 'stock', 'giou': 'giou'}
    # Two that would be the same are not shortened.
    assert short_names(['a_b', 'a_x_b', 'x'], 'a_b') == {'a_b': 'a_b', 'a_x_b': 'a_x_b', 'x': 'x'}
    # Words in the place of others are no insertion.
    assert short_names(['a_b_c', 'a_x_c', 'a_c'], 'a_b_c') == {name: name for name in ('a_b_c', 'a_x_c', 'a_c')}


def test_option():
    assert [option(value) for value in (3.0, True, 'ciou', [1, (2, 'a')])] == ['3.0', 'True', 'ciou', '[1,[2,a]]']


def test_a_better_variant_that_other_images_could_turn(report, monkeypatch):
    analysis = report.analysis
    difference = analysis.differences['AP']['good']
    turned = analysis_module.Difference(**{**difference.__dict__, 'images': analysis_module.Interval(-0.01, 0.2)})
    monkeypatch.setitem(analysis.differences['AP'], 'good', turned)
    assert analysis.sentence('good').endswith(
        'Other images could reverse it: \N{MINUS SIGN}0.010 to +0.200 over resampled images.'
    )


def test_many_classes_show_those_that_differ_most(tmp_path):
    names = [f'class{i}' for i in range(20)]
    plan = records.plan(['stock', 'odd'], range(3), tmp_path / 'none.json', tmp_path, names)
    records.write(tmp_path / 'comparison.json', plan)
    for name in plan['runs']:
        for seed in range(3):
            scores = {f'AP class{i}': 0.4 + (0.01 * i + 0.001 * seed) * (name == 'odd') for i in range(20)}
            metrics = dict(AP=0.4 + 0.01 * seed, **scores)
            run = records.result(name, seed, plan['runs'][name], metrics, records.np.random.default_rng(0))
            records.write(tmp_path / name / f'seed_{seed}.json', run)
    page = Page(write_report(tmp_path).html)
    assert 'odd changes class19 most: +0.191 AP' in page.text
    assert 'the other 8' in page.text
    shown = re.findall(r'class\d+', page.text[page.text.index('The 12 classes') :])
    assert sorted(set(shown), key=lambda name: int(name[5:])) == names[8:]
