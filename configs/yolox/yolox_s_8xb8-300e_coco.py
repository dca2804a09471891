# YOLOX-s on COCO, mmdet's own but for the head and the assigner, which give the same: the baseline, with stock losses.
_base_ = 'mmdet::yolox/yolox_s_8xb8-300e_coco.py'
model = dict(
    bbox_head=dict(type='mmext.YOLOXHead'), train_cfg=dict(assigner=dict(type='mmext.BatchSimOTAAssigner')))
