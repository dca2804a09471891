# Asymmetric loss for the classes, on one-hot targets: negatives count less than positives, the easiest not at all.
_base_ = './yolox_s_8xb8-300e_coco.py'
model = dict(
    bbox_head=dict(
        cls_target='hard',
        loss_cls=dict(
            _delete_=True, type='mmext.AsymmetricLoss', gamma_pos=1.0, gamma_neg=4.0, clip=0.05, reduction='sum')))
