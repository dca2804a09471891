# The baseline on BCCD (blood cells: RBC 85 %, WBC 8 %, platelets 7 %): YOLOX-nano with its stock losses, on a CPU.
# It trains from scratch, so that no download is needed. Cells fill the image and have no upright position: hence no
# Mosaic, and flips in all directions. With data of your own start from a COCO checkpoint (load_from).
_base_ = 'mmdet::yolox/yolox_nano_8xb8-300e_coco.py'

dataset = dict(
    type='mmdet.CocoDataset',
    data_root='data/bccd/',
    data_prefix=dict(img='images/'),
    metainfo=dict(classes=('RBC', 'WBC', 'Platelets')),
)
load = dict(type='LoadImageFromFile')
annotations = dict(type='mmdet.LoadAnnotations', with_bbox=True)
resize = dict(type='mmdet.Resize', scale=(320, 320), keep_ratio=True)
train_pipeline = [
    load,
    annotations,
    resize,
    dict(type='mmdet.YOLOXHSVRandomAug'),
    dict(type='mmdet.RandomFlip', prob=0.75, direction=['horizontal', 'vertical', 'diagonal']),
    dict(type='mmdet.PackDetInputs'),
]
meta_keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')
test_pipeline = [load, resize, annotations, dict(type='mmdet.PackDetInputs', meta_keys=meta_keys)]
tta_pipeline = [
    load,
    dict(
        type='TestTimeAug',
        transforms=[
            [dict(type='mmdet.Resize', scale=(side, side), keep_ratio=True) for side in (256, 320, 416)],
            [dict(type='mmdet.RandomFlip', prob=probability) for probability in (1.0, 0.0)],
            [annotations],
            [dict(type='mmdet.PackDetInputs', meta_keys=(*meta_keys, 'flip', 'flip_direction'))],
        ]),
]

model = dict(
    data_preprocessor=dict(batch_augments=None, non_blocking=True),
    bbox_head=dict(type='mmext.YOLOXHead', num_classes=3),
    train_cfg=dict(assigner=dict(type='mmext.BatchSimOTAAssigner')))

val_dataset = dict(**dataset, ann_file='annotations/val.json', test_mode=True, pipeline=test_pipeline)
train_dataloader = dict(
    num_workers=2, dataset=dict(_delete_=True, **dataset, ann_file='annotations/train.json', pipeline=train_pipeline)
)
val_dataloader = dict(num_workers=2, dataset=dict(_delete_=True, **val_dataset))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file='data/bccd/annotations/val.json', classwise=True)
test_evaluator = val_evaluator

train_cfg = dict(max_epochs=60, val_interval=10)
param_scheduler = [
    dict(type='mmdet.QuadraticWarmupLR', begin=0, end=3, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=1e-4, begin=3, end=60, T_max=57, convert_to_iter_based=True),
]
auto_scale_lr = dict(base_batch_size=8)
default_hooks = dict(checkpoint=dict(interval=10, max_keep_ckpts=2), logger=dict(interval=13))
custom_hooks = [
    # No YOLOXModeSwitchHook: there is no Mosaic to switch off, and its L1 loss in the last epochs would be a second box
    # loss, the same in all configs that compare box losses.
    dict(type='mmdet.SyncNormHook', priority=48),
    dict(type='EMAHook', ema_type='mmdet.ExpMomentumEMA', momentum=0.0002, update_buffers=True, priority=49),
]
randomness = dict(seed=0)
