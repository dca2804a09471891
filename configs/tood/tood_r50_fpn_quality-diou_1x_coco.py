# Focal, then quality focal loss on the class probabilities that the head gives; DIoU for the boxes.
_base_ = 'mmdet::tood/tood_r50_fpn_1x_coco.py'
model = dict(
    bbox_head=dict(
        initial_loss_cls=dict(_delete_=True, type='mmext.FocalLoss', use_sigmoid=True, activated=True),
        loss_cls=dict(_delete_=True, type='mmext.QualityFocalLoss', use_sigmoid=True, activated=True),
        loss_bbox=dict(_delete_=True, type='mmext.IoULoss', variant='diou', loss_weight=2.0)))
