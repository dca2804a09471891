# Softmax focal loss for the classes, with weights of about 1 / sqrt(share of the class), 1 on average.
_base_ = './yolox_nano_1xb8-60e_bccd.py'
model = dict(
    bbox_head=dict(
        cls_target='label',
        loss_cls=dict(
            _delete_=True, type='mmext.SoftmaxFocalLoss', alpha=[0.74, 2.4, 2.6], gamma=2.0, reduction='sum')))
