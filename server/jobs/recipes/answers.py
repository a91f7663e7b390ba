"""Answers → findings: in the picture's pixels, under the project's labels, and what contradicts itself doubted."""

from collections.abc import Sequence
from dataclasses import dataclass

from prompts.annotations import Annotation, Text
from server.engine.request import Result
from server.jobs.recipes.checks import takes_ontology
from server.jobs.recipes.findings import Finding
from server.jobs.recipes.ontology import Ontology, agree
from server.jobs.recipes.overlaps import iou, same_label
from server.jobs.recipes.questions import Question
from server.jobs.recipes.recipe import Recipe, Step
from server.jobs.recipes.shapes import bounds, mirrored, moved
from server.jobs.recipes.tiles import is_cut


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads what `step` of `recipe` was answered about a picture of `size`."""

    recipe: Recipe
    step: Step
    size: tuple[int, int]
    ontology: Ontology

    def read(self, question: Question, result: Result) -> list[Finding]:
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
            same = agree(self.ontology, each.words, said) or (said and self.ontology.label(said) == each.label)
            told = f"its region, asked back, is {_short(said)!r}" if said else "its region, asked back, has no name"
            reasons.append("" if same else told)
        return self._settled(found, reasons)

    def _settled(self, found: Sequence[Finding], reasons: Sequence[str]) -> list[Finding]:
        pairs = list(zip(found, reasons, strict=True))
        if self.recipe.disagreement == "drop":
            return [each for each, reason in pairs if not reason]
        return [each.doubted(reason) if reason else each for each, reason in pairs]

    def _finding(self, question: Question, result: Result, annotation: Annotation) -> Finding | None:
        ask, whole_text = question.ask, isinstance(annotation, Text)
        crop = ask.crop or (0, 0, *self.size)
        if not whole_text and bounds(annotation) is None:
            return None
        if ask.mirrored:
            annotation = mirrored(annotation, crop[2] - crop[0])
        annotation = moved(annotation, crop[0], crop[1])
        words = annotation.label.strip() or ("" if whole_text else question.words)
        label, doubts = words, []
        if question.parent and question.parent.doubts:
            doubts.append("what it is about is doubtful")
        if self.ontology and takes_ontology(self.recipe, self.step) and words:
            named = self.ontology.label(words) or question.label
            if named is None and self.recipe.others == "drop":
                return None
            if named is None and self.recipe.others == "review":
                doubts.append("it is under no label of the ontology")
            label = named or words
        elif not annotation.label.strip():
            label = question.label or words
        if whole_text and result.finish == "length":
            doubts.append("the answer was cut short")
        if annotation.label != label:
            annotation = annotation.model_copy(update={"label": label})
        box = bounds(annotation)
        cut = self.step.tile is not None and box is not None and is_cut(box, crop, self.size)
        return Finding(annotation, words, question.prompt, result.text, question.parent, tuple(doubts), cut)


def _short(words: str) -> str:
    return words if len(words) <= 60 else f"{words[:59]}…"
