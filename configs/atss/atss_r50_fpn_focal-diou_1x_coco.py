# Focal loss for the classes, DIoU for the boxes.
_base_ = 'mmdet::atss/atss_r50_fpn_1x_coco.py'
model = dict(
    bbox_head=dict(
        loss_cls=dict(_delete_=True, type='mmext.FocalLoss', use_sigmoid=True, alpha=0.25, gamma=2.0),
        loss_bbox=dict(_delete_=True, type='mmext.IoULoss', variant='diou', loss_weight=2.0)))
