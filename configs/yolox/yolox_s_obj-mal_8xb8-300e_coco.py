# Matchability-aware loss for the objectness, with IoU targets; hard class targets, or the IoU would count twice.
_base_ = './yolox_s_8xb8-300e_coco.py'
model = dict(
    bbox_head=dict(
        obj_target='iou',
        cls_target='hard',
        loss_obj=dict(_delete_=True, type='mmext.MALoss', gamma=1.5, reduction='sum', loss_weight=1.0)))
