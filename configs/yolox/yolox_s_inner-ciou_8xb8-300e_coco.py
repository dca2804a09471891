# Inner-CIoU for the boxes: the overlap of boxes shrunk to 0.8 of their sides.
_base_ = './yolox_s_8xb8-300e_coco.py'
model = dict(
    bbox_head=dict(
        loss_bbox=dict(
            _delete_=True, type='mmext.IoULoss', variant='ciou', inner_ratio=0.8, reduction='sum', loss_weight=5.0)))
