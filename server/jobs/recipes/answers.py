"""Converts answers to findings, in pixels of the image and with labels of the ontology. Marks contradictions for
review."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from labels.dropped_labels import DropReason
from labels.geometry import bounding_box_or_none, mirror, translate
from prompts.annotations import Annotation, Text
from prompts.tasks import AnswerKind
from prompts.text import truncate
from server.engine.request import Result
from server.jobs.recipes.findings import Finding, split_dropped
from server.jobs.recipes.ontology import contains_words
from server.jobs.recipes.overlaps import compare_labels, compute_iou
from server.jobs.recipes.recipe import Recipe, RecipeStep
from server.jobs.recipes.review import PARENT_REASON, follows_parent
from server.jobs.recipes.step_prompts import StepPrompt
from server.jobs.recipes.tiles import is_cut
from server.jobs.recipes.validation import uses_ontology


@dataclass(frozen=True, slots=True)
class AnswerReader:
    """Reads the answers to the prompts of `step` about an image of `size`."""

    recipe: Recipe
    step: RecipeStep
    size: tuple[int, int]

    def read_answer(self, prompt: StepPrompt, result: Result) -> list[Finding]:
        """Returns the findings of one answer, in order, with those that the ontology drops, and then what the answer
        left out, dropped unless the ontology has it. Leaves out shapes without points."""
        findings = (self._to_finding(prompt, result, annotation) for annotation in result.annotations)
        left_out = (self._to_finding(prompt, result, annotation) for annotation in result.left_out)
        return [finding for finding in (*findings, *map(self._drop_other, left_out)) if finding is not None]

    def check_mirrored(self, findings: Sequence[Finding], mirrored: Sequence[Finding], min_iou: float) -> list[Finding]:
        """Drops findings that are not found in the mirrored image, at an IoU of `min_iou`, or marks them for review.
        Those that are dropped already stay as they are."""
        findings, dropped = split_dropped(findings)
        mirrored, _ = split_dropped(mirrored)
        agrees = (compute_iou(findings, mirrored) >= min_iou) & compare_labels(findings, mirrored)
        reasons = ["" if row.any() else "not found in the mirrored image" for row in agrees]
        return [*self._handle_disagreement(findings, reasons), *dropped]

    def check_labels(self, findings: Sequence[Finding], answers: Sequence[Result | None]) -> list[Finding]:
        """Drops findings whose region has another label in the check prompt's answer, or marks them for review. The
        answer is None for a region that cannot be checked."""
        index, reasons = self.recipe.ontology_index, []
        for finding, answer in zip(findings, answers, strict=True):
            said = (*answer.annotations, *answer.left_out) if answer else ()
            words = " ".join(each.label for each in said if isinstance(each, Text))
            agrees = index.is_same_object(finding.words, words) or (words and index.find_label(words) == finding.label)
            reason = f"the check returned {truncate(words)!r}" if words else "the check returned no label"
            reasons.append("" if agrees else reason)
        return self._handle_disagreement(findings, reasons)

    def _drop_other(self, finding: Finding | None) -> Finding | None:
        if finding is None or self.recipe.ontology_index.find_label(finding.words) is not None:
            return finding
        return replace(finding, dropped=DropReason.NO_CLASS)

    def _handle_disagreement(self, findings: Sequence[Finding], reasons: Sequence[str]) -> list[Finding]:
        pairs = list(zip(findings, reasons, strict=True))
        if self.recipe.disagreement == "drop":
            contradicted = DropReason.CONTRADICTED
            return [replace(finding, dropped=contradicted) if reason else finding for finding, reason in pairs]
        return [finding.with_review_reason(reason) if reason else finding for finding, reason in pairs]

    def _to_finding(self, prompt: StepPrompt, result: Result, annotation: Annotation) -> Finding | None:
        crop = prompt.model_prompt.crop or (0, 0, *self.size)
        is_shape = not isinstance(annotation, Text)
        if is_shape and bounding_box_or_none(annotation) is None:
            return None
        words = annotation.label.strip() or (prompt.words if is_shape else "")
        label, reasons, dropped = self._find_label(prompt, words)
        if prompt.parent and prompt.parent.review_reasons and follows_parent(self.recipe, self.step):
            reasons.append(PARENT_REASON)
        if not is_shape and result.finish == "length":
            reasons.append("the answer was truncated")
        if prompt.model_prompt.mirrored:
            annotation = mirror(annotation, crop[2] - crop[0])
        annotation = translate(annotation, crop[0], crop[1]).model_copy(update={"label": label})
        box = bounding_box_or_none(annotation)
        cut = self.step.tile is not None and box is not None and is_cut(box, crop, self.size)
        return Finding(annotation, words, prompt.prompt, result.text, prompt.parent, tuple(reasons), cut, dropped)

    def _find_label(self, prompt: StepPrompt, words: str) -> tuple[str, list[str], DropReason | None]:
        """Returns the label for the model's words, reasons for review, and the reason to drop the annotation."""
        reasons: list[str] = []
        is_grounding = self.step.task_definition.answer_kind is AnswerKind.PHRASES
        if is_grounding and not contains_words(prompt.model_prompt.text or "", words):
            # Grounding returns phrases of its text; other phrases are hallucinated.
            if self.recipe.disagreement == "drop":
                return words, reasons, DropReason.CONTRADICTED
            reasons.append("the text of the prompt does not contain this phrase")
        if not (self.recipe.ontology_index and words and uses_ontology(self.step)):
            return prompt.label or words, reasons, None
        label = self.recipe.ontology_index.find_label(words) or prompt.label
        if label is None and self.recipe.unmatched == "drop":
            return words, reasons, DropReason.NO_CLASS
        if label is None and self.recipe.unmatched == "review":
            reasons.append("no phrase of the ontology matches")
        return label or words, reasons, None
