# MPDIoU for the boxes: the distances of two corners, relative to the size of the network's input.
_base_ = './yolox_s_8xb8-300e_coco.py'
model = dict(
    bbox_head=dict(
        loss_bbox=dict(
            _delete_=True, type='mmext.IoULoss', variant='mpdiou', reduction='sum', loss_weight=5.0)))
