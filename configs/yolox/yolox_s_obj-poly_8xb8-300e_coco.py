# Poly-1 focal loss for the objectness: focal loss plus a term that adds weight to hard examples.
_base_ = './yolox_s_8xb8-300e_coco.py'
model = dict(
    bbox_head=dict(
        loss_obj=dict(
            _delete_=True, type='mmext.PolyFocalLoss', epsilon=1.0, alpha=0.25, gamma=2.0, reduction='sum')))
