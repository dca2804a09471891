# The provisional recommendation: softmax focal loss with class weights for the rare classes, and CIoU for the boxes.
_base_ = './yolox_nano_1xb8-60e_hituav.py'
model = dict(bbox_head=dict(
    cls_target='label',
    loss_cls=dict(
        _delete_=True, type='mmext.SoftmaxFocalLoss', alpha=[0.754, 1.09, 1.34, 4.69], gamma=1.0, reduction='sum'),
    loss_bbox=dict(_delete_=True, type='mmext.IoULoss', variant='ciou', alpha=2.0, reduction='sum', loss_weight=5.0)))
