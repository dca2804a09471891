# The normalized Wasserstein distance for the boxes: for objects of a few pixels; the constant is their mean size.
_base_ = './yolox_s_8xb8-300e_coco.py'
model = dict(
    bbox_head=dict(
        loss_bbox=dict(
            _delete_=True, type='mmext.NWDLoss', constant=12.8, reduction='sum', loss_weight=5.0)))
