# The demo: the recommendation for shapes, trained for longer; less than two minutes on two CPU cores.
_base_ = './yolox_nano_recommended_1xb8-9e_shapes.py'
train_cfg = dict(max_epochs=15, val_interval=5)
param_scheduler = [_base_.param_scheduler[0], dict(_base_.param_scheduler[1], end=15)]
default_hooks = dict(checkpoint=dict(interval=5))
