"""Predictions beside the ground truth."""

import cv2
import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmdet.visualization import DetLocalVisualizer
from mmengine.structures import InstanceData

from mmext.visualization import draw_predictions


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
