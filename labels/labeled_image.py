"""An image and its labels: what readers produce, writers write, jobs store and training uses."""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

from PIL import Image

from labels.image_files import DeferredImage, EncodedImage
from labels.label_kind import LabelKind
from labels.sample import Sample
from prompts.annotations import Annotation


@dataclass(frozen=True, slots=True)
class TracedAnnotation:
    """An annotation and where it came from.

    Attributes:
        annotation: The shape or text, in pixels of its image.
        step: ID of the recipe step that made it.
        prompt: The text of the model's prompt.
        raw: The model's whole answer, with location tokens.
        model: Hash of the model that answered.
        adapter: Hash of the adapter that answered; None without an adapter.
        review: Why a person should check it; empty if no review is needed.
        parent: Index of the annotation whose region the prompt was about, among the image's annotations.
        attributes: What else is known about it, by name: `description`, `phrases`, `words`, and the attributes of other
            tools. Values are text on one line.
    """

    annotation: Annotation
    step: str = ""
    prompt: str = ""
    raw: str = ""
    model: str = ""
    adapter: str | None = None
    review: str = ""
    parent: int | None = None
    attributes: Mapping[str, str] = field(default_factory=dict, hash=False)


def _read_nothing() -> bytes:
    raise FileNotFoundError("the image has no file")


@dataclass(frozen=True, slots=True)
class LabeledImage:
    """An image of a dataset or a job, with its labels.

    Attributes:
        name: Unique within the dataset: the path in its source, relative, with forward slashes and no `..`.
        source: File and line that the labels came from, for error messages.
        width: Width in pixels, with EXIF orientation applied.
        height: Height in pixels, with EXIF orientation applied.
        annotations: Shapes and texts in pixels. A Box or Polygon is an object, a Quad is a word, a Text is a caption.
        open: Returns the decoded image, RGB. Raises OSError, and ImageError if the image is broken.
        complete: The kinds for which everything in the image is labeled, so that all other objects (words) are known
            to be absent. In a detection dataset, an image without objects has no annotations, and `complete` contains
            OBJECTS.
        samples: Prompts with answers that the dataset itself contains, in addition to those made from annotations.
        sha256: SHA-256 of the image file in hex; empty if unknown.
        traces: The same annotations with their origin and attributes; empty if there are none.
        regions: Regions with free text, which is no class: a phrase of a caption, or the description of a region. The
            text is the label of the shape.
        answers: The answers of a job from which the annotations were made, if there were others, such as a box and an
            outline of one object.
        left_out: Numbers of answers that are in no annotation, by their plural.
    """

    name: str
    source: str
    width: int
    height: int
    annotations: tuple[Annotation, ...] = ()
    open: Callable[[], Image.Image] = field(default=DeferredImage(_read_nothing), compare=False, repr=False)
    complete: frozenset[LabelKind] = frozenset()
    samples: tuple[Sample, ...] = ()
    sha256: str = ""
    traces: tuple[TracedAnnotation, ...] = ()
    regions: tuple[TracedAnnotation, ...] = ()
    answers: tuple[TracedAnnotation, ...] = ()
    left_out: Mapping[str, int] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if self.traces and tuple(trace.annotation for trace in self.traces) != self.annotations:
            raise ValueError("`traces` has other annotations than `annotations`: use with_annotations or with_traces")

    @classmethod
    def from_traces(
        cls,
        name: str,
        width: int,
        height: int,
        traces: Sequence[TracedAnnotation] = (),
        read: Callable[[], bytes] = _read_nothing,
        *,
        source: str = "",
        sha256: str = "",
    ) -> Self:
        """Returns an image with traced annotations. `read` returns the bytes of its file; it may raise OSError."""
        annotations = tuple(trace.annotation for trace in traces)
        opened = DeferredImage(read)
        return cls(name, source, width, height, annotations, opened, sha256=sha256, traces=tuple(traces))

    @property
    def size(self) -> tuple[int, int]:
        """Width, height."""
        return self.width, self.height

    @property
    def traced_annotations(self) -> tuple[TracedAnnotation, ...]:
        """The annotations with their origin, which is empty for annotations of a dataset."""
        return self.traces or tuple(map(TracedAnnotation, self.annotations))

    def with_annotations(self, *annotations: Annotation) -> Self:
        """Returns the same image with other annotations."""
        return replace(self, annotations=annotations, traces=())

    def with_traces(self, *traces: TracedAnnotation) -> Self:
        """Returns the same image with other traced annotations."""
        return replace(self, annotations=tuple(trace.annotation for trace in traces), traces=traces)

    def with_regions(self) -> Self:
        """Returns the image with its regions at the end of its annotations, to show or count everything."""
        return self.with_traces(*self.traced_annotations, *self.regions) if self.regions else self

    def read(self) -> bytes:
        """Returns the bytes of the image file. An image without a file, such as a drawn scene, is encoded as PNG.

        Raises OSError, and ImageError if an image without a file cannot be rendered.
        """
        if isinstance(self.open, EncodedImage):
            with self.open.stream() as stream:
                return stream.read()
        buffer = io.BytesIO()
        self.open().save(buffer, "PNG")
        return buffer.getvalue()
