"""Makes samples of all 15 tasks for a drawn scene, with answers from the scene's own ground truth."""

from collections.abc import Callable, Sequence

import numpy as np

from finetune.datasets.wording import count_noun, join_list
from labels.sample import Sample
from prompts.annotations import Annotation, Box, Polygon, Quad, Text
from prompts.tasks import TASKS
from seedling.scenes import descriptions
from seedling.scenes.colors import COLOR_NAMES
from seedling.scenes.glyphs import CATEGORIES
from seedling.scenes.scene import Scene, SceneObject

SampleMaker = Callable[[Scene, np.random.Generator], Sample | None]


def make_sample(scene: Scene, token: str, rng: np.random.Generator) -> Sample | None:
    """Returns a random sample of the task `token`, or None when the scene has nothing to ask about."""
    return _MAKERS[token](scene, rng)


def _make_box(item: SceneObject, label: str) -> Box:
    return Box(label=label, box=item.box)


def _jitter_region(
    box: Sequence[float], scene: Scene, rng: np.random.Generator, share: float = 0.06
) -> tuple[float, float, float, float]:
    """Returns the box as a person would drag it: each side off by up to `share` of the box, inside the image."""
    x1, y1, x2, y2 = box
    w, h = x2 - x1, y2 - y1
    dx1, dy1, dx2, dy2 = rng.uniform(-share, share, 4)
    return (
        float(np.clip(x1 + dx1 * w, 0, scene.width - 1)),
        float(np.clip(y1 + dy1 * h, 0, scene.height - 1)),
        float(np.clip(x2 + dx2 * w, 1, scene.width)),
        float(np.clip(y2 + dy2 * h, 1, scene.height)),
    )


def _make_text_sample(token: str, text: str) -> Sample:
    return Sample(TASKS[token], (Text(label=text),) if text else ())


def _make_quad_sample(scene: Scene) -> Sample:
    return Sample(TASKS["<OCR_WITH_REGION>"], tuple(Quad(label=w.text, quad=w.quad) for w in scene.words))


def _make_box_sample(token: str, scene: Scene, label_of: Callable[[SceneObject], str]) -> Sample:
    return Sample(TASKS[token], tuple(_make_box(item, label_of(item)) for item in scene.objects))


def _make_grounding(scene: Scene, rng: np.random.Generator) -> Sample:
    """Makes a caption of some or all objects, sometimes with absent ones.

    Only absent objects are named in a fifth of the scenes with many categories, in up to half of those with one.
    """
    groups = list(descriptions.group_by_category(scene.objects).items())
    keep_share = rng.choice([0.0, 0.4, 0.8], p=[0.2, 0.3, 0.5])
    phrases = [(count_noun(noun, len(group)), group) for noun, group in groups if rng.random() < keep_share]
    absent = [c for c in CATEGORIES if c not in dict(groups)]
    missing = int(rng.integers(1, 4)) if not phrases else int(rng.random() < 0.4)
    phrases += [(count_noun(str(noun), 1), []) for noun in rng.choice(absent, missing, replace=False)]
    if rng.random() < 0.5:
        phrases = [phrases[i] for i in rng.permutation(len(phrases))]
    text = join_list([phrase for phrase, _ in phrases])
    boxes = tuple(_make_box(item, phrase) for phrase, group in phrases for item in group)
    return Sample(TASKS["<CAPTION_TO_PHRASE_GROUNDING>"], boxes, text=text)


def _make_open_vocabulary(scene: Scene, rng: np.random.Generator) -> Sample:
    """Asks for a category, with or without a color; four in ten are absent or have another color."""
    task = TASKS["<OPEN_VOCABULARY_DETECTION>"]
    present = {item.category for item in scene.objects}
    if not scene.objects or rng.random() < 0.33:
        text = str(rng.choice([c for c in CATEGORIES if c not in present]))
        return Sample(task, (), text=text)
    item = scene.objects[int(rng.integers(len(scene.objects)))]
    if rng.random() < 0.3:
        color = item.color if rng.random() < 0.7 else str(rng.choice(COLOR_NAMES))
        text = f"{color} {item.category}"
        matches = [o for o in scene.objects if (o.category, o.color) == (item.category, color)]
    else:
        text, matches = item.category, [o for o in scene.objects if o.category == item.category]
    return Sample(task, tuple(_make_box(match, text) for match in matches), text=text)


def _make_referring(scene: Scene, rng: np.random.Generator) -> Sample | None:
    if not scene.objects:
        return None
    item = scene.objects[int(rng.integers(len(scene.objects)))]
    full = descriptions.describe_object(item, scene)
    unique = [descriptions.describe_object(other, scene) for other in scene.objects].count(full) == 1
    text = f"the {full}" if rng.random() >= 0.7 and unique else descriptions.make_referring_expression(item, scene)
    shape = Polygon(polygons=item.polygons)
    return Sample(TASKS["<REFERRING_EXPRESSION_SEGMENTATION>"], (shape,), text=text)


def _for_random_object(token: str, answer: Callable[[SceneObject, Scene], Annotation]) -> SampleMaker:
    """Returns a maker of samples about the region of a random object."""

    def make(scene: Scene, rng: np.random.Generator) -> Sample | None:
        if not scene.objects:
            return None
        item = scene.objects[int(rng.integers(len(scene.objects)))]
        return Sample(TASKS[token], (answer(item, scene),), region=_jitter_region(item.box, scene, rng))

    return make


def _make_region_ocr(scene: Scene, rng: np.random.Generator) -> Sample | None:
    if not scene.words:
        return None
    word = scene.words[int(rng.integers(len(scene.words)))]
    return Sample(TASKS["<REGION_TO_OCR>"], (Text(label=word.text),), region=_jitter_region(word.box, scene, rng))


def _make_region_category(scene: Scene, rng: np.random.Generator) -> Sample | None:
    """Asks about an object, or in one of ten about a word, whose category is `word`."""
    if scene.words and rng.random() < 0.1:
        word = scene.words[int(rng.integers(len(scene.words)))]
        region = _jitter_region(word.box, scene, rng)
        return Sample(TASKS["<REGION_TO_CATEGORY>"], (Text(label="word"),), region=region)
    return _for_random_object("<REGION_TO_CATEGORY>", lambda o, _: Text(label=o.category))(scene, rng)


# fmt: off
_MAKERS: dict[str, SampleMaker] = {
    "<CAPTION>": lambda s, _: _make_text_sample("<CAPTION>", descriptions.make_caption(s)),
    "<DETAILED_CAPTION>": lambda s, _: _make_text_sample("<DETAILED_CAPTION>", descriptions.make_detailed_caption(s)),
    "<MORE_DETAILED_CAPTION>": lambda s, _: _make_text_sample(
        "<MORE_DETAILED_CAPTION>", descriptions.make_paragraph(s)
    ),
    "<OCR>": lambda s, _: _make_text_sample("<OCR>", "\n".join(w.text for w in s.words)),
    "<OCR_WITH_REGION>": lambda s, _: _make_quad_sample(s),
    "<OD>": lambda s, _: _make_box_sample("<OD>", s, lambda o: o.category),
    "<DENSE_REGION_CAPTION>": lambda s, _: _make_box_sample(
        "<DENSE_REGION_CAPTION>", s, lambda o: descriptions.describe_object(o, s)
    ),
    "<REGION_PROPOSAL>": lambda s, _: _make_box_sample("<REGION_PROPOSAL>", s, lambda _: ""),
    "<CAPTION_TO_PHRASE_GROUNDING>": _make_grounding,
    "<REFERRING_EXPRESSION_SEGMENTATION>": _make_referring,
    "<REGION_TO_SEGMENTATION>": _for_random_object(
        "<REGION_TO_SEGMENTATION>", lambda o, _: Polygon(polygons=o.polygons)
    ),
    "<OPEN_VOCABULARY_DETECTION>": _make_open_vocabulary,
    "<REGION_TO_CATEGORY>": _make_region_category,
    "<REGION_TO_DESCRIPTION>": _for_random_object(
        "<REGION_TO_DESCRIPTION>", lambda o, s: Text(label=descriptions.describe_region(o, s))
    ),
    "<REGION_TO_OCR>": _make_region_ocr,
}
# fmt: on
