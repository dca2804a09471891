# Normalized Wasserstein distance for the boxes; the constant is the mean size, sqrt(area), of the objects, in pixels.
_base_ = './yolox_nano_1xb8-9e_shapes.py'
model = dict(
    bbox_head=dict(
        loss_bbox=dict(
            _delete_=True, type='mmext.NWDLoss', constant=33.0, reduction='sum', loss_weight=5.0)))
