"""Predict with a trained detector, and publish it for use without mmext; these modules need mmdet.

* :mod:`~mmext.deployment.weights`: the weights and the class names of a checkpoint.
* :mod:`~mmext.deployment.inference`: mmdet's DetInferencer for many images, some of which may be unreadable.
* :mod:`~mmext.deployment.results`: detections in COCO's result format.
* :mod:`~mmext.deployment.conversion`: a config and weights for mmdet alone.
* :mod:`~mmext.deployment.publishing`: the folder of a published model, and the check of its predictions.
* :mod:`~mmext.deployment.onnx_export`: an ONNX file, and the check of its outputs.
"""
