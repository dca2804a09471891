# Varifocal loss for the objectness, with IoU targets; the class targets are hard, since the IoU would count twice.
_base_ = './yolox_nano_1xb8-60e_hituav.py'
model = dict(
    bbox_head=dict(
        obj_target='iou',
        cls_target='hard',
        loss_obj=dict(
            _delete_=True, type='mmext.VarifocalLoss', alpha=0.75, gamma=2.0, reduction='sum', loss_weight=1.0)))
