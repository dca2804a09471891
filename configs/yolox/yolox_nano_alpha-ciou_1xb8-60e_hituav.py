# Alpha-CIoU for the boxes, with the power 3 of the paper.
_base_ = './yolox_nano_1xb8-60e_hituav.py'
model = dict(
    bbox_head=dict(
        loss_bbox=dict(
            _delete_=True, type='mmext.IoULoss', variant='ciou', alpha=3.0, reduction='sum', loss_weight=5.0)))
