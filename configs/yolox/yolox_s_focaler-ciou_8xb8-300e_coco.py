# Focaler-CIoU for the boxes: IoUs in the interval are mapped linearly to [0, 1].
_base_ = './yolox_s_8xb8-300e_coco.py'
model = dict(
    bbox_head=dict(
        loss_bbox=dict(
            _delete_=True, type='mmext.IoULoss', variant='ciou', interval=(0.0, 0.95),
            reduction='sum', loss_weight=5.0)))
