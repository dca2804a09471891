# Focal loss for the classes, with hard targets and more weight on positives of the rare classes.
_base_ = './yolox_nano_1xb8-60e_bccd.py'
model = dict(
    bbox_head=dict(
        cls_target='hard',
        loss_cls=dict(
            _delete_=True, type='mmext.FocalLoss', alpha=[0.25, 0.75, 0.75], reduction='sum', loss_weight=2.0)))
