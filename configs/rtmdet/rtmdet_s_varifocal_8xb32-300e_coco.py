# Varifocal loss for the classes of all priors, with IoU targets and no objectness, as in YOLOv8-style heads.
_base_ = 'mmdet::rtmdet/rtmdet_s_8xb32-300e_coco.py'
model = dict(
    bbox_head=dict(
        loss_cls=dict(_delete_=True, type='mmext.VarifocalLoss', use_sigmoid=True, alpha=0.75, gamma=2.0),
        loss_bbox=dict(_delete_=True, type='mmext.IoULoss', variant='giou', loss_weight=2.0)))
