"""Matching and AP beside pycocotools."""

import contextlib
import io
import json

import numpy as np
import pytest
import records
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mmext.comparison.matching import GroundTruth, Matches, Outcome


def coco_scores(path, detections):
    """AP, AP50, AP75, small, medium, large, and AP of each class, all by pycocotools."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(path))
        evaluation = COCOeval(truth, truth.loadRes(detections), 'bbox')
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    names = dict(zip(evaluation.params.catIds, evaluation.eval['precision'][:, :, :, 0, 2].transpose(2, 0, 1)))
    by_class = {category['name']: names[category['id']] for category in truth.dataset['categories']}
    scores = dict(zip(('AP', 'AP50', 'AP75', 'APs', 'APm', 'APl'), evaluation.stats[:6]))
    scores |= {f'AP {name}': precision[precision > -1].mean() for name, precision in by_class.items()}
    return {metric: np.nan if score == -1 else score for metric, score in scores.items()}


def repeated(path, detections, weights, folder):
    """The data set that holds each image as often as its weight says."""
    data = json.loads(path.read_text())
    images, annotations, found = [], [], []
    for image, weight in zip(sorted(data['images'], key=lambda image: image['id']), weights):
        for copy in range(weight):
            new = 1000 * (copy + 1) + image['id']
            images.append({**image, 'id': new})
            for thing in data['annotations']:
                if thing['image_id'] == image['id']:
                    annotations.append({**thing, 'image_id': new, 'id': len(annotations) + 1})
            found += [{**box, 'image_id': new} for box in detections if box['image_id'] == image['id']]
    return records.write(folder / 'repeated.json', {**data, 'images': images, 'annotations': annotations}), found


@pytest.fixture(scope='module')
def case(tmp_path_factory):
    path = records.ground_truth(tmp_path_factory.mktemp('data'), images=14)
    return path, records.detections(json.loads(path.read_text()), np.random.default_rng(1))


@pytest.fixture(scope='module')
def matched(case):
    path, detections = case
    return Matches(GroundTruth(path, records.CLASSES), detections)


def test_ap_is_pycocotools(case, matched):
    scores = matched.scores(np.ones((1, 14), np.int32))
    expected = coco_scores(*case)
    assert list(scores) == list(expected)
    assert {metric: score[0] for metric, score in scores.items()} == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_equal_scores_are_ranked_as_by_pycocotools(case):
    path, detections = case
    coarse = [{**found, 'score': round(found['score'], 1)} for found in detections]
    scores = Matches(GroundTruth(path, records.CLASSES), coarse).scores(np.ones((1, 14), np.int32))
    assert {metric: score[0] for metric, score in scores.items()} == pytest.approx(
        coco_scores(path, coarse), abs=1e-12, nan_ok=True
    )


@pytest.mark.parametrize('seed', range(4))
def test_weights_are_repetitions(case, matched, tmp_path, seed):
    """A weighted AP is pycocotools' AP of a data set that really holds the images that many times."""
    path, detections = case
    weights = np.random.default_rng(seed).multinomial(14, np.full(14, 1 / 14), 100).astype(np.int32)
    scores = matched.scores(weights)
    expected = coco_scores(*repeated(path, detections, weights[70 + seed], tmp_path))
    assert {metric: score[70 + seed] for metric, score in scores.items()} == pytest.approx(
        expected, abs=1e-12, nan_ok=True
    )


def test_a_class_without_objects_has_no_ap(case, matched):
    """Resamples that hold the empty image alone."""
    weights = np.zeros((1, 14), np.int32)
    weights[0, 0] = 14
    assert np.isnan([score[0] for score in matched.scores(weights).values()]).all()


def test_precision_over_recall(case, matched):
    path, detections = case
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(path))
        evaluation = COCOeval(truth, truth.loadRes(detections), 'bbox')
        evaluation.evaluate()
        evaluation.accumulate()
    for name, row in zip(records.CLASSES, matched.precision):
        category = next(item['id'] for item in truth.dataset['categories'] if item['name'] == name)
        column = evaluation.params.catIds.index(category)
        assert (row == evaluation.eval['precision'][0, :, column, 0, 2]).all()


def test_no_detections(case):
    empty = Matches(GroundTruth(case[0], records.CLASSES), [])
    scores = empty.scores(np.ones((2, 14), np.int32))
    assert scores['AP'].tolist() == [0, 0]
    assert empty.best_threshold == 0
    assert {outcome.kind for outcomes in empty.outcomes.values() for outcome in outcomes} == {'missed'}


def test_detections_on_other_images(case):
    with pytest.raises(ValueError, match='image 99, which the annotations do not have'):
        Matches(GroundTruth(case[0], records.CLASSES), [dict(image_id=99, category_id=7, bbox=[0, 0, 1, 1], score=1)])


def test_ground_truth_lacks_a_class(case):
    with pytest.raises(ValueError, match="has no category 'star': its categories are disc, square, cross"):
        GroundTruth(case[0], ['disc', 'star'])


def test_not_an_annotation_file(tmp_path):
    with pytest.raises(ValueError, match='is not a COCO annotation file'):
        GroundTruth(records.write(tmp_path / 'x.json', []), ['disc'])
    with pytest.raises(ValueError, match='is not a COCO annotation file'):
        GroundTruth(records.write(tmp_path / 'x.json', dict(annotations=[dict(id=1)])), ['disc'])


def box(x, label, score=0.9, width=10, image=1):
    return dict(image_id=image, category_id=label, bbox=[x, 0, width, 10], score=score)


@pytest.fixture
def street(tmp_path):
    """One image with two discs, a square and a crowd of discs; one without anything."""
    data = dict(
        images=[dict(id=1, width=200, height=20), dict(id=2, width=200, height=20)],
        categories=[dict(id=1, name='disc'), dict(id=2, name='square')],
        annotations=[
            dict(id=position + 1, image_id=1, category_id=label, bbox=[x, 0, width, 10], area=10 * width, iscrowd=crowd)
            for position, (x, label, width, crowd) in enumerate(
                [(0, 1, 10, 0), (30, 1, 10, 0), (60, 2, 10, 0), (100, 1, 80, 1)]
            )
        ],
    )
    return GroundTruth(records.write(tmp_path / 'street.json', data), ['disc', 'square'])


def test_outcomes(street):
    found = [box(2, 1, 0.8), box(1, 1), box(60, 1), box(110, 1), box(190, 2), box(45, 1, 0.01)]
    matches = Matches(street, found)
    matches.best_threshold = 0.5
    by_kind = {outcome.box[0]: outcome.kind for outcome in matches.outcomes[1]}
    # The nearer of two detections has the object; the one on the crowd is left out; below the threshold is none.
    assert by_kind == {1: 'correct', 2: 'false', 60: 'wrong class', 190: 'false', 30: 'missed'}
    assert matches.outcomes[2] == []
    assert matches.confusion().tolist() == [[1, 0, 1], [1, 0, 0], [1, 1, 0]]
    # Four detections and three objects, two of these boxes in agreement; and nothing to find in the other image.
    assert matches.f1().tolist() == [pytest.approx(2 / 7), 1]


def test_best_threshold(street):
    """The false detections between the two correct ones are worth it or not, by F1 averaged over the classes."""
    found = [box(0, 1, 0.9), box(30, 1, 0.5), box(60, 2, 0.5), box(80, 1, 0.4), box(85, 2, 0.3)]
    assert Matches(street, found).best_threshold == pytest.approx(0.41)


def test_best_threshold_averages_over_classes(street):
    """Pooled over the classes, the many false discs would forbid a threshold that the only square needs."""
    found = [box(0, 1, 0.9), box(30, 1, 0.9), box(60, 2, 0.2), *(box(80 + 4 * i, 1, 0.3, width=3) for i in range(4))]
    matches = Matches(street, found)
    assert matches.best_threshold < 0.21


def test_best_threshold_leaves_out_detections_on_crowds(street):
    """As false they would forbid the threshold of the second disc; as hits they would be better than it."""
    found = [box(0, 1, 0.9), *(box(100 + 12 * i, 1, 0.5) for i in range(5)), box(30, 1, 0.4)]
    assert Matches(street, found).best_threshold <= 0.4


def test_outcome_kinds():
    kinds = {Outcome((0, 0, 1, 1), truth, label).kind for truth, label in [(0, 0), (0, 1), (0, None), (None, 0)]}
    assert kinds == {'correct', 'wrong class', 'missed', 'false'}
