"""JSON lines, of two kinds.

florist's own, a picture a line: {"name": "a.jpg", "width": 640, "height": 480, "labels": [{"annotation": {…}}, …]};
`complete`, a list of kinds, says of what all is labelled where that is not what occurs in the file.
Prompt and answer, a question a line, as maestro and PaliGemma take them: {"image": "a.jpg", "prefix": "<OD>",
"suffix": "car<loc_1>…"}; see `paligemma` for `detect car`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from labels.dataset import Dataset
from labels.formats import paligemma
from labels.image_files import ImageFile, find_image
from labels.label_kind import LabelKind
from labels.reading import checks, documents, prompted
from labels.reading.builder import DatasetBuilder, ImageDraft
from labels.reading.checks import LabelError, Size
from labels.sample import CAPTION_TASKS, Sample
from prompts.annotations import Annotation, Box, Polygon, Quad, Text

SUFFIXES = (".jsonl", ".ndjson")
_IMAGE, _PREFIX, _SUFFIX = ("image", "file_name", "image_path"), ("prefix", "prompt"), ("suffix", "answer")
_ANNOTATION: TypeAdapter[Annotation] = TypeAdapter(Annotation)


def read(root: Path, files: Sequence[Path]) -> Dataset:
    """The pictures and labels of files; pictures are looked for beside each and in `images` there. Raises
    DatasetError."""
    builder = DatasetBuilder(root)
    for file in files:
        prefix = f"{file.parent.name}/" if len(files) > 1 else ""
        reader = _Reader(builder, [file.parent, file.parent / "images"], prefix)
        for number, row, wrong in documents.lines(file):
            source = f"{prefix}{file.name}:{number}"
            if wrong:
                builder.refuse(source, wrong)
            elif isinstance(row, dict) and "labels" in row and "name" in row:
                reader.own(row, source)
            else:
                reader.question(row if isinstance(row, dict) else {}, source)
        reader.finish()
    return builder.build()


class _Reader:
    """Of one file; `prefix` goes before the pictures' names."""

    def __init__(self, builder: DatasetBuilder, folders: list[Path], prefix: str) -> None:
        self.builder, self._folders, self._prefix = builder, folders, prefix
        self._asked: dict[str, ImageDraft | None] = {}  # the pictures of questions
        self._sought: dict[str, set[str]] = {}  # and what they were asked for, each label by its name

    def own(self, row: dict[str, Any], source: str) -> None:
        """A line of florist's."""
        size = (row.get("width"), row.get("height"))
        draft = self._picture(row["name"], source, checks.parse_size(*size))
        if draft is None:
            return
        if (complete := row.get("complete")) is not None:
            try:
                draft.complete = {LabelKind(kind) for kind in complete}
            except (ValueError, TypeError):
                draft.complete = set()  # nothing is taken for absent that may only be unsaid
                self.builder.refuse(source, f"its complete is no list of {', '.join(LabelKind)}")
        labels = row["labels"] if isinstance(row["labels"], list) else [None]
        for position, label in enumerate(labels):
            _add(label if isinstance(label, dict) else {}, draft, f"{source}, label {position}")

    def question(self, row: dict[str, Any], source: str) -> None:
        """A prompt with its answer."""
        image, prefix, suffix = (
            next((row[key] for key in keys if isinstance(row.get(key), str)), None)
            for keys in (_IMAGE, _PREFIX, _SUFFIX)
        )
        if image is None or prefix is None or suffix is None:
            self.builder.refuse(source, "it has no image, prefix and suffix, and no name and labels")
            return
        if image not in self._asked:
            self._asked[image] = self._picture(image, source, None)
            if draft := self._asked[image]:
                draft.complete = set()
        if draft := self._asked[image]:
            try:
                self._teach(draft, prefix, suffix, source)
            except ValueError as error:  # of checks, tasks and prompts
                draft.refuse(LabelKind.OBJECTS, source, str(error))

    def finish(self) -> None:
        """A picture that was asked for every label there is has all its objects told."""
        drafts = [draft for draft in self._asked.values() if draft]
        labels = {note.label for draft in drafts for note in draft.annotations if isinstance(note, Box)}
        for draft in drafts:
            if labels and draft.complete is not None and labels <= self._sought.get(draft.name, set()):
                draft.complete.add(LabelKind.OBJECTS)

    def _teach(self, draft: ImageDraft, prefix: str, suffix: str, source: str) -> None:
        """What all of a picture's objects or words are becomes annotations, and so do captions; the rest are questions
        as they stand."""
        if sought := paligemma.sought(prefix):
            self._sought.setdefault(draft.name, set()).update(sought)
            for label, box in paligemma.boxes(suffix, draft.size):
                draft.add(LabelKind.OBJECTS, source, checks.check_box, label, box, draft.size)
            return
        if paligemma.is_caption(prefix):
            draft.add(LabelKind.CAPTIONS, source, checks.check_caption, suffix)
            return
        question = prompted.question(prefix, suffix, draft.size)
        kind = {"<OD>": LabelKind.OBJECTS, "<OCR_WITH_REGION>": LabelKind.WORDS}.get(question.task.token)
        if kind is None or draft.complete is None:
            draft.samples.append(question)
            return
        draft.complete.add(kind)
        for note in question.answer:
            draft.add(kind, source, _checked, note, draft.size)

    def _picture(self, name: Any, source: str, size: Size | None) -> ImageDraft | None:
        try:
            opened = ImageFile(find_image(str(name), self._folders))
            return self.builder.add_image(f"{self._prefix}{name}", source, opened, size)
        except OSError as error:
            self.builder.refuse(source, str(error))
            return None


def _add(label: dict[str, Any], draft: ImageDraft, source: str) -> None:
    """One of florist's labels. A text that was said of a region, or read, is a question with its answer."""
    told = label.get("annotation")
    kind = told.get("kind") if isinstance(told, dict) else None
    if kind != "text":
        draft.add(LabelKind.WORDS if kind == "quad" else LabelKind.OBJECTS, source, _annotation, told, draft.size)
        return
    try:
        note = _annotation(told, draft.size)
        prompt = label.get("prompt") or ""
        if not isinstance(prompt, str):
            raise LabelError("its prompt is no text")
        question = prompted.asked(prompt, draft.size)
        if question is None or question.task.token in CAPTION_TASKS:
            draft.annotations.append(note)
        else:
            draft.samples.append(Sample(question.task, (note,), question.text, question.region))
    except ValueError as error:
        draft.refuse(LabelKind.CAPTIONS, source, str(error))


def _annotation(told: Any, size: Size) -> Annotation:
    try:
        return _checked(_ANNOTATION.validate_python(told), size)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise LabelError(f"its {'.'.join(map(str, first['loc'])) or 'annotation'}: {first['msg']}") from None


def _checked(note: Annotation, size: Size) -> Annotation:
    match note:
        case Box():
            return checks.check_box(note.label, note.box, size)
        case Polygon():
            return checks.check_polygon(note.label, note.polygons, size)
        case Quad():
            return checks.check_quad(note.label, note.quad, size)
        case Text():
            return checks.check_caption(note.label)
