# Asymmetric loss for the classes, with hard targets: down-weights negatives, and drops the easiest.
_base_ = './yolox_s_8xb8-300e_coco.py'
model = dict(
    bbox_head=dict(
        cls_target='hard',
        loss_cls=dict(
            _delete_=True, type='mmext.AsymmetricLoss', gamma_pos=1.0, gamma_neg=4.0, clip=0.05, reduction='sum')))
