# Varifocal loss for the scores; DIoU for the initial and the refined boxes.
_base_ = 'mmdet::vfnet/vfnet_r50_fpn_1x_coco.py'
model = dict(
    bbox_head=dict(
        loss_cls=dict(_delete_=True, type='mmext.VarifocalLoss', use_sigmoid=True, alpha=0.75, gamma=2.0),
        loss_bbox=dict(_delete_=True, type='mmext.IoULoss', variant='diou', loss_weight=1.5),
        loss_bbox_refine=dict(_delete_=True, type='mmext.IoULoss', variant='diou', loss_weight=2.0)))
