# CIoU for the boxes: DIoU plus a penalty on the aspect ratio.
_base_ = './yolox_s_8xb8-300e_coco.py'
model = dict(
    bbox_head=dict(
        loss_bbox=dict(
            _delete_=True, type='mmext.IoULoss', variant='ciou', reduction='sum', loss_weight=5.0)))
