# Focal loss for the objectness: down-weights the easy background.
_base_ = './yolox_nano_1xb8-60e_aquarium.py'
model = dict(
    bbox_head=dict(
        loss_obj=dict(
            _delete_=True, type='mmext.FocalLoss', alpha=0.25, gamma=2.0, reduction='sum', loss_weight=1.0)))
