# The baseline on Aquarium (fish 59 %, jellyfish 12 %, penguin 10 %, shark 8 %, puffin 5 %, stingray 4 %, starfish 2 %;
# half of the objects are under 32 px): YOLOX-nano with its stock losses, on a CPU. It trains from scratch and without
# Mosaic, like the baseline on BCCD. Most animals are upright, hence no vertical flip.
_base_ = '../_base_/yolox_nano_small.py'

data_root = 'data/aquarium/'
classes = ('fish', 'jellyfish', 'penguin', 'puffin', 'shark', 'starfish', 'stingray')
size = 320
max_epochs = 60
val_interval = 10
augmentation = [dict(type='mmdet.YOLOXHSVRandomAug'), dict(type='mmdet.RandomFlip', prob=0.5)]

# What follows from the variables above.
resize = dict(type='mmdet.Resize', scale=(size, size), keep_ratio=True)
train_pipeline = [_base_.load, _base_.annotations, resize, *augmentation, _base_.pack]
test_pipeline = [_base_.load, resize, _base_.annotations, _base_.test_pack]
tta_sides = [int(size * factor) for factor in (0.75, 1, 1.25)]
tta_sizes = [dict(type='mmdet.Resize', scale=(side, side), keep_ratio=True) for side in tta_sides]
tta_pipeline = [_base_.load, dict(type='TestTimeAug', transforms=[tta_sizes, *_base_.tta_transforms])]

dataset = dict(data_root=data_root, metainfo=dict(classes=classes))
train_dataloader = dict(dataset=dict(**dataset, pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(**dataset, pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'annotations/val.json')
test_evaluator = val_evaluator
model = dict(bbox_head=dict(num_classes=len(classes)))

# More evaluations in the last tenth show whether AP is flat by then.
train_cfg = dict(
    max_epochs=max_epochs,
    val_interval=val_interval,
    dynamic_intervals=[(max_epochs * 9 // 10, max(max_epochs // 20, 1))])
param_scheduler = [_base_.warmup, dict(_base_.cosine, end=max_epochs)]
default_hooks = dict(checkpoint=dict(interval=val_interval))
