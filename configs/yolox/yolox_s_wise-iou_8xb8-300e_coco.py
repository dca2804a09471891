# Wise-IoU v3 for the boxes: distance attention, and less weight for outliers and for easy pairs.
_base_ = './yolox_s_8xb8-300e_coco.py'
model = dict(
    bbox_head=dict(
        loss_bbox=dict(
            _delete_=True, type='mmext.IoULoss', variant='iou', focus=dict(type='mmext.WiseFocus', version=3),
            reduction='sum', loss_weight=5.0)))
