"""The ONNX file gives what torch gives, for any batch and size."""

import json

import onnx
import onnxruntime
import pytest
import torch
from detectors import CLASSES, SOFTMAX, detector
from mmcv.ops import batched_nms
from mmengine.config import Config, ConfigDict

from mmext.cli.publish import main
from mmext.deployment import onnx_export
from mmext.deployment.inference import Inferencer
from mmext.deployment.onnx_export import check_exportable, check_onnx, dense_predictions, padded, padding_color
from mmext.errors import UserError

# The export takes 20 s on an idle core.
pytestmark = [pytest.mark.timeout(900), pytest.mark.torch_can('onnx')]


@pytest.fixture(scope='module')
def exported(shapes, tmp_path_factory):
    """A folder that `mmext publish --onnx` wrote, and what it printed."""
    folder = tmp_path_factory.mktemp('onnx')
    files = detector(folder, shapes, SOFTMAX)
    main([*map(str, files), str(folder / 'out'), '--name', 'tiny', '--onnx'])
    (file,) = (folder / 'out').glob('*.onnx')
    (weights,) = (folder / 'out').glob('*.pth')
    return file, Inferencer(Config.fromfile(folder / 'out' / 'tiny.py'), str(weights), 'cpu')


def test_says_what_it_takes_and_gives(exported):
    file, _ = exported
    model = onnx.load(file)
    assert {each.domain: each.version for each in model.opset_import}[''] == 18
    values = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    assert values['images'][0] == values['boxes'][0] == values['scores'][0] == 'batch'
    assert values['images'][1] == 3 and all(isinstance(side, str) for side in values['images'][2:])
    (entry,) = model.metadata_props
    metadata = json.loads(entry.value)
    assert entry.key == 'detector' and metadata['classes'] == list(CLASSES)
    assert metadata['size_divisor'] == 32 and metadata['pad_value'] == [0, 0, 0]
    assert metadata['score_threshold'] == 0.3 and metadata['nms_iou_threshold'] == 0.65


def test_gives_the_detections_of_torch(exported, shapes):
    """With the recipe of docs/publish.md: resize, pad, threshold, NMS, and divide by the scale."""
    file, inferencer = exported
    session = onnxruntime.InferenceSession(file)
    for path in sorted((shapes / 'val').iterdir()):
        sample = inferencer.prepare(str(path))
        expected = inferencer.predict([sample])[0].pred_instances
        images = padded(sample['inputs'], inferencer.model)[None].numpy()
        boxes, scores = (torch.from_numpy(each)[0] for each in session.run(None, {'images': images}))
        scores, labels = scores.max(1)
        keep = scores >= 0.3
        found, order = batched_nms(boxes[keep], scores[keep], labels[keep], ConfigDict(type='nms', iou_threshold=0.65))
        assert len(found) == len(expected) > 0
        assert labels[keep][order].tolist() == expected.labels.tolist()
        scale = torch.tensor(sample['data_samples'].scale_factor).repeat(2)
        assert torch.allclose(found[:, :4] / scale, expected.bboxes, atol=1e-3)
        assert torch.allclose(found[:, 4], expected.scores, atol=1e-5)


def test_notices_a_file_of_other_weights(exported, shapes):
    file, inferencer = exported
    content, image = file.read_bytes(), str(shapes / 'val' / '000000.jpg')
    assert check_onnx(content, inferencer, [image]).difference < 1e-4
    with pytest.MonkeyPatch.context() as patch:
        bias = inferencer.model.bbox_head.multi_level_conv_obj[1].bias
        patch.setattr(bias, 'data', bias.data + 0.01)
        with pytest.raises(RuntimeError, match='differs from torch'):
            check_onnx(content, inferencer, [image])


def test_normalizes_as_mmdet_does(exported):
    """Padding comes after normalization in mmdet, and before it in the file."""
    _, inferencer = exported
    config = inferencer.source_config.copy()
    config.model.data_preprocessor.update(
        mean=[100.0, 110.0, 120.0], std=[50.0, 55.0, 60.0], bgr_to_rgb=True, pad_value=1
    )
    other = Inferencer(config, inferencer.checkpoint, 'cpu')
    assert padding_color(other.model) == [180, 165, 150]
    pixels = torch.randint(0, 256, (3, 50, 90), dtype=torch.uint8)
    with torch.no_grad():
        boxes, scores = onnx_export.OnnxDetector(other.model)(padded(pixels, other.model)[None])
    expected = dense_predictions(other.model, pixels[None])[0]
    assert torch.allclose(scores[0].amax(1), expected.scores, atol=1e-5)
    assert torch.allclose(boxes[0], expected.bboxes, rtol=1e-4, atol=1e-3)


def test_names_the_packages_that_are_missing(exported, monkeypatch):
    monkeypatch.setattr(onnx_export, 'find_spec', lambda name: None if name == 'onnx' else object())
    with pytest.raises(UserError, match='--onnx needs onnx: pip install onnx'):
        check_exportable(exported[1].model)
    monkeypatch.undo()
    with pytest.raises(UserError, match='a YOLOX head, but this is a Linear'):
        check_exportable(torch.nn.Linear(1, 1))
