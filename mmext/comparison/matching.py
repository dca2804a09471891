"""Match the detections of one run with the ground truth, once; read AP, errors and counts off the matches.

AP is pycocotools': its matches, its 101 recall thresholds, at most 100 detections per image and class. Only the sum
over the images is done here, since the bootstrap needs it for thousands of weightings of the same images.
"""

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

RECALLS = COCOeval(iouType='bbox').params.recThrs
IOUS = COCOeval(iouType='bbox').params.iouThrs
# Of a detection; loadRes adds others to the dicts that it is given.
KEYS = ('image_id', 'category_id', 'bbox', 'score')
SIZES = {'APs': 'small', 'APm': 'medium', 'APl': 'large'}
# Of outcomes: detections and objects below it are not paired.
MATCH_IOU = 0.5
# Resamples that are weighted at once: their counts of one class then stay in the cache.
CHUNK = 64


@dataclass(frozen=True)
class Outcome:
    """One box of an image after matching.

    Attributes:
        box: x, y, width, height in pixels.
        truth: Label of the object; None: there is none, a false alarm.
        label: Label of the detection; None: there is none, a missed object.
        score: Score of the detection.
    """

    box: tuple[float, float, float, float]
    truth: int | None = None
    label: int | None = None
    score: float | None = None

    @property
    def kind(self) -> str:
        """`correct`, `wrong class`, `false` or `missed`."""
        if self.truth is None:
            return 'false'
        if self.label is None:
            return 'missed'
        return 'correct' if self.truth == self.label else 'wrong class'


class GroundTruth:
    """The annotations of the validation data, in the order of the classes that the detector knows.

    Args:
        path: A COCO file.
        classes: Names of the classes, in display order.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not a COCO file, or lacks a class.
    """

    def __init__(self, path: Path, classes: Sequence[str]):
        with contextlib.redirect_stdout(io.StringIO()):
            try:
                self.coco = COCO(str(path))
            except (KeyError, TypeError, AssertionError, ValueError) as error:
                raise ValueError(f'{path} is not a COCO annotation file ({error})') from error
        ids = {category['name']: category['id'] for category in self.coco.dataset.get('categories', [])}
        if absent := [name for name in classes if name not in ids]:
            raise ValueError(f'{path} has no category {absent[0]!r}: its categories are {", ".join(ids)}')
        self.classes = tuple(classes)
        self.categories = [ids[name] for name in classes]
        self.images = sorted(self.coco.getImgIds())
        self.position = {image: position for position, image in enumerate(self.images)}
        self.label = {category: label for label, category in enumerate(self.categories)}

    def objects(self, image: int) -> list[dict]:
        """The annotations of an image, of these classes."""
        return self.coco.loadAnns(self.coco.getAnnIds([image], self.categories))


@dataclass(frozen=True)
class Ranking:
    """The detections of one class and one range of object sizes, by descending score, with what each of them matched.

    Attributes:
        image: Position of the image of each detection, (D,).
        score: Score of each detection, (D,).
        hit: Whether it matches an object, at each IoU threshold, (T, D).
        ignored: Whether it counts neither as hit nor as false, (T, D): outside the range of sizes, or on a crowd.
        objects: Number of objects in each image, (I,).
    """

    image: NDArray[np.intp]
    score: NDArray[np.float64]
    hit: NDArray[np.bool_]
    ignored: NDArray[np.bool_]
    objects: NDArray[np.int64]

    @classmethod
    def from_evaluation(cls, records: Sequence[dict | None]) -> 'Ranking':
        """Join what `COCOeval.evaluate` found in each image, in the order of the images."""
        present = [(position, record) for position, record in enumerate(records) if record is not None]
        objects = np.zeros(len(records), np.int64)
        for position, record in present:
            objects[position] = np.count_nonzero(np.asarray(record['gtIgnore']) == 0)
        if not present:
            nothing = np.zeros((len(IOUS), 0), bool)
            return cls(np.zeros(0, np.intp), np.zeros(0), nothing, nothing, objects)
        score = np.concatenate([record['dtScores'] for _, record in present]).astype(float)
        image = np.concatenate([np.full(len(record['dtScores']), position, np.intp) for position, record in present])
        hit = np.concatenate([record['dtMatches'] for _, record in present], 1).astype(bool)
        ignored = np.concatenate([record['dtIgnore'] for _, record in present], 1).astype(bool)
        # pycocotools' order of equal scores.
        order = np.argsort(-score, kind='mergesort')
        return cls(image[order], score[order], (hit & ~ignored)[:, order], ignored[:, order], objects)

    def average_precision(self, weights: NDArray[np.int32]) -> NDArray[np.float64]:
        """AP at each IoU threshold when each image counts as often as its weight says.

        It equals pycocotools' AP of a data set that holds each image that many times.

        Args:
            weights: How often each of B resamples holds each image, (B, I).

        Returns:
            AP in [0, 1], (T, B); NaN where a resample has no object of the class.
        """
        objects = weights @ self.objects
        result = np.zeros((len(self.hit), len(weights)))
        for counted, thresholds in self._counted:
            detected = np.cumsum(weights[:, self.image[counted]], 1, dtype=np.int32)
            for threshold in thresholds:
                hits = np.flatnonzero(self.hit[threshold, counted])
                found = np.cumsum(weights[:, self.image[counted[hits]]], 1, dtype=np.int32)
                result[threshold] = _area_under(found, detected[:, hits], objects)
        return np.where(objects > 0, result, np.nan)

    @cached_property
    def _counted(self) -> list[tuple[NDArray[np.intp], list[int]]]:
        """The detections that count, and the thresholds at which these do.

        Without crowds and size limits nothing is ignored, and all thresholds share one sum.
        """
        thresholds: dict[bytes, list[int]] = {}
        for threshold, ignored in enumerate(self.ignored):
            thresholds.setdefault(ignored.tobytes(), []).append(threshold)
        return [(np.flatnonzero(~self.ignored[group[0]]), group) for group in thresholds.values()]


def _area_under(
    found: NDArray[np.int32], detected: NDArray[np.int32], objects: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Mean of the interpolated precision over the 101 recall thresholds.

    Between two hits the precision only falls, so that its envelope needs the hits alone: hit j answers for the
    recall thresholds above the recall before it, up to its own.

    Args:
        found: Number of objects found down to each hit, (B, H).
        detected: Number of detections down to each hit, (B, H).
        objects: Number of objects, (B,).
    """
    precision = found / np.maximum(detected, 1)
    envelope = np.maximum.accumulate(precision[:, ::-1], 1)[:, ::-1]
    recall = found / np.maximum(objects, 1)[:, None]
    reached = np.searchsorted(RECALLS, recall, side='right')
    return (envelope * np.diff(reached, axis=1, prepend=0)).sum(1) / len(RECALLS)


class Matches:
    """The detections of one run, matched with the ground truth.

    Args:
        truth: The ground truth.
        detections: COCO's result format: `image_id`, `category_id`, `bbox` as (x, y, width, height), `score`.

    Raises:
        ValueError: If a detection is on an image that the ground truth does not have.
    """

    def __init__(self, truth: GroundTruth, detections: Sequence[Mapping]):
        if foreign := {detection['image_id'] for detection in detections} - set(truth.images):
            raise ValueError(f'it has detections on image {min(foreign)}, which the annotations do not have')
        self.truth = truth
        evaluation = self._evaluate(detections)
        self.on_image = {image: evaluation.cocoDt.imgToAnns.get(image, []) for image in truth.images}
        self.precision = self._precision(evaluation)
        self.rankings = {
            size: self._rankings(evaluation, area) for area, size in enumerate(evaluation.params.areaRngLbl)
        }

    def _evaluate(self, detections: Sequence[Mapping]) -> COCOeval:
        with contextlib.redirect_stdout(io.StringIO()):
            # loadRes refuses an empty list.
            found = (
                self.truth.coco.loadRes([{key: found[key] for key in KEYS} for found in detections])
                if detections
                else COCO()
            )
            evaluation = COCOeval(self.truth.coco, found, 'bbox')
            evaluation.params.catIds = self.truth.categories
            evaluation.params.imgIds = self.truth.images
            evaluation.params.maxDets = [100]
            evaluation.evaluate()
            evaluation.accumulate()
        return evaluation

    def _columns(self, evaluation: COCOeval) -> list[int]:
        """The position of each class among the categories, which pycocotools sorts."""
        return [list(evaluation.params.catIds).index(category) for category in self.truth.categories]

    def _precision(self, evaluation: COCOeval) -> NDArray[np.float64]:
        """At IoU 0.5 and each of the 101 recall thresholds, (K, 101); NaN for a class without objects."""
        precision = evaluation.eval['precision'][0, :, :, 0, 0].T[self._columns(evaluation)]
        return np.where(precision < 0, np.nan, precision)

    def _rankings(self, evaluation: COCOeval, area: int) -> list[Ranking]:
        images, areas = len(evaluation.params.imgIds), len(evaluation.params.areaRng)
        starts = [(column * areas + area) * images for column in self._columns(evaluation)]
        return [Ranking.from_evaluation(evaluation.evalImgs[start : start + images]) for start in starts]

    def scores(self, weights: NDArray[np.int32]) -> dict[str, NDArray[np.float64]]:
        """The metrics of `result.json` for each weighting of the images; NaN where a resample has no such object.

        Args:
            weights: How often each of B resamples holds each image, (B, I).
        """
        chunks = [self._scores(weights[start : start + CHUNK]) for start in range(0, len(weights), CHUNK)]
        return {metric: np.concatenate([chunk[metric] for chunk in chunks]) for metric in chunks[0]}

    def _scores(self, weights: NDArray[np.int32]) -> dict[str, NDArray[np.float64]]:
        at = {
            size: np.stack([ranking.average_precision(weights) for ranking in rankings])
            for size, rankings in self.rankings.items()
        }
        everything = at['all']
        return {
            'AP': _mean(everything),
            'AP50': _mean(everything[:, [0]]),
            'AP75': _mean(everything[:, [5]]),
            **{metric: _mean(at[size]) for metric, size in SIZES.items()},
            **{f'AP {name}': _mean(everything[[label]]) for label, name in enumerate(self.truth.classes)},
        }

    @cached_property
    def best_threshold(self) -> float:
        """The score threshold with the highest F1 at IoU 0.5, averaged over the classes; a multiple of 0.01."""
        thresholds = np.linspace(0, 1, 101)
        curves = [_f1_curve(ranking, thresholds) for ranking in self.rankings['all'] if ranking.objects.any()]
        return float(thresholds[np.argmax(np.mean(curves, 0))]) if curves else 0.0

    @cached_property
    def outcomes(self) -> dict[int, list[Outcome]]:
        """What became of each detection above :attr:`best_threshold`, and of each object, by image.

        Detections and objects of any class are paired one to one by descending IoU, from 0.5 up. Crowds are no objects,
        and a detection that lies on one by half its area is left out.
        """
        return {image: self._outcomes(image) for image in self.truth.images}

    def _outcomes(self, image: int) -> list[Outcome]:
        things = self.truth.objects(image)
        crowds = [thing for thing in things if thing.get('iscrowd')]
        objects = [thing for thing in things if not thing.get('iscrowd')]
        found = [box for box in self.on_image[image] if box['score'] >= self.best_threshold]
        partner = _pair(_overlaps(found, objects))
        ignored = (_overlaps(found, crowds) >= MATCH_IOU).any(1)
        detections = [
            Outcome(
                tuple(box['bbox']),
                self._label(objects[partner[position]]) if position in partner else None,
                self._label(box),
                box['score'],
            )
            for position, box in enumerate(found)
            if position in partner or not ignored[position]
        ]
        missed = [thing for position, thing in enumerate(objects) if position not in partner.values()]
        return detections + [Outcome(tuple(thing['bbox']), self._label(thing)) for thing in missed]

    def _label(self, box: Mapping) -> int:
        return self.truth.label[box['category_id']]

    def confusion(self) -> NDArray[np.int64]:
        """Counts of :attr:`outcomes`, (C + 1, C + 1): rows are true classes, columns predicted; the last is nothing."""
        nothing = len(self.truth.classes)
        counts = np.zeros((nothing + 1, nothing + 1), np.int64)
        for outcome in (outcome for outcomes in self.outcomes.values() for outcome in outcomes):
            row = nothing if outcome.truth is None else outcome.truth
            counts[row, nothing if outcome.label is None else outcome.label] += 1
        return counts

    def f1(self) -> NDArray[np.float64]:
        """F1 of each image, from :attr:`outcomes`, (I,); 1 where there is neither object nor detection."""
        return np.array([_f1_of(outcomes) for outcomes in self.outcomes.values()])


def _mean(ap: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over classes and thresholds, (K, T, B) -> (B,); a class without objects does not count."""
    there = np.isfinite(ap)
    count = there.sum((0, 1))
    total = np.where(there, ap, 0).sum((0, 1))
    return np.divide(total, count, out=np.full(len(count), np.nan), where=count > 0)


def _f1_curve(ranking: Ranking, thresholds: NDArray[np.float64]) -> NDArray[np.float64]:
    """F1 at IoU 0.5 of the detections at or above each score threshold."""
    counted = ranking.score[~ranking.ignored[0]]
    hits = ranking.score[ranking.hit[0]]
    detected, found = (np.searchsorted(-scores, -thresholds, side='right') for scores in (counted, hits))
    return 2 * found / (detected + ranking.objects.sum())


def _f1_of(outcomes: Sequence[Outcome]) -> float:
    correct = sum(outcome.kind == 'correct' for outcome in outcomes)
    boxes = sum((outcome.truth is not None) + (outcome.label is not None) for outcome in outcomes)
    return 2 * correct / boxes if boxes else 1.0


def _overlaps(found: Sequence[Mapping], objects: Sequence[Mapping]) -> NDArray[np.float64]:
    """IoU of each detection with each object, (D, G); with a crowd, the share of the detection that lies on it."""
    if not found or not objects:
        return np.zeros((len(found), len(objects)))
    boxes = [[box['bbox'] for box in group] for group in (found, objects)]
    return np.asarray(mask.iou(*boxes, [int(thing.get('iscrowd', 0)) for thing in objects]))


def _pair(iou: NDArray[np.float64]) -> dict[int, int]:
    """Pair rows and columns one to one by descending IoU, from :data:`MATCH_IOU` up: column of each paired row."""
    partner: dict[int, int] = {}
    for row, column in sorted(zip(*np.nonzero(iou >= MATCH_IOU)), key=lambda pair: -iou[pair]):
        if row not in partner and column not in partner.values():
            partner[int(row)] = int(column)
    return partner
