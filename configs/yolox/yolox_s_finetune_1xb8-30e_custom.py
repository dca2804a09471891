# Fine-tune YOLOX-s from COCO on your own data, on one GPU. Copy this file, and change the five variables at its top.
_base_ = __import__('mmext').config('yolox/yolox_s_8xb8-300e_coco.py')

# The names of the classes, in the order of `categories` in the annotation files.
classes = ('RBC', 'WBC', 'Platelets')
# A folder with images/, annotations/train.json and annotations/val.json. Pascal VOC: tools/voc_to_coco.py.
data_root = 'data/bccd/'
# A checkpoint of YOLOX-s on COCO: a file, or an address, from which it is downloaded once.
checkpoint = 'https://download.openmmlab.com/mmdetection/v2.0/yolox/yolox_s_8x8_300e_coco/yolox_s_8x8_300e_coco_20211121_095711-4592a793.pth'
# COCO's 0.01 is for 64 images in each step, 8 on each of 8 GPUs. This is for the 8 images of one GPU.
lr = 0.01 * 8 / 64
max_epochs = 30

# What follows from the variables. Mosaic and MixUp end before the last sixth, and the L1 loss begins, as in mmdet.
last_epochs = max(max_epochs // 6, 1)
val_interval = max(max_epochs // 10, 1)
load_from = checkpoint
model = dict(bbox_head=dict(num_classes=len(classes)))

metainfo = dict(classes=classes)
train_dataloader = dict(dataset=dict(dataset=dict(
    data_root=data_root, metainfo=metainfo, ann_file='annotations/train.json', data_prefix=dict(img='images/'))))
val_dataloader = dict(dataset=dict(
    data_root=data_root, metainfo=metainfo, ann_file='annotations/val.json', data_prefix=dict(img='images/')))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'annotations/val.json', classwise=True)
test_evaluator = val_evaluator

train_cfg = dict(max_epochs=max_epochs, val_interval=val_interval)
optim_wrapper = dict(optimizer=dict(lr=lr))
# With --auto-scale-lr another batch size, or more GPUs, scales the learning rate.
auto_scale_lr = dict(base_batch_size=8)
cosine_end = max(max_epochs - last_epochs, 2)
param_scheduler = [
    dict(type='mmdet.QuadraticWarmupLR', by_epoch=True, begin=0, end=1, convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR', by_epoch=True, begin=1, end=cosine_end, eta_min=lr * 0.05,
        convert_to_iter_based=True),
]
default_hooks = dict(
    checkpoint=dict(interval=val_interval, max_keep_ckpts=2, save_best='coco/bbox_mAP'), logger=dict(interval=10))
custom_hooks = [dict(_base_.custom_hooks[0], num_last_epochs=last_epochs), *_base_.custom_hooks[1:]]
