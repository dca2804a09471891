# Wise-IoU v3 for the boxes: attention to the distance, little weight for outliers.
_base_ = './yolox_s_8xb8-300e_coco.py'
model = dict(
    bbox_head=dict(
        loss_bbox=dict(
            _delete_=True, type='mmext.IoULoss', variant='iou', focus=dict(type='mmext.WiseFocus', version=3),
            reduction='sum', loss_weight=5.0)))
