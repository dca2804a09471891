# GIoU for the boxes: a gradient also for boxes that do not overlap.
_base_ = './yolox_s_8xb8-300e_coco.py'
model = dict(
    bbox_head=dict(
        loss_bbox=dict(
            _delete_=True, type='mmext.IoULoss', variant='giou', reduction='sum', loss_weight=5.0)))
