"""COCO's metrics, against numbers worked out by hand."""

import json

import pytest

from mmext.comparison.metrics import coco_metrics


def write_truth(path):
    boxes = [[10, 10, 20, 20], [50, 50, 100, 100], [0, 0, 60, 60]]
    path.write_text(
        json.dumps(
            {
                'images': [{'id': 1, 'width': 200, 'height': 200}],
                'categories': [{'id': 3, 'name': 'cat'}, {'id': 5, 'name': 'dog'}, {'id': 9, 'name': 'eel'}],
                'annotations': [
                    dict(id=i + 1, image_id=1, category_id=category, bbox=box, area=box[2] * box[3], iscrowd=0)
                    for i, (box, category) in enumerate(zip(boxes, (3, 3, 5)))
                ],
            }
        )
    )  # fmt: skip
    return str(path)


def test_metrics_of_coco(tmp_path):
    """One of two cats is found exactly, the dog with an IoU of 0.64: right at thresholds .5, .55 and .6."""
    truth = write_truth(tmp_path / 'truth.json')
    found = [
        {'image_id': 1, 'category_id': 3, 'bbox': [50, 50, 100, 100], 'score': 0.9},
        {'image_id': 1, 'category_id': 5, 'bbox': [0, 0, 48, 48], 'score': 0.8},
    ]
    metrics = coco_metrics(truth, found)
    # Recall 0.5 is reached at 51 of the 101 points.
    assert metrics['AP cat'] == pytest.approx(51 / 101)
    assert metrics['AP dog'] == pytest.approx(3 / 10)
    assert metrics['AP eel'] is None
    assert metrics['AP'] == pytest.approx((51 / 101 + 3 / 10) / 2)
    assert metrics['AP50'] == pytest.approx((51 / 101 + 1) / 2)
    assert metrics['APs'] == 0


def test_metrics_without_detections(tmp_path):
    metrics = coco_metrics(write_truth(tmp_path / 'truth.json'), [])
    assert (metrics['AP'], metrics['AP cat'], metrics['AP eel']) == (0, 0, None)


def test_detections_are_left_as_they_are(tmp_path):
    found = [{'image_id': 1, 'category_id': 3, 'bbox': [50, 50, 100, 100], 'score': 0.9}]
    coco_metrics(write_truth(tmp_path / 'truth.json'), found)
    assert found == [{'image_id': 1, 'category_id': 3, 'bbox': [50, 50, 100, 100], 'score': 0.9}]
