# Focal-EIoU for the boxes: pairs with a high IoU get more weight.
_base_ = './yolox_s_8xb8-300e_coco.py'
model = dict(
    bbox_head=dict(
        loss_bbox=dict(
            _delete_=True, type='mmext.IoULoss', variant='eiou', focus=dict(type='mmext.FocalFocus', gamma=0.5),
            reduction='sum', loss_weight=5.0)))
