# Softmax focal loss for the classes, with weights of 1 / sqrt(share of the class), scaled to 1 on average.
_base_ = './yolox_nano_1xb8-60e_aquarium.py'
model = dict(
    bbox_head=dict(
        cls_target='label',
        loss_cls=dict(
            _delete_=True, type='mmext.SoftmaxFocalLoss', gamma=2.0, reduction='sum',
            alpha=[0.569, 1.28, 1.39, 1.9, 1.57, 2.85, 2.16])))
