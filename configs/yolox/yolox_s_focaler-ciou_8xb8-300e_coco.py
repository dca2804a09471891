# Focaler-CIoU for the boxes: the overlap is stretched from an interval.
_base_ = './yolox_s_8xb8-300e_coco.py'
model = dict(
    bbox_head=dict(
        loss_bbox=dict(
            _delete_=True, type='mmext.IoULoss', variant='ciou', interval=(0.0, 0.95),
            reduction='sum', loss_weight=5.0)))
