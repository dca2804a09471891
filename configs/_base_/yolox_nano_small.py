# What the roots for small data sets share: YOLOX-nano with its stock losses, trained from scratch on one GPU or a CPU.
# A root adds the data, the input size, the augmentation and the length of the schedule.
_base_ = 'mmdet::yolox/yolox_nano_8xb8-300e_coco.py'

# The function of mmdet's Swish in one operation: faster, and in less memory.
silu = dict(type='SiLU', inplace=False)
model = dict(
    data_preprocessor=dict(batch_augments=None, non_blocking=True),
    backbone=dict(act_cfg=silu),
    neck=dict(act_cfg=silu),
    bbox_head=dict(type='mmext.YOLOXHead', act_cfg=silu),
    train_cfg=dict(assigner=dict(type='mmext.BatchSimOTAAssigner')))

# The pieces of a root's pipelines.
load = dict(type='LoadImageFromFile')
annotations = dict(type='mmdet.LoadAnnotations', with_bbox=True)
pack = dict(type='mmdet.PackDetInputs')
meta_keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')
test_pack = dict(type='mmdet.PackDetInputs', meta_keys=meta_keys)
tta_transforms = [
    [dict(type='mmdet.RandomFlip', prob=probability) for probability in (1.0, 0.0)],
    [annotations],
    [dict(type='mmdet.PackDetInputs', meta_keys=(*meta_keys, 'flip', 'flip_direction'))],
]

train_dataloader = dict(
    num_workers=2,
    dataset=dict(
        _delete_=True, type='mmdet.CocoDataset', data_prefix=dict(img='images/'), ann_file='annotations/train.json'))
val_dataloader = dict(
    num_workers=2,
    dataset=dict(
        _delete_=True, type='mmdet.CocoDataset', data_prefix=dict(img='images/'), ann_file='annotations/val.json',
        test_mode=True))
test_dataloader = val_dataloader
val_evaluator = dict(classwise=True)
test_evaluator = val_evaluator

# A root's param_scheduler; the cosine ends with its schedule.
warmup = dict(type='mmdet.QuadraticWarmupLR', begin=0, end=3, convert_to_iter_based=True)
cosine = dict(type='CosineAnnealingLR', eta_min=1e-4, begin=3, convert_to_iter_based=True)
auto_scale_lr = dict(base_batch_size=8)
default_hooks = dict(checkpoint=dict(max_keep_ckpts=2), logger=dict(interval=13))
custom_hooks = [
    dict(type='EMAHook', ema_type='mmdet.ExpMomentumEMA', momentum=0.0002, update_buffers=True, priority=49),
    dict(type='mmdet.SyncNormHook', priority=48),
    dict(type='mmext.ChannelsLastHook'),
    # No YOLOXModeSwitchHook: there is no Mosaic to switch off, and its L1 loss in the last epochs would be a second box
    # loss, the same in all configs that compare box losses.
]
randomness = dict(seed=0)
