# Shape-IoU for the boxes: offsets and sides weigh by the target's shape.
_base_ = './yolox_s_8xb8-300e_coco.py'
model = dict(
    bbox_head=dict(
        loss_bbox=dict(
            _delete_=True, type='mmext.IoULoss', variant='shape', scale=0.0, reduction='sum', loss_weight=5.0)))
