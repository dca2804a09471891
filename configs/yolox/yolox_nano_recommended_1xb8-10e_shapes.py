# The provisional recommendation.
_base_ = './yolox_nano_1xb8-10e_shapes.py'
model = dict(
    bbox_head=dict(
        loss_bbox=dict(
            _delete_=True, type='mmext.IoULoss', variant='ciou', alpha=2.0, reduction='sum', loss_weight=5.0)))
