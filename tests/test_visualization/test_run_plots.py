"""The page and the PNGs of trainings whose records are known."""

import json
import math
import re

import numpy as np
import pytest
import records
from html_page import Page

from mmext.comparison.matching import GroundTruth, Matches
from mmext.visualization.run_plots import MAX_POINTS, LabelCounts, RunPlots, render, thin, write_plots
from mmext.visualization.work_dir import load_run


def loaded(tmp_path, **steps):
    return [load_run(records.work_dir(tmp_path / name, each), name) for name, each in steps.items()]


def page_of(plots, tmp_path):
    (tmp_path / 'plots.html').write_text(render(plots))
    return Page(tmp_path / 'plots.html')


def drawn(plots, tmp_path):
    """The page, and the names of the PNGs."""
    page, *pictures = write_plots(plots, tmp_path)
    assert all(path.read_bytes()[:4] == b'\x89PNG' for path in pictures)
    return Page(page), {path.name for path in pictures}


def read_back(page, chart):
    """The points of each line of a chart, in the units of its axes, read from the page."""
    label = f'{chart.y_label} over {chart.x_label}: {chart.title}'
    (start,) = [
        position
        for position, (tag, attributes) in enumerate(page.elements)
        if tag == 'svg' and attributes.get('aria-label') == label
    ]
    lines = []
    for tag, attributes in page.elements[start + 1 :]:
        if tag == 'svg':
            break
        if tag == 'path':
            points = [tuple(map(float, pair)) for pair in re.findall(r'([\d.]+),([\d.]+)', attributes['d'])]
            lines.append([(unscaled(chart.x, x), unscaled(chart.y, y)) for x, y in points])
    return lines


def unscaled(axis, point):
    return axis.low + (point - axis.start) / (axis.end - axis.start) * (axis.high - axis.low)


def assert_points(line, expected, chart):
    """Equal to the tenth of a point to which an SVG is rounded."""
    tolerance = [0.06 * abs((axis.high - axis.low) / (axis.end - axis.start)) for axis in (chart.x, chart.y)]
    assert len(line) == len(expected)
    for found, point in zip(line, expected):
        assert found == (pytest.approx(point[0], abs=tolerance[0]), pytest.approx(point[1], abs=tolerance[1]))


def test_curves_of_two_runs_are_those_of_the_records(tmp_path):
    plots = RunPlots(loaded(tmp_path, stock=records.training(), other=records.training(epochs=6, scale=0.8)))
    page, pictures = drawn(plots, tmp_path)
    ap = plots.metrics()[0]
    stock, other = read_back(page, ap)
    assert_points(stock, [(1, 0.125), (2, 0.25), (3, 0.375), (4, 0.5)], ap)
    assert_points(other, [(epoch, round(0.4 * epoch / 6, 3)) for epoch in range(1, 7)], ap)
    assert ap.x_label == 'epoch'
    loss, loss_cls, *_ = plots.losses()
    assert_points(read_back(page, loss)[0], [(step, 8 / step) for step in range(1, 17)], loss)
    assert_points(read_back(page, loss_cls)[1], [(step, 1.6 / step) for step in range(1, 25)], loss_cls)
    (rate,) = plots.learning_rate()
    assert_points(read_back(page, rate)[0], [(step, 0.01 / step) for step in range(1, 17)], rate)
    assert pictures == {'metrics.png', 'losses.png', 'loss_shares.png', 'learning_rate.png'}


def test_the_table_has_the_last_and_the_best_values(tmp_path):
    steps = records.training()
    steps[-1]['coco/bbox_mAP'] = 0.2
    page = page_of(RunPlots(loaded(tmp_path, stock=steps, other=records.training(scale=0.5))), tmp_path)
    assert 'stock 0.200 0.700 0.450 0.375 at epoch 3 0.500 16 other 0.250' in page.text
    assert 'run AP AP50 AP75 best AP loss iterations' in page.text


def test_metrics_of_sizes_and_classes_are_apart(tmp_path):
    plots = RunPlots(loaded(tmp_path, stock=records.training()))
    assert [chart.title for chart in plots.metrics()] == ['AP', 'AP50', 'AP75']
    assert [chart.title for chart in plots.details()] == ['AP disc', 'APs']


def test_the_shares_of_the_losses(tmp_path):
    plots = RunPlots(loaded(tmp_path, stock=records.training()))
    page = page_of(plots, tmp_path)
    (shares,) = plots.shares()
    assert [line.name for line in shares.lines] == ['loss_cls', 'loss_bbox', 'loss_obj']
    for line, share in zip(read_back(page, shares), (0.25, 0.5, 0.25)):
        assert_points(line, [(step, share) for step in range(1, 17)], shares)


def test_one_loss_has_no_share(tmp_path):
    steps = [dict(step=1, loss=2.0, loss_rpn=2.0)]
    page, pictures = drawn(RunPlots(loaded(tmp_path, stock=steps)), tmp_path)
    assert 'Loss shares' not in page.text
    assert pictures == {'losses.png'}


def test_without_an_evaluation(tmp_path):
    """As in the first epoch, or where mmdet has no detection to evaluate."""
    steps = [step for step in records.training(epochs=1) if 'loss' in step]
    plots = RunPlots(loaded(tmp_path, stock=[*steps, dict(time=0.1, step=1)]), notes=['stock: no PR curves. Do this'])
    page, pictures = drawn(plots, tmp_path)
    assert 'The records have no evaluation yet.' in page.text
    assert 'Not shown stock: no PR curves. Do this' in page.text
    assert 'run loss iterations stock 2.000 4' in page.text
    assert 'metrics.png' not in pictures


def test_a_single_evaluation_is_a_dot(tmp_path):
    plots = RunPlots(loaded(tmp_path, stock=records.training(epochs=1)))
    page = page_of(plots, tmp_path)
    ap = plots.metrics()[0]
    assert_points(read_back(page, ap)[0], [(1, 0.5), (1, 0.5)], ap)


def test_other_metrics_are_drawn_under_their_names(tmp_path):
    plots = RunPlots(loaded(tmp_path, stock=[dict(step=1, loss=1.0, iter=1), {'step': 1, 'pascal_voc/mAP': 0.4}]))
    page = page_of(plots, tmp_path)
    assert [(chart.title, chart.x_label) for chart in plots.metrics()] == [('mAP', 'iteration')]
    assert 'best mAP' in page.text


def test_a_loss_that_is_not_finite_is_named(tmp_path):
    steps = records.training()
    for step in steps:
        if step['step'] > 6 and 'loss' in step:
            step['loss_bbox'] = step['loss'] = math.nan
    page = page_of(RunPlots(loaded(tmp_path, stock=steps)), tmp_path)
    assert 'stock: loss_bbox is not finite at iteration 7, nor at 9 later records' in page.text
    assert not re.search(r'\bnan\b', (tmp_path / 'plots.html').read_text())


def test_many_points_are_averaged():
    points = [(step, float(step % 2)) for step in range(3000)]
    x, y = thin(points)
    assert len(x) == MAX_POINTS
    assert (x[0], y[0], x[-1]) == (4.5, 0.5, 2994.5)
    assert thin(points[:3]) == ((0, 1, 2), (0, 1, 0))
    assert thin([]) == ((), ())


def test_the_page_needs_nothing_else(tmp_path):
    page = page_of(RunPlots(loaded(tmp_path, stock=records.training())), tmp_path)
    text = (tmp_path / 'plots.html').read_text()
    assert not page.all('script') and not page.all('link')
    assert not re.search(r'href=|src="|https?://|url\(|@import', text)
    assert "default-src 'none'" in text


def test_names_do_not_become_markup(tmp_path):
    name = 'x<script>alert(1)</script>"&'
    run = load_run(records.work_dir(tmp_path / 'run', records.training()), name)
    page = page_of(RunPlots([run]), tmp_path)
    assert not page.all('script')
    assert name in page.text


@pytest.fixture(scope='module')
def matched(tmp_path_factory):
    path = records.ground_truth(tmp_path_factory.mktemp('data'))
    found = records.detections(json.loads(path.read_text()), np.random.default_rng(0))
    return Matches(GroundTruth(path, records.CLASSES), found)


def test_pr_curves_and_confusion_matrix(tmp_path, matched):
    runs = loaded(tmp_path, stock=records.training(), blind=records.training())
    nothing = Matches(matched.truth, [])
    plots = RunPlots(runs, {'stock': matched, 'blind': nothing})
    page, pictures = drawn(plots, tmp_path)
    for label, chart in enumerate(plots.pr_curves()):
        assert chart.title == records.CLASSES[label]
        recalls = np.linspace(0, 1, 101)
        stock, blind = read_back(page, chart)
        assert_points(stock, list(zip(recalls, matched.precision[label])), chart)
        assert_points(blind, [(recall, 0) for recall in recalls], chart)
    counts = matched.confusion()
    row = ' '.join(f'{100 * count / counts[0].sum():.0f} % {count}' if count else '0' for count in counts[0])
    text = page.text[page.text.index(f'stock, score ≥ {matched.best_threshold:.2f}') :]
    assert f'missed disc {row} square' in text
    assert f'no object {" ".join(map(str, counts[-1, :-1]))}' in text
    assert {'precision_recall.png', 'confusion_matrix.png'} < pictures


def test_of_many_classes_those_with_most_objects_are_drawn(tmp_path):
    data = dict(images=[dict(id=1, width=900, height=20, file_name='a')], annotations=[], categories=[])
    for category in range(15):
        data['categories'].append(dict(id=category, name=f'class{category}'))
        for place in range(category + 1):
            box = dict(id=100 * category + place + 1, image_id=1, category_id=category, bbox=[20 * place, 0, 9, 9])
            data['annotations'].append({**box, 'area': 81, 'iscrowd': 0})
    names = [category['name'] for category in data['categories']]
    truth = GroundTruth(records.write(tmp_path / 'val.json', data), names)
    plots = RunPlots(loaded(tmp_path, stock=records.training()), {'stock': Matches(truth, [])})
    page = page_of(plots, tmp_path)
    assert plots.classes == names[3:]
    assert [chart.title for chart in plots.pr_curves()] == names[3:]
    assert 'The 12 classes with the most objects; 3 more are left out.' in page.text


def test_label_distribution(tmp_path):
    counts = dict(train=dict(cat=1500, dog=500), val=dict(cat=1, dog=0))
    labels = [LabelCounts(['stock'], counts)]
    page, pictures = drawn(RunPlots(loaded(tmp_path, stock=records.training()), labels=labels), tmp_path)
    assert 'class train val cat 1,500 75.0 % 1 100.0 % dog 500 25.0 % 0 0.0 %' in page.text
    assert [bar['style'] for bar in page.all('i')][-4:] == ['width:75.0%', 'width:100.0%', 'width:25.0%', 'width:0.0%']
    assert 'labels.png' in pictures
