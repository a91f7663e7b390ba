"""What a step asks about one picture."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, floor

from labels.geometry import Rectangle, clip_box
from prompts.tasks import TASKS, AnswerKind, InputKind, PromptError
from server.jobs.model_prompts import ModelPrompt
from server.jobs.recipes.findings import Finding
from server.jobs.recipes.recipe import CATEGORY, ONTOLOGY, Recipe, RecipeStep
from server.jobs.recipes.tiles import Crop, crops

_LONGEST = 1000  # letters of an earlier step's text: models read some 400 tokens, and an answer can be longer


@dataclass(frozen=True, slots=True)
class StepPrompt:
    """An ask, and what its answers are by it. `prompt`: the words that the model reads; `words`, `label`: what shapes
    without words of their own are called, by the model and by the project (None: the ontology says)."""

    ask: ModelPrompt
    prompt: str
    parent: Finding | None = None
    words: str = ""
    label: str | None = None

    def in_mirror(self) -> "StepPrompt":
        return replace(self, ask=replace(self.ask, mirrored=True))


def questions(
    recipe: Recipe, step: RecipeStep, size: tuple[int, int], found: Mapping[str, Sequence[Finding]]
) -> list[StepPrompt]:
    """All that `step` asks about a picture of `size`, after what the steps before it found, in a fixed order. A region
    without area, or words that cannot be asked, are left out."""
    who = recipe.answering(step, step.task)
    asked = (
        _question(ModelPrompt(step.asked, text, region, who, crop), size, parent, words, label)
        for parent, region, views in _targets(step, size, found)
        for text, words, label in _texts(recipe, step, parent, found)
        for crop in views
    )
    return [question for question in asked if question is not None]


def asked_back(recipe: Recipe, step: RecipeStep, found: Finding, size: tuple[int, int]) -> ModelPrompt | None:
    """What a finding's region is called; None where it has no area."""
    region = clip_box(found.box, size) if found.box else None
    return ModelPrompt(TASKS[CATEGORY], region=region, adapter=recipe.answering(step, CATEGORY)) if region else None


def _question(
    ask: ModelPrompt, size: tuple[int, int], parent: Finding | None, words: str, label: str | None
) -> StepPrompt | None:
    shown = (ask.crop[2] - ask.crop[0], ask.crop[3] - ask.crop[1]) if ask.crop else size
    try:
        return StepPrompt(ask, ask.task.build_prompt(ask.text, ask.region, shown), parent, words, label)
    except PromptError:  # such as a caption that spells a control token
        return None


def _targets(
    step: RecipeStep, size: tuple[int, int], found: Mapping[str, Sequence[Finding]]
) -> Iterator[tuple[Finding | None, Rectangle | None, Sequence[Crop | None]]]:
    """What is asked about: a finding's region, given to tasks that take one and cut out for the others; or all of the
    picture, and its tiles."""
    if step.each is None:
        yield None, None, [None, *(crops(size, step.tile) if step.tile else ())]
        return
    for parent in found[step.each]:
        if parent.box is not None and (region := clip_box(parent.box, size)):
            takes_region = step.asked.input_kind is InputKind.REGION
            yield parent, region if takes_region else None, [None if takes_region else _cut_out(region)]


def _texts(
    recipe: Recipe, step: RecipeStep, parent: Finding | None, found: Mapping[str, Sequence[Finding]]
) -> Iterator[tuple[str | None, str, str | None]]:
    """What text is asked with, and what the answer's shapes are called by the model and by the project."""
    if step.asked.input_kind is InputKind.REGION and step.shapes and parent is not None:
        yield None, parent.words, parent.label
    elif step.text is None:
        yield None, "", None
    elif step.reference is None:
        yield step.text, _own(step, step.text), None
    elif step.reference == ONTOLOGY:
        for phrase, label in recipe.names.phrases:
            yield phrase, phrase, label if step.shapes else None
    else:
        said = found[step.reference]
        if parent is not None and step.each in (step.reference, recipe.step(step.reference).each):
            said = [each for each in said if each is parent or each.parent is parent]  # a region's own words
        for words in dict.fromkeys(_short(each.words) for each in said):
            if words:
                yield words, _own(step, words), None


def _own(step: RecipeStep, text: str) -> str:
    """What a shape without words is, where it was asked for by `text`: a caption's phrases are not the caption."""
    return "" if step.asked.answer_kind is AnswerKind.PHRASES else text


def _short(words: str) -> str:
    words = words.strip()
    return words if len(words) <= _LONGEST else words[:_LONGEST].rsplit(maxsplit=1)[0]


def _cut_out(region: Rectangle) -> Crop:
    return floor(region[0]), floor(region[1]), ceil(region[2]), ceil(region[3])
