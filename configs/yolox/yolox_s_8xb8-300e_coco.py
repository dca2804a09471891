# The baseline on COCO: mmdet's YOLOX-s with its stock losses. The head and the assigner give mmdet's numbers, faster.
_base_ = 'mmdet::yolox/yolox_s_8xb8-300e_coco.py'
model = dict(
    data_preprocessor=dict(non_blocking=True),
    bbox_head=dict(type='mmext.YOLOXHead'),
    train_cfg=dict(assigner=dict(type='mmext.BatchSimOTAAssigner')))
