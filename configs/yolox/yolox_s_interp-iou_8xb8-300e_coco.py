# Interpolated IoU for the boxes: distant pairs are pulled together without a geometric penalty.
_base_ = './yolox_s_8xb8-300e_coco.py'
model = dict(
    bbox_head=dict(
        loss_bbox=dict(
            _delete_=True, type='mmext.IoULoss', variant='interp', reduction='sum', loss_weight=5.0)))
