"""Curves of losses and AP."""

from mmext.visualization import plot_curves


def test_curves(tmp_path):
    records = [{'step': 1, 'loss': 3.0, 'loss_cls': 1.0}, {'step': 2, 'loss': 2.0}, {'step': 1, 'coco/bbox_mAP': 0.1}]
    full = plot_curves(records, tmp_path / 'new' / 'curves.png').read_bytes()
    assert full[:4] == b'\x89PNG'
    assert len(full) > len(plot_curves([], tmp_path / 'empty.png').read_bytes())
