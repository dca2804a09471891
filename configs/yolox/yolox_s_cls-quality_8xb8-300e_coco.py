# Quality focal loss for the classes, with YOLOX's IoU targets.
_base_ = './yolox_s_8xb8-300e_coco.py'
model = dict(
    bbox_head=dict(
        loss_cls=dict(
            _delete_=True, type='mmext.QualityFocalLoss', beta=2.0, reduction='sum', loss_weight=1.0)))
