# Quality focal loss for the scores, DIoU for the boxes; the distribution focal loss stays mmdet's.
_base_ = 'mmdet::gfl/gfl_r50_fpn_1x_coco.py'
model = dict(
    bbox_head=dict(
        loss_cls=dict(_delete_=True, type='mmext.QualityFocalLoss', use_sigmoid=True, beta=2.0),
        loss_bbox=dict(_delete_=True, type='mmext.IoULoss', variant='diou', loss_weight=2.0)))
