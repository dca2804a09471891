# Powerful-IoU v2 for the boxes: the distances of the edges, and a focus on pairs of medium quality.
_base_ = './yolox_s_8xb8-300e_coco.py'
model = dict(
    bbox_head=dict(
        loss_bbox=dict(
            _delete_=True, type='mmext.IoULoss', variant='piou', focus=dict(type='mmext.PIoUFocus', lam=1.3),
            reduction='sum', loss_weight=5.0)))
