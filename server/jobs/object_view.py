"""The object view of a job's images: one annotation for each object, however many steps have found or described it.

A job keeps every answer. Its datasets, drawn images and counts show objects instead:

- Answers of two prompts are one object if they have one class and an IoU of 0.5 or more. Its score and its reasons for
  review are those of the answer with the highest score; outlines and descriptions add their own reasons.
- Answers of two <OD> steps are one object from an IoU of 0.9, too, whatever they call it: it has the class of the
  answer with the highest score, and the other one as its attribute `category`.
- An outline takes the place of its object's box if its bounds overlap the box by that IoU and it fills a twentieth of
  its bounds or more. Otherwise the box stays, and the outline is counted.
- A region with free text (a phrase of a caption, a dense caption) is said about the object with the highest IoU of 0.5
  or more whose class is the head of the phrase. Without such an object it stays a region, and is never a class.
- A word belongs to the smallest object that contains 80 % of it. It stays an annotation, too.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain

from labels.geometry import Rectangle, area, bounding_box_or_none, box_area, box_iou, to_rings
from labels.labeled_image import LabeledImage, TracedAnnotation
from labels.reading.prompt_samples import parse_prompt
from labels.sample import Sample
from prompts.annotations import Annotation, Box, Polygon, Text
from server.jobs.object_matching import SAME_OBJECT_IOU, contain_words, match_phrases, match_places, match_shapes
from server.jobs.recipes.ontology import normalize_words
from server.jobs.recipes.recipe import Recipe
from server.jobs.recipes.review import PARENT_REASON
from server.jobs.step_roles import PHRASES, WORDS, AnswerRole, StepRoles

_MIN_FILL = 0.05  # share of its bounds that an outline fills: a smaller one is a sliver
_CATEGORY = "category"
_SEPARATOR = "; "  # of reasons for review, and of the values of an attribute


class ObjectView:
    """Makes the object view of images that were labeled with `recipe`."""

    def __init__(self, recipe: Recipe) -> None:
        self._roles = StepRoles(recipe)

    def apply(self, image: LabeledImage) -> LabeledImage:
        """Returns the image with one annotation for each object, word and caption, and with the regions apart.

        `answers` has the image's own annotations if they are others. Answers to other prompts about the whole image
        are samples. `left_out` counts outlines that do not fit.
        """
        return _ImageView(image, self._roles).build() if image.traces else image

    def list_labels(self, traces: Sequence[TracedAnnotation], size: tuple[int, int]) -> list[str]:
        """Returns the classes of the objects, the words and the phrases of the regions of one image."""
        image = self.apply(LabeledImage.from_traces("", *size, traces)).with_regions()
        return [each.label for each in image.annotations if not isinstance(each, Text)]

    def iter_images(self, images: Iterable[LabeledImage]) -> Iterator[LabeledImage]:
        """Yields the object view of each image."""
        return map(self.apply, images)


@dataclass(slots=True, eq=False)
class _Entity:
    """An object, a region or a word: what one or more answers have found. `answers` are their indexes."""

    role: AnswerRole
    label: str
    box: Rectangle
    answers: list[int]
    outline: Polygon | None = None
    fit: float = 0.0
    attributes: dict[str, list[str]] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)

    def describe(self, name: str, text: str) -> None:
        """Adds a value to an attribute, once."""
        values, text = self.attributes.setdefault(name, []), " ".join(text.split())
        if text and text not in values:
            values.append(text)


class _ImageView:
    def __init__(self, image: LabeledImage, roles: StepRoles) -> None:
        self._image, self._roles, self._traces = image, roles, image.traces
        self._parents = [roles.find_parent(image.traces, trace) for trace in image.traces]
        self._owners: dict[int, _Entity] = {}  # by the index of an answer
        self._prompted: dict[Rectangle, _Entity] = {}  # regions that only texts are kept of
        self._captions: list[int] = []
        self._samples: list[Sample] = []
        self._left_out: Counter[str] = Counter()

    def build(self) -> LabeledImage:
        by_role: dict[AnswerRole, list[int]] = {role: [] for role in AnswerRole}
        for index, (trace, parent) in enumerate(zip(self._traces, self._parents, strict=True)):
            by_role[self._roles.get_role(trace, parent)].append(index)
        objects = self._collect(by_role[AnswerRole.OBJECT], AnswerRole.OBJECT)
        regions = self._collect(by_role[AnswerRole.REGION], AnswerRole.REGION)
        words = [self._add_entity(index, AnswerRole.WORD) for index in by_role[AnswerRole.WORD]]
        self._add_outlines(by_role[AnswerRole.OUTLINE], objects)
        for index in by_role[AnswerRole.TEXT]:
            self._add_text(index)
        for entity in self._prompted.values():
            (objects if entity.role is AnswerRole.OBJECT else regions).append(_name_by_text(entity))
        regions = self._describe_objects(objects, regions)
        self._add_words(objects, words)
        return self._assemble([*objects, *words], regions)

    def _collect(self, indexes: Sequence[int], role: AnswerRole) -> list[_Entity]:
        """Returns what the answers have found: those of different prompts may have found the same."""
        entities: list[_Entity] = []
        sources: dict[tuple[str, str], list[int]] = {}
        for index in indexes:
            sources.setdefault((self._traces[index].step, self._traces[index].prompt), []).append(index)
        for source in sources.values():
            matches = self._match(entities, source)
            for position, index in enumerate(source):
                if (match := matches.get(position)) is None:
                    entities.append(self._add_entity(index, role))
                else:
                    self._join(entities[match], index)
        for entity in entities:
            for label in (self._traces[index].annotation.label for index in entity.answers):
                if label and normalize_words(label) != normalize_words(entity.label):
                    entity.describe(_CATEGORY, label)
        return entities

    def _match(self, entities: Sequence[_Entity], source: Sequence[int]) -> dict[int, int]:
        """Returns the positions of the entities that the answers of another prompt show too, by their positions."""
        known = [(each.box, normalize_words(each.label)) for each in entities]
        found = [(self._get_box(i), normalize_words(self._traces[i].annotation.label)) for i in source]
        matches = match_shapes(known, found)
        taken = set(matches.values())
        others = [i for i, each in enumerate(entities) if i not in taken and self._is_detected(each.answers[0])]
        rest = [i for i, index in enumerate(source) if i not in matches and self._is_detected(index)]
        places = match_places([known[i][0] for i in others], [found[i][0] for i in rest])
        return matches | {rest[position]: others[match] for position, match in places.items()}

    def _is_detected(self, index: int) -> bool:
        return self._roles.is_detected(self._traces[index])

    def _add_entity(self, index: int, role: AnswerRole) -> _Entity:
        entity = _Entity(role, self._traces[index].annotation.label, self._get_box(index), [index])
        self._owners[index] = entity
        return entity

    def _join(self, entity: _Entity, index: int) -> None:
        """Adds another answer that has found the same."""
        entity.answers.append(index)
        best = self._choose_answer(entity)
        label = self._traces[best].annotation.label or self._traces[index].annotation.label
        if not entity.label or (label and normalize_words(label) != normalize_words(entity.label)):
            entity.label = label
        entity.box = self._get_box(best)
        self._owners[index] = entity

    def _choose_answer(self, entity: _Entity) -> int:
        """Returns the answer with the highest score."""
        return max(entity.answers, key=lambda index: (self._get_score(index), -index))

    def _add_outlines(self, indexes: Sequence[int], objects: Sequence[_Entity]) -> None:
        unclaimed = [index for index in indexes if self._parents[index] is None]
        known = [(each.box, normalize_words(each.label)) for each in objects]
        found = [(self._get_box(i), normalize_words(self._traces[i].annotation.label)) for i in unclaimed]
        matches = match_shapes(known, found)
        self._owners |= {unclaimed[position]: objects[match] for position, match in matches.items()}
        for index in indexes:
            parent = self._parents[index]
            if parent is not None and parent in self._owners:
                self._owners[index] = self._owners[parent]
            owner = self._owners.get(index)
            if owner is None or owner.role is AnswerRole.WORD or not self._add_outline(owner, index):
                self._left_out["outlines that do not fit an object"] += 1

    def _add_outline(self, entity: _Entity, index: int) -> bool:
        """Gives an object the outline if it describes the object, and better than an earlier one."""
        outline, fit = self._traces[index].annotation, box_iou(self._get_box(index), entity.box)
        if not isinstance(outline, Polygon) or fit < SAME_OBJECT_IOU or _compute_fill(outline) < _MIN_FILL:
            return False
        if entity.outline is not None:
            self._left_out["further outlines of an object"] += 1
        if fit > entity.fit:
            entity.outline, entity.fit = outline, fit
        self._add_reasons(entity, index, "outline")
        return True

    def _add_text(self, index: int) -> None:
        trace, parent = self._traces[index], self._parents[index]
        owner = self._owners.get(parent) if parent is not None else None
        if owner is not None:
            self._describe(owner, index)
        elif not self._roles.is_about_region(trace):
            self._add_image_text(index)
        elif (sample := self._parse_prompt(trace)) is not None and sample.region is not None:
            entity = self._prompted.setdefault(sample.region, _Entity(AnswerRole.REGION, "", sample.region, []))
            entity.answers.append(index)
            if self._roles.names_class(trace):
                entity.role = AnswerRole.OBJECT
            self._describe(entity, index)
        else:
            self._left_out["texts about regions that are not kept"] += 1

    def _describe(self, entity: _Entity, index: int) -> None:
        """Adds a text about a region to what was found there."""
        trace = self._traces[index]
        text, name = trace.annotation.label, self._roles.get_attribute(trace)
        if self._roles.names_class(trace):
            entity.label = entity.label or text
            if normalize_words(entity.label) != normalize_words(text):
                entity.describe(_CATEGORY, text)
        else:
            entity.describe(name, text)
        self._add_reasons(entity, index, name)

    def _add_image_text(self, index: int) -> None:
        """Adds a caption. Another text about the whole image is the answer of a sample."""
        trace = self._traces[index]
        if self._roles.is_caption(trace):
            self._captions.append(index)
        elif (sample := self._parse_prompt(trace)) is not None:
            answer = trace.annotation.model_copy(update={"score": None})
            self._samples.append(replace(sample, answer=(answer,)))
        else:
            self._left_out["answers to a prompt of no task"] += 1

    def _parse_prompt(self, trace: TracedAnnotation) -> Sample | None:
        try:
            return parse_prompt(trace.prompt, self._image.size)
        except ValueError:
            return None

    def _describe_objects(self, objects: Sequence[_Entity], regions: Sequence[_Entity]) -> list[_Entity]:
        """Gives the objects the phrases that are about them. Returns the other regions."""
        known, found = [(each.box, each.label) for each in objects], [(each.box, each.label) for each in regions]
        matches = match_phrases(known, found)
        for position, match in matches.items():
            entity, region = objects[match], regions[position]
            if normalize_words(region.label) != normalize_words(entity.label):
                entity.describe(PHRASES, region.label)
            for name, values in region.attributes.items():
                for value in values:
                    entity.describe(name, value)
            if entity.outline is None and region.outline is not None:
                fit = box_iou(bounding_box_or_none(region.outline) or region.box, entity.box)
                entity.outline = region.outline if fit >= SAME_OBJECT_IOU else None
        return [region for position, region in enumerate(regions) if position not in matches]

    def _add_words(self, objects: Sequence[_Entity], words: Sequence[_Entity]) -> None:
        """Gives the objects the words in them, unless a prompt has asked for these."""
        inside: dict[int, list[str]] = {}
        for position, word in contain_words([each.box for each in objects], [each.box for each in words]):
            inside.setdefault(position, []).append(words[word].label)
        for position, texts in inside.items():
            objects[position].attributes.setdefault(WORDS, [" ".join(" ".join(texts).split())])

    def _add_reasons(self, entity: _Entity, index: int, about: str) -> None:
        """Adds the reasons for review of an outline or a text."""
        for reason in self._traces[index].review.split(_SEPARATOR):
            if reason and reason != PARENT_REASON:
                entity.reasons.append(f"{about}: {reason}")

    def _assemble(self, entities: Sequence[_Entity], regions: Sequence[_Entity]) -> LabeledImage:
        positions: dict[int, int] = {}
        ordered: list[_Entity | int] = sorted([*entities, *self._captions], key=_get_first)
        for position, each in enumerate(ordered):
            positions |= dict.fromkeys(each.answers if isinstance(each, _Entity) else [each], position)
        traces = [
            self._to_trace(each, positions) if isinstance(each, _Entity) else replace(self._traces[each], parent=None)
            for each in ordered
        ]
        apart = [self._to_trace(region, positions) for region in sorted(regions, key=_get_first)]
        is_same = tuple(traces) == self._traces
        return replace(
            self._image,
            annotations=tuple(trace.annotation for trace in traces),
            traces=tuple(traces),
            regions=tuple(apart),
            samples=(*self._image.samples, *self._samples),
            answers=() if is_same else self._traces,
            left_out=dict(self._left_out),
        )

    def _to_trace(self, entity: _Entity, positions: dict[int, int]) -> TracedAnnotation:
        chosen = self._traces[self._choose_answer(entity)]
        parent = self._parents[entity.answers[0]]
        reasons = [*filter(None, chosen.review.split(_SEPARATOR)), *entity.reasons]
        values = {name: _SEPARATOR.join(texts) for name, texts in entity.attributes.items() if texts}
        return replace(
            chosen,
            annotation=self._to_annotation(entity, chosen.annotation),
            review=_SEPARATOR.join(dict.fromkeys(reasons)),
            parent=None if parent is None else positions.get(parent),
            attributes=values,
        )

    def _to_annotation(self, entity: _Entity, chosen: Annotation) -> Annotation:
        if entity.role is AnswerRole.WORD:
            return chosen
        shapes = (self._traces[index].annotation for index in entity.answers)
        polygons = chain([entity.outline, chosen], shapes)
        outline = next((each for each in polygons if isinstance(each, Polygon)), None)
        if outline is not None:
            return Polygon(label=entity.label, score=chosen.score, polygons=outline.polygons)
        if isinstance(chosen, Box):
            return chosen.model_copy(update={"label": entity.label})
        return Box(label=entity.label, score=chosen.score, box=entity.box)

    def _get_box(self, index: int) -> Rectangle:
        return bounding_box_or_none(self._traces[index].annotation) or (0.0, 0.0, 0.0, 0.0)

    def _get_score(self, index: int) -> float:
        score = self._traces[index].annotation.score
        return 1.0 if score is None else score


def _get_first(each: _Entity | int) -> int:
    return each.answers[0] if isinstance(each, _Entity) else each


def _name_by_text(entity: _Entity) -> _Entity:
    """Gives a region without a class its first text as its label."""
    if entity.role is AnswerRole.REGION and entity.attributes:
        name, texts = next(iter(entity.attributes.items()))
        entity.label, entity.attributes[name] = texts[0], texts[1:]
    return entity


def _compute_fill(outline: Polygon) -> float:
    """Returns the share of its bounds that an outline fills."""
    box = bounding_box_or_none(outline)
    return sum(map(area, to_rings(outline))) / box_area(box) if box and box_area(box) > 0 else 0.0
