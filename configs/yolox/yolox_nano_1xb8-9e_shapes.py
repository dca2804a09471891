# The baseline on shapes, the data set of `make demo`: stock losses, minutes on two CPU cores. The network is as narrow
# as YOLOX-nano, but has full instead of depthwise convolutions, so it is larger.
_base_ = 'mmdet::yolox/yolox_nano_8xb8-300e_coco.py'

dataset = dict(
    type='mmdet.CocoDataset', data_root='data/shapes/', metainfo=dict(classes=('circle', 'triangle', 'star'))
)
load = dict(type='LoadImageFromFile')
annotations = dict(type='mmdet.LoadAnnotations', with_bbox=True)
resize = dict(type='mmdet.Resize', scale=(128, 128), keep_ratio=True)
train_pipeline = [
    load,
    annotations,
    dict(type='mmdet.RandomFlip', prob=0.5),
    dict(type='mmdet.PackDetInputs'),
]
meta_keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')
test_pipeline = [load, resize, annotations, dict(type='mmdet.PackDetInputs', meta_keys=meta_keys)]
tta_pipeline = [
    load,
    dict(
        type='TestTimeAug',
        transforms=[
            [dict(type='mmdet.Resize', scale=(side, side), keep_ratio=True) for side in (96, 128, 160)],
            [dict(type='mmdet.RandomFlip', prob=probability) for probability in (1.0, 0.0)],
            [annotations],
            [dict(type='mmdet.PackDetInputs', meta_keys=(*meta_keys, 'flip', 'flip_direction'))],
        ]),
]

model = dict(
    data_preprocessor=dict(batch_augments=None, non_blocking=True),
    backbone=dict(use_depthwise=False),
    neck=dict(use_depthwise=False),
    bbox_head=dict(type='mmext.YOLOXHead', num_classes=3, use_depthwise=False),
    train_cfg=dict(assigner=dict(type='mmext.BatchSimOTAAssigner')))

train_dataset = dict(
    **dataset, data_prefix=dict(img='train/'), ann_file='annotations/train.json', pipeline=train_pipeline
)
val_dataset = dict(
    **dataset, data_prefix=dict(img='val/'), ann_file='annotations/val.json', test_mode=True, pipeline=test_pipeline
)
train_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(_delete_=True, **train_dataset))
val_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(_delete_=True, **val_dataset))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file='data/shapes/annotations/val.json', classwise=True)
test_evaluator = val_evaluator

train_cfg = dict(max_epochs=9, val_interval=3)
optim_wrapper = dict(optimizer=dict(lr=0.02))
param_scheduler = [
    dict(type='mmdet.QuadraticWarmupLR', begin=0, end=1, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=2e-4, begin=1, end=9, T_max=8, convert_to_iter_based=True),
]
auto_scale_lr = dict(base_batch_size=8)
default_hooks = dict(checkpoint=dict(interval=3, max_keep_ckpts=2), logger=dict(interval=50))
custom_hooks = [
    # No YOLOXModeSwitchHook: there is no Mosaic to switch off, and its L1 loss in the last epochs would be a second box
    # loss, the same in all configs that compare box losses.
    dict(type='mmdet.SyncNormHook', priority=48),
    dict(type='EMAHook', ema_type='mmdet.ExpMomentumEMA', momentum=0.001, update_buffers=True, priority=49),
]
randomness = dict(seed=0)
