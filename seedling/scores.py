"""Scores answers to samples of drawn scenes: one or more metrics per task."""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from rapidfuzz.distance import Levenshtein

from finetune.datasets.wording import NUMBERS, pluralize
from finetune.evaluation.corrections import CORRECT_IOU
from finetune.evaluation.detection import compute_average_precision
from finetune.evaluation.matching import MatchCounts, polygon_iou
from finetune.evaluation.reliability import compute_auroc, compute_ece
from labels.geometry import box_iou
from labels.sample import Sample
from prompts.annotations import Annotation, Box, Polygon, Quad
from prompts.tasks import FLORENCE_TASKS
from seedling.scenes.colors import CLEAR_MARGIN, COLOR_NAMES, compute_main_color_margin
from seedling.scenes.descriptions import SIZES
from seedling.scenes.glyphs import CATEGORIES
from seedling.scenes.masks import find_best_overlap
from seedling.scenes.scene import Scene

CLEAR_COLOR_METRIC = "description: color accuracy where one color is clear"
"""A subset of another metric. It does not start with a task token, since the metrics of a task are averaged to measure
forgetting (`seedling.forgetting`)."""
_NOUNS = {form: noun for noun in CATEGORIES for form in (noun, pluralize(noun))}


@dataclass
class TaskScores:
    """Accumulates scores.

    `counts` are matches of located or named objects, `values` single scores from 0 to 1, `detections` the predicted and
    the true boxes of each image, for average precision.
    """

    counts: dict[str, MatchCounts] = field(default_factory=lambda: defaultdict(MatchCounts))
    values: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    detections: list[tuple[list[Annotation], list[Annotation]]] = field(default_factory=list)

    def add(self, sample: Sample, scene: Scene, predicted: list[Annotation]) -> None:
        """Scores one answer against the ground truth."""
        token, truth = sample.task.token, list(sample.answer)
        text = predicted[0].label if predicted else ""
        true_text = truth[0].label if truth else ""
        match token:
            case "<OD>" | "<DENSE_REGION_CAPTION>":
                self.counts[f"{token} F1@0.5"].add(predicted, truth, labeled_box_iou)
                if token == "<OD>":
                    self.detections.append((predicted, truth))
                else:
                    self.counts["<DENSE_REGION_CAPTION> box F1@0.5"].add(predicted, truth, unlabeled_box_iou)
                    self._add_dense_captions(predicted, truth)
            case "<REGION_PROPOSAL>":
                self.counts[f"{token} F1@0.5"].add(predicted, truth, unlabeled_box_iou)
            case "<CAPTION_TO_PHRASE_GROUNDING>" | "<OPEN_VOCABULARY_DETECTION>":
                if truth:
                    self.counts[f"{token} F1@0.5"].add(predicted, truth, labeled_box_iou)
                else:
                    self.values[f"{token} absent phrases rejected"].append(not predicted)
            case "<REFERRING_EXPRESSION_SEGMENTATION>" | "<REGION_TO_SEGMENTATION>":
                rings = [r for a in predicted if isinstance(a, Polygon) for r in a.polygons]
                true_rings = [r for a in truth if isinstance(a, Polygon) for r in a.polygons]
                iou = polygon_iou(rings, true_rings, (scene.width, scene.height))
                self.values[f"{token} mean IoU"].append(iou)
            case "<OCR>":
                lines = text.split("\n")
                for word in true_text.split("\n") if true_text else []:
                    self.values[f"{token} word recall"].append(word in lines)
            case "<OCR_WITH_REGION>":
                self.counts[f"{token} F1@0.5, exact text"].add(predicted, truth, labeled_quad_iou)
            case "<CAPTION>" | "<DETAILED_CAPTION>" | "<MORE_DETAILED_CAPTION>":
                self._add_caption(token, text, true_text)
            case _:
                self._add_region_text(sample, scene, text, true_text)

    def _add_caption(self, token: str, text: str, true_text: str) -> None:
        counts, true_counts = count_categories(text), count_categories(true_text)
        self.counts[f"{token} object F1"].add(list(counts), list(true_counts), lambda a, b: float(a == b))
        self.values[f"{token} count accuracy"].append(counts == true_counts)
        if token == "<MORE_DETAILED_CAPTION>" and (true_positions := count_positions(true_text)):
            common = (count_positions(text) & true_positions).total()
            self.values[f"{token} position accuracy"].append(common / true_positions.total())

    def _add_region_text(self, sample: Sample, scene: Scene, text: str, true_text: str) -> None:
        token = sample.task.token
        self.values[f"{token} exact match"].append(text == true_text)
        if token == "<REGION_TO_DESCRIPTION>":
            self._add_attributes(token, text, true_text)
            if sample.region:
                shares = find_best_overlap(scene.objects, sample.region).color_shares
                if compute_main_color_margin(shares) >= CLEAR_MARGIN:
                    self.values[CLEAR_COLOR_METRIC].append(self.values[f"{token} color accuracy"][-1])
            same_position = text.rpartition(" at the ")[2] == true_text.rpartition(" at the ")[2]
            self.values[f"{token} position accuracy"].append(same_position)
        if token == "<REGION_TO_OCR>":
            # Relative to the longer text: extra characters count like missing ones.
            similarity = Levenshtein.normalized_similarity(text, true_text)
            self.values[f"{token} character similarity"].append(similarity)

    def _add_dense_captions(self, predicted: list[Annotation], truth: list[Annotation]) -> None:
        """Scores the color and size words of each object that is located."""
        for true in truth:
            best = max(predicted, key=lambda one: unlabeled_box_iou(one, true), default=None)
            if best is not None and unlabeled_box_iou(best, true) >= CORRECT_IOU:
                self._add_attributes("<DENSE_REGION_CAPTION>", best.label, true.label)

    def _add_attributes(self, token: str, text: str, true_text: str) -> None:
        for name, words in ("color", COLOR_NAMES), ("size", SIZES):
            self.values[f"{token} {name} accuracy"].append(find_words(words, text) == find_words(words, true_text))

    def compute(self) -> dict[str, float]:
        """Returns all metrics by name, in the order of the task table."""
        metrics = {name: counts.f1 for name, counts in self.counts.items()}
        metrics |= {name: float(np.mean(values)) for name, values in self.values.items()}
        proposals = self.counts.get("<REGION_PROPOSAL> F1@0.5")
        if proposals and proposals.true_positives + proposals.false_negatives:
            metrics["<REGION_PROPOSAL> recall@0.5"] = proposals.recall
        if self.detections:
            precision = compute_average_precision(self.detections)
            metrics |= {"<OD> mAP@50": precision.ap50, "<OD> mAP@50:95": precision.ap}
            metrics = {name: value for name, value in metrics.items() if not math.isnan(value)}
        order = [*FLORENCE_TASKS, CLEAR_COLOR_METRIC.split(" ")[0]]
        metrics = dict(sorted(metrics.items(), key=lambda kv: order.index(kv[0].split(" ")[0])))
        ranking = compute_auroc(self.counts["<OD> F1@0.5"].scores) if "<OD> F1@0.5" in self.counts else math.nan
        if not math.isnan(ranking):  # JSON has no NaN
            metrics["score: AUROC of correct against wrong boxes"] = ranking
            metrics["score: ECE of boxes"] = compute_ece(self.counts["<OD> F1@0.5"].scores)
        return metrics


def count_categories(text: str) -> dict[str, int]:
    """Counts the categories that a caption names: `two dogs` → {dog: 2}."""
    counts: dict[str, int] = {}
    number = 1
    for word in re.findall(r"[a-z]+", text.lower()):
        if word in NUMBERS:
            number = NUMBERS.index(word)
        elif word in ("a", "an"):
            number = 1
        elif noun := _NOUNS.get(word):
            counts[noun] = counts.get(noun, 0) + number
            number = 1
    return counts


def count_positions(text: str) -> Counter[tuple[str, str]]:
    """Counts the positions in a paragraph: `A small red car is at the top left.` → {(car, top left): 1}."""
    return Counter(re.findall(r"(\w+) is at the ([a-z ]+)\.", text))


def find_words(words: Sequence[str], text: str) -> list[str]:
    """Returns those of `words` that the text contains."""
    return [word for word in words if re.search(rf"\b{word}\b", text)]


def unlabeled_box_iou(a: Annotation, b: Annotation) -> float:
    """Returns the IoU of two boxes; 0 if one is not a box."""
    return box_iou(a.box, b.box) if isinstance(a, Box) and isinstance(b, Box) else 0.0


def labeled_box_iou(a: Annotation, b: Annotation) -> float:
    """Returns the IoU of two boxes; 0 if one is not a box or their labels differ."""
    return unlabeled_box_iou(a, b) if a.label == b.label else 0.0


def labeled_quad_iou(a: Annotation, b: Annotation) -> float:
    """Returns the IoU of the bounding boxes of two quads; 0 if one is not a quad or their labels differ."""
    if not isinstance(a, Quad) or not isinstance(b, Quad) or a.label != b.label:
        return 0.0
    bounds = [(min(q.quad[::2]), min(q.quad[1::2]), max(q.quad[::2]), max(q.quad[1::2])) for q in (a, b)]
    return box_iou(*bounds)
