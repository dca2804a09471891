# Varifocal loss for the objectness: down-weights easy negatives, not positives.
_base_ = './yolox_nano_1xb8-60e_aquarium.py'
model = dict(
    bbox_head=dict(
        loss_obj=dict(
            _delete_=True, type='mmext.VarifocalLoss', alpha=0.75, gamma=2.0, reduction='sum', loss_weight=1.0)))
