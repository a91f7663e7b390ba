"""A drawn scene → questions of all 15 tasks, with the answers that the scene itself knows.

The wording of the answers is the seedling's small language: every word it may say or be asked stands in `WORDS`.
"""

import re
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from finetune.datasets.template import NUMBERS, counted, listed, plural, with_article
from labels.sample import Sample
from prompts.annotations import Annotation, Box, Polygon, Quad, Text
from prompts.tasks import TASKS
from seedling.scenes.colors import COLOR_NAMES
from seedling.scenes.colors import have_distinct_colors
from seedling.scenes.glyphs import CATEGORIES
from seedling.scenes.scene import Object, Scene, Word

SIZES = ("small", "medium", "large")
PLACES = ("top left", "top", "top right", "left", "center", "right", "bottom left", "bottom", "bottom right")

Told = tuple[str, Sequence[Object | Word]]
"""A part of a text, and the things that it is about."""


def size_word(box: Sequence[float], scene: Scene) -> str:
    """small, medium or large: by the root of the share of the picture that the box covers."""
    x1, y1, x2, y2 = box
    side = ((x2 - x1) * (y2 - y1) / (scene.width * scene.height)) ** 0.5
    return SIZES[int(side > 0.22) + int(side > 0.34)]


def place_words(box: Sequence[float], scene: Scene) -> str:
    """Where the middle of the box lies, on a grid of three by three."""
    x1, y1, x2, y2 = box
    column = min(int((x1 + x2) / 2 / scene.width * 3), 2)
    row = min(int((y1 + y2) / 2 / scene.height * 3), 2)
    return PLACES[row * 3 + column]


def described(thing: Object, scene: Scene) -> str:
    """`small orange cat`"""
    return f"{size_word(thing.box, scene)} {thing.color} {thing.category}"


def _groups(things: Iterable[Object]) -> dict[str, list[Object]]:
    groups: dict[str, list[Object]] = {}
    for thing in things:
        groups.setdefault(thing.category, []).append(thing)
    return groups


def caption_parts(scene: Scene) -> list[Told]:
    """The parts that `caption` lists."""
    objects: list[Told] = [(counted(noun, len(group)), group) for noun, group in _groups(scene.objects).items()]
    return objects + _word_parts(scene)


def detailed_parts(scene: Scene) -> list[Told]:
    """The parts that `detailed_caption` lists."""
    objects: list[Told] = [("a " + described(thing, scene), [thing]) for thing in scene.objects]
    return objects + _word_parts(scene)


def paragraph_parts(scene: Scene) -> list[Told]:
    """The sentences of `paragraph` after the first."""
    named: list[tuple[str, Object | Word]] = [(described(thing, scene), thing) for thing in scene.objects]
    named += [("word", word) for word in scene.words]
    return [(f"A {name} is at the {place_words(thing.box, scene)}.", [thing]) for name, thing in named]


def _word_parts(scene: Scene) -> list[Told]:
    return [(counted("word", len(scene.words)), scene.words)] if scene.words else []


def ground(scene: Scene) -> str:
    """`a blue background`"""
    return f"{with_article(scene.background)} background"


def _listed(parts: Sequence[Told]) -> str:
    return listed([text for text, _ in parts]) if parts else "an empty picture"


def caption(scene: Scene) -> str:
    """`a cat, two dogs and a word`"""
    return _listed(caption_parts(scene))


def detailed_caption(scene: Scene) -> str:
    """`a small orange cat, a large red car and a word on a blue background`"""
    return f"{_listed(detailed_parts(scene))} on {ground(scene)}"


def paragraph(scene: Scene) -> str:
    """A sentence of counts, then one for each object and word with its place."""
    count = len(scene.objects)
    first = f"The picture shows {NUMBERS[count]} {'object' if count == 1 else 'objects'} on {ground(scene)}."
    return " ".join([first, *(sentence for sentence, _ in paragraph_parts(scene))])


def _box(thing: Object, label: str) -> Box:
    return Box(label=label, box=thing.box)


def _jittered(
    box: Sequence[float], scene: Scene, rng: np.random.Generator, share: float = 0.06
) -> tuple[float, float, float, float]:
    """The box as a person would drag it: each side off by up to `share` of the box, inside the picture."""
    x1, y1, x2, y2 = box
    w, h = x2 - x1, y2 - y1
    dx1, dy1, dx2, dy2 = rng.uniform(-share, share, 4)
    return (
        float(np.clip(x1 + dx1 * w, 0, scene.width - 1)),
        float(np.clip(y1 + dy1 * h, 0, scene.height - 1)),
        float(np.clip(x2 + dx2 * w, 1, scene.width)),
        float(np.clip(y2 + dy2 * h, 1, scene.height)),
    )


def _texts(token: str, text: str) -> Sample:
    return Sample(TASKS[token], (Text(label=text),) if text else ())


def _quads(scene: Scene) -> Sample:
    return Sample(TASKS["<OCR_WITH_REGION>"], tuple(Quad(label=w.text, quad=w.quad) for w in scene.words))


def _boxes(token: str, scene: Scene, told: Callable[[Object], str]) -> Sample:
    return Sample(TASKS[token], tuple(_box(thing, told(thing)) for thing in scene.objects))


def _grounding(scene: Scene, rng: np.random.Generator) -> Sample:
    """A caption of what is there, often less, sometimes with what is not there; of what is not there alone in a fifth
    of scenes of many kinds, up to a half of those of one."""
    groups = list(_groups(scene.objects).items())
    kept = rng.choice([0.0, 0.4, 0.8], p=[0.2, 0.3, 0.5])
    phrases = [(counted(noun, len(group)), group) for noun, group in groups if rng.random() < kept]
    absent = [c for c in CATEGORIES if c not in dict(groups)]
    missing = int(rng.integers(1, 4)) if not phrases else int(rng.random() < 0.4)
    phrases += [(counted(str(noun), 1), []) for noun in rng.choice(absent, missing, replace=False)]
    if rng.random() < 0.5:
        phrases = [phrases[i] for i in rng.permutation(len(phrases))]
    text = listed([phrase for phrase, _ in phrases])
    boxes = tuple(_box(thing, phrase) for phrase, group in phrases for thing in group)
    return Sample(TASKS["<CAPTION_TO_PHRASE_GROUNDING>"], boxes, text=text)


def _open_vocabulary(scene: Scene, rng: np.random.Generator) -> Sample:
    """A category, plain or with a colour; four in ten are not there, or have another colour."""
    task = TASKS["<OPEN_VOCABULARY_DETECTION>"]
    present = {t.category for t in scene.objects}
    if not scene.objects or rng.random() < 0.33:
        text = str(rng.choice([c for c in CATEGORIES if c not in present]))
        return Sample(task, (), text=text)
    thing = scene.objects[int(rng.integers(len(scene.objects)))]
    if rng.random() < 0.3:
        color = thing.color if rng.random() < 0.7 else str(rng.choice(COLOR_NAMES))
        text = f"{color} {thing.category}"
        found = [t for t in scene.objects if (t.category, t.color) == (thing.category, color)]
    else:
        text, found = thing.category, [t for t in scene.objects if t.category == thing.category]
    return Sample(task, tuple(_box(t, text) for t in found), text=text)


def expression(thing: Object, scene: Scene) -> str:
    """The fewest words that tell this object from the others: kind, then colour, size, place."""
    rivals = [t for t in scene.objects if t is not thing and t.category == thing.category]
    if not rivals:
        return f"the {thing.category}"
    if all(have_distinct_colors(t.color_shares, thing.color_shares) for t in rivals):
        return f"the {thing.color} {thing.category}"
    if all(size_word(t.box, scene) != size_word(thing.box, scene) for t in rivals):
        return f"the {size_word(thing.box, scene)} {thing.category}"
    return f"the {thing.category} at the {place_words(thing.box, scene)}"


def _referring(scene: Scene, rng: np.random.Generator) -> Sample | None:
    if not scene.objects:
        return None
    thing = scene.objects[int(rng.integers(len(scene.objects)))]
    whole = described(thing, scene)
    alone = [described(t, scene) for t in scene.objects].count(whole) == 1
    words = f"the {whole}" if rng.random() >= 0.7 and alone else expression(thing, scene)
    shape = Polygon(polygons=thing.polygons)
    return Sample(TASKS["<REFERRING_EXPRESSION_SEGMENTATION>"], (shape,), text=words)


def _on_object(token: str, told: Callable[[Object, Scene], Annotation]) -> Callable[..., Sample | None]:
    def ask(scene: Scene, rng: np.random.Generator) -> Sample | None:
        if not scene.objects:
            return None
        thing = scene.objects[int(rng.integers(len(scene.objects)))]
        return Sample(TASKS[token], (told(thing, scene),), region=_jittered(thing.box, scene, rng))

    return ask


def _region_ocr(scene: Scene, rng: np.random.Generator) -> Sample | None:
    if not scene.words:
        return None
    word = scene.words[int(rng.integers(len(scene.words)))]
    return Sample(TASKS["<REGION_TO_OCR>"], (Text(label=word.text),), region=_jittered(word.box, scene, rng))


def _category(scene: Scene, rng: np.random.Generator) -> Sample | None:
    """Mostly an object; a word's region is a `word`."""
    if scene.words and rng.random() < 0.1:
        word = scene.words[int(rng.integers(len(scene.words)))]
        region = _jittered(word.box, scene, rng)
        return Sample(TASKS["<REGION_TO_CATEGORY>"], (Text(label="word"),), region=region)
    return _on_object("<REGION_TO_CATEGORY>", lambda t, s: Text(label=t.category))(scene, rng)


def _told(thing: Object, scene: Scene) -> Annotation:
    return Text(label=f"a {described(thing, scene)} at the {place_words(thing.box, scene)}")


# fmt: off
_ASK: dict[str, Callable[[Scene, np.random.Generator], Sample | None]] = {
    "<CAPTION>": lambda s, _: _texts("<CAPTION>", caption(s)),
    "<DETAILED_CAPTION>": lambda s, _: _texts("<DETAILED_CAPTION>", detailed_caption(s)),
    "<MORE_DETAILED_CAPTION>": lambda s, _: _texts("<MORE_DETAILED_CAPTION>", paragraph(s)),
    "<OCR>": lambda s, _: _texts("<OCR>", "\n".join(w.text for w in s.words)),
    "<OCR_WITH_REGION>": lambda s, _: _quads(s),
    "<OD>": lambda s, _: _boxes("<OD>", s, lambda t: t.category),
    "<DENSE_REGION_CAPTION>": lambda s, _: _boxes("<DENSE_REGION_CAPTION>", s, lambda t: described(t, s)),
    "<REGION_PROPOSAL>": lambda s, _: _boxes("<REGION_PROPOSAL>", s, lambda _: ""),
    "<CAPTION_TO_PHRASE_GROUNDING>": _grounding,
    "<REFERRING_EXPRESSION_SEGMENTATION>": _referring,
    "<REGION_TO_SEGMENTATION>": _on_object("<REGION_TO_SEGMENTATION>", lambda t, _: Polygon(polygons=t.polygons)),
    "<OPEN_VOCABULARY_DETECTION>": _open_vocabulary,
    "<REGION_TO_CATEGORY>": _category,
    "<REGION_TO_DESCRIPTION>": _on_object("<REGION_TO_DESCRIPTION>", _told),
    "<REGION_TO_OCR>": _region_ocr,
}
# fmt: on


def make_sample(scene: Scene, token: str, rng: np.random.Generator) -> Sample | None:
    """A question of the task `token` on `scene`; None when the scene has nothing to ask it about."""
    return _ASK[token](scene, rng)


def _words() -> tuple[str, ...]:
    told = [
        *(task.template.replace("{input}", " ") for task in TASKS.values()),
        *CATEGORIES, *map(plural, CATEGORIES), *COLOR_NAMES, *SIZES, *PLACES, *NUMBERS,
        "word words object objects an empty picture on a background with and the The A is at shows of in",
    ]  # fmt: skip
    return tuple(dict.fromkeys(re.findall(r"[A-Za-z]+", " ".join(told))))


WORDS: tuple[str, ...] = _words()
