# Focal loss for the classes; GIoU for the decoded boxes, in place of L1 for their offsets.
_base_ = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'
model = dict(
    bbox_head=dict(
        reg_decoded_bbox=True,
        loss_cls=dict(_delete_=True, type='mmext.FocalLoss', use_sigmoid=True, alpha=0.25, gamma=2.0),
        loss_bbox=dict(_delete_=True, type='mmext.IoULoss', variant='giou', loss_weight=2.0)))
