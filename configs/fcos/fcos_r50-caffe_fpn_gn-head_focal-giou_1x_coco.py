# Focal loss for the classes; GIoU, weighted by centerness, for the boxes.
_base_ = 'mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py'
model = dict(
    bbox_head=dict(
        loss_cls=dict(_delete_=True, type='mmext.FocalLoss', use_sigmoid=True, alpha=0.25, gamma=2.0),
        loss_bbox=dict(_delete_=True, type='mmext.IoULoss', variant='giou', loss_weight=1.0)))
