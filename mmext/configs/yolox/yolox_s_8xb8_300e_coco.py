"""YOLOX-s on COCO with its stock losses, in mmengine's new style: configs/yolox/yolox_s_8xb8-300e_coco.py.

mmdet's wheel has no new-style configs to inherit from, so everything is written out. A test compares the two styles.
"""

from mmcv.transforms import LoadImageFromFile, TestTimeAug
from mmdet.datasets import CocoDataset, MultiImageMixDataset
from mmdet.datasets.transforms import (
    FilterAnnotations,
    LoadAnnotations,
    PackDetInputs,
    Pad,
    RandomFlip,
    Resize,
    YOLOXHSVRandomAug,
)
from mmdet.engine.hooks import DetVisualizationHook, SyncNormHook, YOLOXModeSwitchHook
from mmdet.engine.schedulers import QuadraticWarmupLR
from mmdet.evaluation import CocoMetric
from mmdet.models import (
    YOLOX,
    YOLOXPAFPN,
    BatchSyncRandomResize,
    CrossEntropyLoss,
    CSPDarknet,
    DetDataPreprocessor,
    DetTTAModel,
    IoULoss,
    L1Loss,
)
from mmdet.models.layers import ExpMomentumEMA
from mmdet.visualization import DetLocalVisualizer
from mmengine.dataset import DefaultSampler
from mmengine.hooks import (
    CheckpointHook,
    DistSamplerSeedHook,
    EMAHook,
    IterTimerHook,
    LoggerHook,
    ParamSchedulerHook,
)
from mmengine.optim import ConstantLR, CosineAnnealingLR, OptimWrapper
from mmengine.runner import EpochBasedTrainLoop, LogProcessor, TestLoop, ValLoop
from mmengine.visualization import LocalVisBackend
from torch.optim import SGD

from mmext.assigners import BatchSimOTAAssigner
from mmext.heads import YOLOXHead

default_scope = 'mmdet'
size = (640, 640)
norm_cfg = dict(type='BN', momentum=0.03, eps=0.001)
act_cfg = dict(type='Swish')
nms = dict(type='nms', iou_threshold=0.65)

model = dict(
    type=YOLOX,
    data_preprocessor=dict(
        type=DetDataPreprocessor,
        pad_size_divisor=32,
        batch_augments=[
            dict(type=BatchSyncRandomResize, random_size_range=(480, 800), size_divisor=32, interval=10),
        ],
        non_blocking=True,
    ),
    backbone=dict(
        type=CSPDarknet,
        deepen_factor=0.33,
        widen_factor=0.5,
        out_indices=(2, 3, 4),
        use_depthwise=False,
        spp_kernal_sizes=(5, 9, 13),
        norm_cfg=norm_cfg,
        act_cfg=act_cfg,
    ),
    neck=dict(
        type=YOLOXPAFPN,
        in_channels=[128, 256, 512],
        out_channels=128,
        num_csp_blocks=1,
        use_depthwise=False,
        upsample_cfg=dict(scale_factor=2, mode='nearest'),
        norm_cfg=norm_cfg,
        act_cfg=act_cfg,
    ),
    bbox_head=dict(
        type=YOLOXHead,
        num_classes=80,
        in_channels=128,
        feat_channels=128,
        stacked_convs=2,
        strides=(8, 16, 32),
        use_depthwise=False,
        norm_cfg=norm_cfg,
        act_cfg=act_cfg,
        loss_cls=dict(type=CrossEntropyLoss, use_sigmoid=True, reduction='sum', loss_weight=1.0),
        loss_bbox=dict(type=IoULoss, mode='square', eps=1e-16, reduction='sum', loss_weight=5.0),
        loss_obj=dict(type=CrossEntropyLoss, use_sigmoid=True, reduction='sum', loss_weight=1.0),
        loss_l1=dict(type=L1Loss, reduction='sum', loss_weight=1.0),
    ),
    train_cfg=dict(assigner=dict(type=BatchSimOTAAssigner, center_radius=2.5)),
    test_cfg=dict(score_thr=0.01, nms=nms),
)

data_root = 'data/coco/'
backend_args = None
load = dict(type=LoadImageFromFile, backend_args=backend_args)
annotations = dict(type=LoadAnnotations, with_bbox=True)
resize = dict(type=Resize, scale=size, keep_ratio=True)
pad = dict(type=Pad, pad_to_square=True, pad_val=dict(img=(114.0, 114.0, 114.0)))
meta_keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')
train_pipeline = [
    # By name, as YOLOXModeSwitchHook compares names: it would never switch off a class.
    dict(type='Mosaic', img_scale=size, pad_val=114.0),
    dict(type='RandomAffine', scaling_ratio_range=(0.1, 2), border=(-320, -320)),
    dict(type='MixUp', img_scale=size, ratio_range=(0.8, 1.6), pad_val=114.0),
    dict(type=YOLOXHSVRandomAug),
    dict(type=RandomFlip, prob=0.5),
    resize,
    pad,
    dict(type=FilterAnnotations, min_gt_bbox_wh=(1, 1), keep_empty=False),
    dict(type=PackDetInputs),
]
test_pipeline = [load, resize, pad, annotations, dict(type=PackDetInputs, meta_keys=meta_keys)]
tta_model = dict(type=DetTTAModel, tta_cfg=dict(nms=nms, max_per_img=100))
tta_pipeline = [
    load,
    dict(
        type=TestTimeAug,
        transforms=[
            [dict(type=Resize, scale=(side, side), keep_ratio=True) for side in (640, 320, 960)],
            [dict(type=RandomFlip, prob=probability) for probability in (1.0, 0.0)],
            [pad],
            [annotations],
            [dict(type=PackDetInputs, meta_keys=(*meta_keys, 'flip', 'flip_direction'))],
        ],
    ),
]

train_dataloader = dict(
    batch_size=8,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type=DefaultSampler, shuffle=True),
    dataset=dict(
        type=MultiImageMixDataset,
        dataset=dict(
            type=CocoDataset,
            data_root=data_root,
            ann_file='annotations/instances_train2017.json',
            data_prefix=dict(img='train2017/'),
            pipeline=[load, annotations],
            filter_cfg=dict(filter_empty_gt=False, min_size=32),
            backend_args=backend_args,
        ),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=8,
    num_workers=4,
    persistent_workers=True,
    drop_last=False,
    sampler=dict(type=DefaultSampler, shuffle=False),
    dataset=dict(
        type=CocoDataset,
        data_root=data_root,
        ann_file='annotations/instances_val2017.json',
        data_prefix=dict(img='val2017/'),
        test_mode=True,
        pipeline=test_pipeline,
        backend_args=backend_args,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(
    type=CocoMetric,
    ann_file=data_root + 'annotations/instances_val2017.json',
    metric='bbox',
    backend_args=backend_args,
)
test_evaluator = val_evaluator

train_cfg = dict(type=EpochBasedTrainLoop, max_epochs=300, val_interval=10)
val_cfg = dict(type=ValLoop)
test_cfg = dict(type=TestLoop)
optim_wrapper = dict(
    type=OptimWrapper,
    optimizer=dict(type=SGD, lr=0.01, momentum=0.9, weight_decay=5e-4, nesterov=True),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0),
)
param_scheduler = [
    dict(type=QuadraticWarmupLR, by_epoch=True, begin=0, end=5, convert_to_iter_based=True),
    dict(
        type=CosineAnnealingLR,
        eta_min=5e-4,
        begin=5,
        T_max=285,
        end=285,
        by_epoch=True,
        convert_to_iter_based=True,
    ),
    dict(type=ConstantLR, by_epoch=True, factor=1, begin=285, end=300),
]
auto_scale_lr = dict(enable=False, base_batch_size=64)

default_hooks = dict(
    timer=dict(type=IterTimerHook),
    logger=dict(type=LoggerHook, interval=50),
    param_scheduler=dict(type=ParamSchedulerHook),
    checkpoint=dict(type=CheckpointHook, interval=10, max_keep_ckpts=3),
    sampler_seed=dict(type=DistSamplerSeedHook),
    visualization=dict(type=DetVisualizationHook),
)
custom_hooks = [
    dict(type=YOLOXModeSwitchHook, num_last_epochs=15, priority=48),
    dict(type=SyncNormHook, priority=48),
    dict(type=EMAHook, ema_type=ExpMomentumEMA, momentum=0.0001, update_buffers=True, priority=49),
]
env_cfg = dict(
    cudnn_benchmark=False,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'),
)
vis_backends = [dict(type=LocalVisBackend)]
visualizer = dict(type=DetLocalVisualizer, vis_backends=vis_backends, name='visualizer')
log_processor = dict(type=LogProcessor, window_size=50, by_epoch=True)
log_level = 'INFO'
load_from = None
resume = False
