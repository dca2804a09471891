# Softmax focal loss for the classes, with weights of 1 / sqrt(share of the class), scaled to 1 on average.
_base_ = './yolox_nano_1xb8-60e_hituav.py'
model = dict(
    bbox_head=dict(
        cls_target='label',
        loss_cls=dict(
            _delete_=True, type='mmext.SoftmaxFocalLoss', alpha=[0.754, 1.09, 1.34, 4.69], gamma=2.0, reduction='sum')))
