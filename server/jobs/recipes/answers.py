"""Answers → findings: in the picture's pixels, under the project's labels, and what contradicts itself doubted."""

from collections.abc import Sequence
from dataclasses import dataclass

from labels.geometry import bounding_box_or_none, mirror, translate
from prompts.annotations import Annotation, Text
from prompts.tasks import AnswerKind
from server.engine.request import Result
from server.jobs.recipes.checks import takes_ontology
from server.jobs.recipes.findings import Finding
from server.jobs.recipes.ontology import agree, says
from server.jobs.recipes.overlaps import iou, same_label
from server.jobs.recipes.recipe import Recipe, RecipeStep
from server.jobs.recipes.step_prompts import StepPrompt
from server.jobs.recipes.tiles import is_cut


@dataclass(frozen=True, slots=True)
class AnswerReader:
    """Reads what `step` of `recipe` was answered about a picture of `size`."""

    recipe: Recipe
    step: RecipeStep
    size: tuple[int, int]

    def read(self, question: StepPrompt, result: Result) -> list[Finding]:
        """The findings of one answer, in its order; shapes without a point, and what the ontology drops, left out."""
        read = (self._finding(question, result, annotation) for annotation in result.annotations)
        return [finding for finding in read if finding is not None]

    def mirror_agrees(self, found: Sequence[Finding], reflected: Sequence[Finding], at: float) -> list[Finding]:
        """What was found, less or doubted where the mirror image does not show it too, at an IoU of `at`."""
        agrees = (iou(found, reflected) >= at) & same_label(found, reflected)
        return self._settled(found, ["" if row.any() else "the mirror image does not show it" for row in agrees])

    def asked_back_agrees(self, found: Sequence[Finding], answers: Sequence[Result | None]) -> list[Finding]:
        """What was found, less or doubted where its region, asked back, is called otherwise. None: not asked."""
        reasons = []
        for each, answer in zip(found, answers, strict=True):
            said = " ".join(note.label for note in answer.annotations if isinstance(note, Text)) if answer else ""
            same = agree(self.recipe.names, each.words, said) or (said and self.recipe.names.label(said) == each.label)
            told = f"its region, asked back, is {_short(said)!r}" if said else "its region, asked back, has no name"
            reasons.append("" if same else told)
        return self._settled(found, reasons)

    def _settled(self, found: Sequence[Finding], reasons: Sequence[str]) -> list[Finding]:
        pairs = list(zip(found, reasons, strict=True))
        if self.recipe.disagreement == "drop":
            return [each for each, reason in pairs if not reason]
        return [each.doubted(reason) if reason else each for each, reason in pairs]

    def _finding(self, question: StepPrompt, result: Result, annotation: Annotation) -> Finding | None:
        crop = question.ask.crop or (0, 0, *self.size)
        shape = not isinstance(annotation, Text)
        if shape and bounding_box_or_none(annotation) is None:
            return None
        words = annotation.label.strip() or (question.words if shape else "")
        called = self._called(question, words)
        if called is None:
            return None
        label, doubts = called
        if question.parent and question.parent.doubts:
            doubts.append("what it is about is doubtful")
        if not shape and result.finish == "length":
            doubts.append("the answer was cut short")
        if question.ask.mirrored:
            annotation = mirror(annotation, crop[2] - crop[0])
        annotation = translate(annotation, crop[0], crop[1]).model_copy(update={"label": label})
        box = bounding_box_or_none(annotation)
        cut = self.step.tile is not None and box is not None and is_cut(box, crop, self.size)
        return Finding(annotation, words, question.prompt, result.text, question.parent, tuple(doubts), cut)

    def _called(self, question: StepPrompt, words: str) -> tuple[str, list[str]] | None:
        """The project's label for the model's words, and what is doubtful about it; None to leave it out."""
        doubts = []
        if self.step.asked.answer_kind is AnswerKind.PHRASES and not says(question.ask.text or "", words):
            # A grounding has the phrases of its text; others are made up.
            if self.recipe.disagreement == "drop":
                return None
            doubts.append("the text that it was asked about does not say it")
        if not (self.recipe.names and words and takes_ontology(self.step)):
            return question.label or words, doubts
        label = self.recipe.names.label(words) or question.label
        if label is None and self.recipe.others == "drop":
            return None
        if label is None and self.recipe.others == "review":
            doubts.append("it is under no label of the ontology")
        return label or words, doubts


def _short(words: str) -> str:
    return words if len(words) <= 60 else f"{words[:59]}…"
