# Quality focal loss for the scores, and DIoU for the boxes; their distributions keep mmdet's loss.
_base_ = 'mmdet::gfl/gfl_r50_fpn_1x_coco.py'
model = dict(
    bbox_head=dict(
        loss_cls=dict(_delete_=True, type='mmext.QualityFocalLoss', use_sigmoid=True, beta=2.0),
        loss_bbox=dict(_delete_=True, type='mmext.IoULoss', variant='diou', loss_weight=2.0)))
