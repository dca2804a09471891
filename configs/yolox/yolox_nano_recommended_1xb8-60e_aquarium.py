# The provisional recommendation: softmax focal loss with class weights for the rare classes, and CIoU for the boxes.
_base_ = './yolox_nano_1xb8-60e_aquarium.py'
model = dict(bbox_head=dict(
    cls_target='label',
    loss_cls=dict(
        _delete_=True, type='mmext.SoftmaxFocalLoss', alpha=[0.569, 1.28, 1.39, 1.9, 1.57, 2.85, 2.16], gamma=1.0,
        reduction='sum'),
    loss_bbox=dict(_delete_=True, type='mmext.IoULoss', variant='ciou', alpha=2.0, reduction='sum', loss_weight=5.0)))
