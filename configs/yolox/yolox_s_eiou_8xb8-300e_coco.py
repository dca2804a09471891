# EIoU for the boxes: DIoU plus penalties on the differences in width and height.
_base_ = './yolox_s_8xb8-300e_coco.py'
model = dict(
    bbox_head=dict(
        loss_bbox=dict(
            _delete_=True, type='mmext.IoULoss', variant='eiou', reduction='sum', loss_weight=5.0)))
