# EIoU loss for the boxes: DIoU and the sides.
_base_ = './yolox_s_8xb8-300e_coco.py'
model = dict(
    bbox_head=dict(
        loss_bbox=dict(
            _delete_=True, type='mmext.IoULoss', variant='eiou', reduction='sum', loss_weight=5.0)))
