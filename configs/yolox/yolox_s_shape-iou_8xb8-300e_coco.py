# Shape-IoU for the boxes: errors along the target's shorter side weigh more. With the authors' default, scale=0, both
# sides weigh alike.
_base_ = './yolox_s_8xb8-300e_coco.py'
model = dict(
    bbox_head=dict(
        loss_bbox=dict(
            _delete_=True, type='mmext.IoULoss', variant='shape', scale=1.0, reduction='sum', loss_weight=5.0)))
