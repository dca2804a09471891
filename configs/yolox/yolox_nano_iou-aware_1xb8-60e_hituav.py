# The recommendation's class and box losses, and varifocal loss for an objectness whose target is the IoU.
_base_ = './yolox_nano_recommended_1xb8-60e_hituav.py'
model = dict(
    bbox_head=dict(
        obj_target='iou',
        loss_obj=dict(
            _delete_=True, type='mmext.VarifocalLoss', alpha=0.75, gamma=2.0, reduction='sum', loss_weight=1.0)))
