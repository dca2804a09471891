# Alpha-GIoU for the boxes, with the power 3 of the paper.
_base_ = './yolox_s_8xb8-300e_coco.py'
model = dict(
    bbox_head=dict(
        loss_bbox=dict(
            _delete_=True, type='mmext.IoULoss', variant='giou', alpha=3.0, reduction='sum', loss_weight=5.0)))
