"""An image whose labels are being read.

A label that cannot be used takes from its image what it makes uncertain, and nothing else:

- An object, word or caption that cannot be read: the image is no longer complete for that kind (`refuse_label`).
- Something that is left out but has a name, such as a point or a second label: the image is no longer complete for
  objects if the dataset has objects with this name (`leave_out`). A keypoint called `nose` costs nothing among people.
- A class of the dataset that the image was not labeled for: objects.
- A relation, a flag, a repetition: nothing (`leave_out` without a name).
- An image that is described a second time by labels that cannot be used: everything.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ParamSpec

from labels.dataset import UnusableEntry
from labels.image_files import EncodedImage
from labels.label_kind import LabelKind
from labels.labeled_image import TracedAnnotation
from labels.reading import checks
from labels.reading.checks import LabelError, Size
from labels.reading.repetition import AnnotationSet
from labels.sample import Sample
from prompts.annotations import Annotation

if TYPE_CHECKING:
    from labels.reading.dataset_builder import DatasetBuilder

P = ParamSpec("P")
_SHOWN = 3  # classes in a message
_REPEATED = "it is a duplicate of an earlier label of its image, and counts once"


@dataclass(slots=True)
class ImageDraft:
    """An image whose labels are being read."""

    builder: "DatasetBuilder"
    name: str
    source: str
    size: Size
    open: EncodedImage
    annotations: list[Annotation] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    regions: list[TracedAnnotation] = field(default_factory=list)
    attributes: dict[int, dict[str, str]] = field(default_factory=dict)
    """Attributes by the index of their annotation."""
    incomplete: set[LabelKind] = field(default_factory=set)
    """Kinds with a label that could not be used, so that not everything is known."""
    complete: set[LabelKind] | None = None
    """Kinds for which everything is labeled, if the source says so; None: the kinds that occur in the dataset."""
    covered: set[LabelKind] | None = None
    """Kinds that the files which describe the image are about, if that is known; None: all."""
    class_lists: list[set[str]] = field(default_factory=list)
    """The classes that each of its descriptions is about, if that is known."""
    refused: bool = False
    moved_from: str = ""
    """The image's name in the dataset, if its file is elsewhere."""
    stated: str = ""
    """The image's name as the dataset writes it first."""
    states_size: bool = False
    left_out_names: set[str] = field(default_factory=set)
    """Names of what was left out. If the dataset has objects of such a name, the objects are not complete."""
    _class_doubts: list[tuple[str, UnusableEntry]] = field(default_factory=list)
    _known: AnnotationSet = field(default_factory=AnnotationSet)
    _known_samples: set[str] = field(default_factory=set)

    def add(
        self,
        kind: LabelKind,
        source: str,
        make: Callable[P, Annotation],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Annotation | None:
        """Adds the annotation that `make` returns for the arguments, and returns it.

        If `make` raises LabelError, the label is refused, and None is returned. An annotation that repeats an earlier
        one is recorded, and not added again.
        """
        try:
            annotation = make(*args, **kwargs)
        except LabelError as error:
            self.refuse_label(kind, source, str(error))
            return None
        if self._known.add(annotation):
            self.annotations.append(annotation)
        else:
            self.leave_out(source, _REPEATED)
        return annotation

    def add_outline(
        self, source: str, label: object, rings: Sequence[object], box: Sequence[float] | None = None
    ) -> Annotation | None:
        """Adds the polygon of one object, and returns it. What is wrong with some of its rings is recorded.

        If no ring has an area, adds the box (x1, y1, x2, y2) of the object instead, if there is one.
        """
        good, problems = checks.split_rings(rings)
        if good:
            annotation = self.add(LabelKind.OBJECTS, source, checks.clip_polygon, label, good, self.size)
            for problem in problems if annotation else ():
                self.leave_out(source, f"{problem}; only its other rings are used")
            return annotation
        problem = problems[0] if problems else "its polygon has no area"
        if box is None:
            self.refuse_label(LabelKind.OBJECTS, source, problem)
            return None
        annotation = self.add(LabelKind.OBJECTS, source, checks.check_box, label, box, self.size)
        if annotation:
            self.leave_out(source, f"{problem}; only its box is used")
        return annotation

    def add_region(
        self, source: str, text: object, shape: Annotation | None, attributes: Mapping[str, Any] = MappingProxyType({})
    ) -> None:
        """Adds a region with free text; `shape`: its place, with any label. What is wrong with it is recorded."""
        try:
            label = checks.check_label(text, "text", checks.MAX_TEXT)
        except LabelError as error:
            self.builder.refuse(source, str(error))
            return
        if shape is not None:
            named = shape.model_copy(update={"label": label})
            self.regions.append(TracedAnnotation(named, attributes=self._check_attributes(source, attributes)))

    def describe(self, source: str, annotation: object, attributes: Mapping[str, Any]) -> None:
        """Gives an annotation that was added attributes. Values that are no text, number or yes or no are recorded.

        Nothing happens if `annotation` is not among the annotations, because it repeats an earlier one.
        """
        checked = self._check_attributes(source, attributes)
        index = next((i for i in reversed(range(len(self.annotations))) if self.annotations[i] is annotation), None)
        if checked and index is not None:
            self.attributes[index] = self.attributes.get(index, {}) | checked

    def _check_attributes(self, source: str, attributes: Mapping[str, Any]) -> dict[str, str]:
        """Returns attributes as text on one line, without empty ones."""
        checked = dict[str, str]()
        for name, value in attributes.items():
            try:
                if value is None or value == "":
                    continue
                if not isinstance(value, str | int | float):
                    raise LabelError(f"its value is a {type(value).__name__}, not text")
                text = str(value).lower() if isinstance(value, bool) else str(value)
                key = checks.check_text(name, "name", checks.MAX_LABEL)
                checked[key] = checks.check_text(text, "value", checks.MAX_TEXT)
            except LabelError as error:
                self.builder.refuse(source, f"its attribute {name!r} is not used: {error}")
        return checked

    def list_traces(self) -> tuple[TracedAnnotation, ...]:
        """Returns the annotations with their attributes; nothing if none has any."""
        if not self.attributes:
            return ()
        return tuple(
            TracedAnnotation(annotation, attributes=self.attributes.get(index, {}))
            for index, annotation in enumerate(self.annotations)
        )

    def add_sample(self, source: str, sample: Sample) -> bool:
        """Adds a prompt with its answer. One that repeats an earlier one is recorded; returns False then."""
        key = repr((sample.task.token, sample.text, sample.region, sample.answer))
        if key in self._known_samples:
            self.leave_out(source, _REPEATED)
            return False
        self._known_samples.add(key)
        self.samples.append(sample)
        return True

    def refuse_label(self, kind: LabelKind, source: str, reason: str) -> None:
        """Records a label that cannot be used. The image is then no longer complete for labels of this kind."""
        self.incomplete.add(kind)
        self.refused = True
        self.builder.refuse(source, reason)

    def find_complete_kinds(self, occurring: set[LabelKind]) -> set[LabelKind]:
        """Returns the kinds for which everything is labeled, of those that occur in the dataset."""
        kinds = occurring if self.complete is None else self.complete
        return (kinds if self.covered is None else kinds & self.covered) - self.incomplete

    def refuse_all(self, source: str, reason: str) -> None:
        """Records labels of any kind that cannot be used."""
        self.incomplete.update(LabelKind)
        self.refused = True
        self.builder.refuse(source, reason)

    def leave_out_class(self, source: str, name: object) -> None:
        """Records that the class `name` of a word is not used, if the dataset has objects of this class."""
        if isinstance(name, str):
            reason = f"it is a word, its label {name!r} is not used"
            self._class_doubts.append((" ".join(name.split()), UnusableEntry(source, reason)))

    def finish(self, classes: Collection[str]) -> None:
        """Subtracts what became uncertain by labels that are known only after reading everything."""
        for name, entry in self._class_doubts:
            if name in classes:
                self.leave_out(entry.source, entry.reason, name)
        if not self.left_out_names.isdisjoint(classes):
            self.incomplete.add(LabelKind.OBJECTS)
        self._check_class_lists(classes)

    def _check_class_lists(self, classes: Collection[str]) -> None:
        """Subtracts the objects if some classes of the dataset are none that the image was labeled with."""
        is_about_objects = self.covered is None or LabelKind.OBJECTS in self.covered
        if not (self.class_lists and is_about_objects) or any(each.issuperset(classes) for each in self.class_lists):
            return
        if missing := sorted(set(classes).difference(*self.class_lists)):
            names = ", ".join(map(repr, missing[:_SHOWN])) + (" …" if len(missing) > _SHOWN else "")
            self.incomplete.add(LabelKind.OBJECTS)
            self.refused = True
            self.builder.refuse(self.source, f"whether it shows {names} is unknown: it was labeled for other classes")

    def leave_out(self, source: str, reason: str, name: object = None) -> None:
        """Records what is not used of a label. `name`: the class, if that may be an object that is now missing."""
        if isinstance(name, str) and name.strip():
            self.left_out_names.add(" ".join(name.split()))
        self.builder.refuse(source, reason)
