"""The prompts of a step about one image."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, floor

from labels.geometry import Rectangle, clip_box
from prompts.class_texts import split_classes
from prompts.tasks import TASKS, AnswerKind, InputKind, PromptError
from server.jobs.model_prompts import ModelPrompt
from server.jobs.recipes.class_lists import find_class_list
from server.jobs.recipes.findings import Finding
from server.jobs.recipes.recipe import CATEGORY, ONTOLOGY, Recipe, RecipeStep
from server.jobs.recipes.tiles import Crop, split_into_tiles

# Characters of an earlier step's text. Models read about 400 tokens, and an answer can be longer.
_MAX_TEXT = 1000


@dataclass(frozen=True, slots=True)
class StepPrompt:
    """A prompt, and how to read its answer.

    `prompt` is the text that the model reads. Shapes without words of their own get `words` as the model's words, and
    `label` as their label; None means that the ontology decides.
    """

    model_prompt: ModelPrompt
    prompt: str
    parent: Finding | None = None
    words: str = ""
    label: str | None = None

    def mirror(self) -> "StepPrompt":
        """Returns the same prompt about the mirrored image."""
        return replace(self, model_prompt=replace(self.model_prompt, mirrored=True))


def build_prompts(
    recipe: Recipe, step: RecipeStep, size: tuple[int, int], findings: Mapping[str, Sequence[Finding]]
) -> Iterator[StepPrompt]:
    """Yields all prompts of `step` about an image of `size`, in a fixed order.

    `findings` are those of the earlier steps. Regions without area and invalid texts are skipped.
    """
    adapter, class_list = recipe.get_adapter(step, step.task), find_class_list(recipe, step, step.task)
    for parent, region, crops in _iter_targets(step, size, findings):
        for text, words, label in _iter_texts(recipe, step, parent, findings):
            for crop in crops:
                model_prompt = ModelPrompt(step.task_definition, text, region, adapter, crop, class_list=class_list)
                if (prompt := _build_prompt(model_prompt, size, parent, words, label)) is not None:
                    yield prompt


def build_check_prompts(
    recipe: Recipe, step: RecipeStep, findings: Sequence[Finding], size: tuple[int, int]
) -> list[ModelPrompt | None]:
    """Returns the prompt for the label of each finding's region; None if it has no area."""
    adapter, class_list = recipe.get_adapter(step, CATEGORY), find_class_list(recipe, step, CATEGORY)
    regions = [clip_box(finding.box, size) if finding.box else None for finding in findings]
    return [
        ModelPrompt(TASKS[CATEGORY], region=region, adapter=adapter, class_list=class_list) if region else None
        for region in regions
    ]


def _build_prompt(
    prompt: ModelPrompt, size: tuple[int, int], parent: Finding | None, words: str, label: str | None
) -> StepPrompt | None:
    crop = prompt.crop
    view_size = (crop[2] - crop[0], crop[3] - crop[1]) if crop else size
    try:
        text = prompt.task.build_prompt(prompt.text, prompt.region, view_size)
    except PromptError:  # such as a caption with a control token
        return None
    return StepPrompt(prompt, text, parent, words, label)


def _iter_targets(
    step: RecipeStep, size: tuple[int, int], findings: Mapping[str, Sequence[Finding]]
) -> Iterator[tuple[Finding | None, Rectangle | None, Sequence[Crop | None]]]:
    """Yields what the prompts are about: a parent finding, its region, and crops (None: the whole image).

    Tasks with a region input get the parent's region; other tasks get a crop of it. Without `for_each`, the crops are
    the whole image and its tiles.
    """
    if step.for_each is None:
        yield None, None, [None, *(split_into_tiles(size, step.tile) if step.tile else ())]
        return
    for parent in findings[step.for_each]:
        if parent.box is not None and (region := clip_box(parent.box, size)):
            takes_region = step.task_definition.input_kind is InputKind.REGION
            yield parent, region if takes_region else None, [None if takes_region else _to_crop(region)]


def _iter_texts(
    recipe: Recipe, step: RecipeStep, parent: Finding | None, findings: Mapping[str, Sequence[Finding]]
) -> Iterator[tuple[str | None, str, str | None]]:
    """Yields the text of each prompt, and the words and the label for shapes without words of their own."""
    if step.task_definition.input_kind is InputKind.REGION and step.finds_shapes and parent is not None:
        yield None, parent.words, parent.label
    elif step.text is None:
        yield None, "", None
    elif step.reference is None:
        for text in split_classes(step.task_definition, step.text) or (step.text,):
            yield text, _get_default_words(step, text), None
    elif step.reference == ONTOLOGY:
        for phrase, label in recipe.ontology_index.phrases:
            yield phrase, phrase, label if step.finds_shapes else None
    else:
        texts = findings[step.reference]
        if parent is not None and step.for_each in (step.reference, recipe.get_step(step.reference).for_each):
            texts = [each for each in texts if each is parent or each.parent is parent]  # of the same region
        for words in dict.fromkeys(_truncate(each.words) for each in texts):
            if words:
                yield words, _get_default_words(step, words), None


def _get_default_words(step: RecipeStep, text: str) -> str:
    """Returns the words for a shape without words. A phrase of a caption is not the caption."""
    return "" if step.task_definition.answer_kind is AnswerKind.PHRASES else text


def _truncate(words: str) -> str:
    words = words.strip()
    return words if len(words) <= _MAX_TEXT else words[:_MAX_TEXT].rsplit(maxsplit=1)[0]


def _to_crop(region: Rectangle) -> Crop:
    return floor(region[0]), floor(region[1]), ceil(region[2]), ceil(region[3])
