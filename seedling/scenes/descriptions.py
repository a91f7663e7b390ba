"""Describes a drawn scene in words. The seedling knows only a small language: every word it uses is in `WORDS`."""

import re
from collections.abc import Iterable, Sequence

from finetune.datasets.wording import NUMBERS, add_article, count_noun, join_list, pluralize
from prompts.tasks import FLORENCE_TASKS
from seedling.scenes.colors import COLOR_NAMES, have_distinct_colors
from seedling.scenes.glyphs import CATEGORIES
from seedling.scenes.scene import Scene, SceneObject, SceneWord

SIZES = ("small", "medium", "large")
POSITIONS = ("top left", "top", "top right", "left", "center", "right", "bottom left", "bottom", "bottom right")

TextPart = tuple[str, Sequence[SceneObject | SceneWord]]
"""A part of a text, and the objects and words that it is about."""


def describe_size(box: Sequence[float], scene: Scene) -> str:
    """Returns small, medium or large, by the square root of the share of the image that the box covers."""
    x1, y1, x2, y2 = box
    side = ((x2 - x1) * (y2 - y1) / (scene.width * scene.height)) ** 0.5
    return SIZES[int(side > 0.22) + int(side > 0.34)]


def describe_position(box: Sequence[float], scene: Scene) -> str:
    """Returns the cell of a 3 × 3 grid that holds the center of the box."""
    x1, y1, x2, y2 = box
    column = min(int((x1 + x2) / 2 / scene.width * 3), 2)
    row = min(int((y1 + y2) / 2 / scene.height * 3), 2)
    return POSITIONS[row * 3 + column]


def describe_object(item: SceneObject, scene: Scene) -> str:
    """Returns `small orange cat`."""
    return f"{describe_size(item.box, scene)} {item.color} {item.category}"


def describe_region(item: SceneObject, scene: Scene) -> str:
    """Returns `a small orange cat at the top left`."""
    return f"a {describe_object(item, scene)} at the {describe_position(item.box, scene)}"


def describe_background(scene: Scene) -> str:
    """Returns `a blue background`."""
    return f"{add_article(scene.background)} background"


def make_caption(scene: Scene) -> str:
    """Returns `a cat, two dogs and a word`."""
    return _join_parts(list_caption_parts(scene))


def make_detailed_caption(scene: Scene) -> str:
    """Returns `a small orange cat, a large red car and a word on a blue background`."""
    return f"{_join_parts(list_detailed_caption_parts(scene))} on {describe_background(scene)}"


def make_paragraph(scene: Scene) -> str:
    """Returns a sentence with the number of objects, then one sentence per object and word with its position."""
    count = len(scene.objects)
    noun = "object" if count == 1 else "objects"
    first = f"The picture shows {NUMBERS[count]} {noun} on {describe_background(scene)}."
    return " ".join([first, *(sentence for sentence, _ in list_paragraph_parts(scene))])


def list_caption_parts(scene: Scene) -> list[TextPart]:
    """Returns the parts that `make_caption` lists."""
    groups = group_by_category(scene.objects)
    objects: list[TextPart] = [(count_noun(noun, len(group)), group) for noun, group in groups.items()]
    return objects + _list_word_parts(scene)


def list_detailed_caption_parts(scene: Scene) -> list[TextPart]:
    """Returns the parts that `make_detailed_caption` lists."""
    objects: list[TextPart] = [("a " + describe_object(item, scene), [item]) for item in scene.objects]
    return objects + _list_word_parts(scene)


def list_paragraph_parts(scene: Scene) -> list[TextPart]:
    """Returns the sentences of `make_paragraph` after the first."""
    named: list[tuple[str, SceneObject | SceneWord]] = [(describe_object(item, scene), item) for item in scene.objects]
    named += [("word", word) for word in scene.words]
    return [(f"A {name} is at the {describe_position(item.box, scene)}.", [item]) for name, item in named]


def make_referring_expression(item: SceneObject, scene: Scene) -> str:
    """Returns the shortest expression that identifies the object: category, then color, size or position."""
    rivals = [other for other in scene.objects if other is not item and other.category == item.category]
    if not rivals:
        return f"the {item.category}"
    if all(have_distinct_colors(rival.color_shares, item.color_shares) for rival in rivals):
        return f"the {item.color} {item.category}"
    if all(describe_size(rival.box, scene) != describe_size(item.box, scene) for rival in rivals):
        return f"the {describe_size(item.box, scene)} {item.category}"
    return f"the {item.category} at the {describe_position(item.box, scene)}"


def group_by_category(items: Iterable[SceneObject]) -> dict[str, list[SceneObject]]:
    """Returns category → objects, in order of first appearance."""
    groups: dict[str, list[SceneObject]] = {}
    for item in items:
        groups.setdefault(item.category, []).append(item)
    return groups


def _list_word_parts(scene: Scene) -> list[TextPart]:
    return [(count_noun("word", len(scene.words)), scene.words)] if scene.words else []


def _join_parts(parts: Sequence[TextPart]) -> str:
    return join_list([text for text, _ in parts]) if parts else "an empty picture"


def _collect_words() -> tuple[str, ...]:
    texts = [
        *(task.template.replace("{input}", " ") for task in FLORENCE_TASKS.values()),
        *CATEGORIES, *map(pluralize, CATEGORIES), *COLOR_NAMES, *SIZES, *POSITIONS, *NUMBERS,
        "word words object objects an empty picture on a background with and the The A is at shows of in",
    ]  # fmt: skip
    return tuple(dict.fromkeys(re.findall(r"[A-Za-z]+", " ".join(texts))))


WORDS: tuple[str, ...] = _collect_words()
"""All words of prompts and answers, in the order of their token IDs."""
