"""Curves and pictures."""

import cv2
import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmdet.visualization import DetLocalVisualizer
from mmengine.structures import InstanceData

from mmext.visualization import draw_predictions, plot_curves
from mmext.visualization.curves import points_of


def test_of_two_records_of_one_step_the_later_counts():
    records = [{'step': 2, 'loss': 3.0}, {'step': 1, 'loss': 4.0}, {'step': 2, 'loss': 5.0}, {'step': 3, 'lr': 1.0}]
    assert points_of(records, 'loss') == [(1, 4.0), (2, 5.0)]


def test_curves(tmp_path):
    records = [{'step': 1, 'loss': 3.0, 'loss_cls': 1.0}, {'step': 2, 'loss': 2.0}, {'step': 1, 'coco/bbox_mAP': 0.1}]
    full = plot_curves(records, tmp_path / 'new' / 'curves.png').read_bytes()
    assert full[:4] == b'\x89PNG'
    assert len(full) > len(plot_curves([], tmp_path / 'empty.png').read_bytes())


def test_predictions_beside_the_ground_truth(tmp_path):
    path = tmp_path / 'image.jpg'
    cv2.imwrite(str(path), np.full((100, 160, 3), 120, np.uint8))
    prediction = InstanceData(
        bboxes=torch.tensor([[10.0, 10, 60, 60], [float('-inf'), 0, float('inf'), 500]]),
        labels=torch.tensor([0, 0]),
        scores=torch.tensor([0.9, 0.8]),
    )
    sample = DetDataSample(
        metainfo={'img_path': str(path)},
        pred_instances=prediction,
        gt_instances=InstanceData(bboxes=torch.tensor([[10.0, 10, 60, 60]]), labels=torch.tensor([0])),
    )
    visualizer = DetLocalVisualizer()
    visualizer.dataset_meta = {'classes': ('thing',), 'palette': [(255, 0, 0)]}
    folder = draw_predictions([sample], visualizer, tmp_path / 'pictures')
    picture = cv2.imread(str(folder / 'image.png'))
    assert picture.shape == (500, 1600, 3)
    # Both halves show the box; the original sample is as it was.
    assert all(np.unique(half.reshape(-1, 3), axis=0).shape[0] > 10 for half in np.hsplit(picture, 2))
    assert sample.gt_instances.bboxes.tolist() == [[10, 10, 60, 60]]
