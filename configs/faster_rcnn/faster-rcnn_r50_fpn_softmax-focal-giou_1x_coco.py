# Softmax focal loss for the classes and the background, which is the last class; GIoU for the decoded boxes.
_base_ = 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'
model = dict(
    roi_head=dict(
        bbox_head=dict(
            reg_decoded_bbox=True,
            loss_cls=dict(_delete_=True, type='mmext.SoftmaxFocalLoss', gamma=1.0, background_index=-1),
            loss_bbox=dict(_delete_=True, type='mmext.IoULoss', variant='giou', loss_weight=10.0))))
