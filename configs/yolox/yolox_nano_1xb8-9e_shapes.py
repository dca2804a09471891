# The baseline on shapes, the data set of `make demo`: stock losses, minutes on two CPU cores. The network is as narrow
# as YOLOX-nano, but has full instead of depthwise convolutions, so it is larger.
_base_ = '../_base_/yolox_nano_small.py'

data_root = 'data/shapes/'
classes = ('circle', 'triangle', 'star')
size = 128
max_epochs = 9
val_interval = 3
augmentation = [dict(type='mmdet.RandomFlip', prob=0.5)]

# What follows from the variables above.
resize = dict(type='mmdet.Resize', scale=(size, size), keep_ratio=True)
train_pipeline = [_base_.load, _base_.annotations, resize, *augmentation, _base_.pack]
test_pipeline = [_base_.load, resize, _base_.annotations, _base_.test_pack]
tta_sides = [int(size * factor) for factor in (0.75, 1, 1.25)]
tta_sizes = [dict(type='mmdet.Resize', scale=(side, side), keep_ratio=True) for side in tta_sides]
tta_pipeline = [_base_.load, dict(type='TestTimeAug', transforms=[tta_sizes, *_base_.tta_transforms])]

dataset = dict(data_root=data_root, metainfo=dict(classes=classes))
workers = dict(num_workers=0, persistent_workers=False)
train_dataloader = dict(**workers, dataset=dict(**dataset, data_prefix=dict(img='train/'), pipeline=train_pipeline))
val_dataloader = dict(**workers, dataset=dict(**dataset, data_prefix=dict(img='val/'), pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'annotations/val.json')
test_evaluator = val_evaluator
model = dict(
    backbone=dict(use_depthwise=False),
    neck=dict(use_depthwise=False),
    bbox_head=dict(num_classes=len(classes), use_depthwise=False))

train_cfg = dict(max_epochs=max_epochs, val_interval=val_interval)
default_hooks = dict(checkpoint=dict(interval=val_interval), logger=dict(interval=50))

# Few and short epochs: a shorter warm-up, a higher learning rate, and an average over fewer steps.
param_scheduler = [dict(_base_.warmup, end=1), dict(_base_.cosine, eta_min=2e-4, begin=1, end=max_epochs)]
optim_wrapper = dict(optimizer=dict(lr=0.02))
custom_hooks = [dict(_base_.custom_hooks[0], momentum=0.001), *_base_.custom_hooks[1:]]
