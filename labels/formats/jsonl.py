"""JSON lines of two kinds.

florist's own format has one image per line, with all information about its annotations. Nothing is rounded or left out:
{"name": "a/b.jpg", "sha256": "…", "width": 640, "height": 480, "labels": [{"annotation": {"kind": "box", …},
 "step": "detect", "prompt": "…", "raw": "…", "model": "…", "adapter": null, "review": "", "parent": null}, …]}
`complete` lists the kinds for which everything is labeled; the default is the kinds that occur in the file. `samples`
are prompts with answers: [{"task": "<VQA>", "text": "how many?", "region": null, "answer": [{"kind": "text", …}]}, …].

Prompts with answers, as maestro and PaliGemma use them, have one sample per line: {"image": "a.jpg", "prefix": "<OD>",
"suffix": "car<loc_1>…"}. See `paligemma` for prompts such as `detect car`.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from pydantic import TypeAdapter, ValidationError

from labels.dataset import Dataset
from labels.formats import paligemma
from labels.image_resolver import ImageResolver
from labels.label_kind import LabelKind
from labels.labeled_image import LabeledImage
from labels.reading import checks, documents, prompt_samples
from labels.reading.checks import LabelError, Size
from labels.reading.dataset_builder import DatasetBuilder
from labels.reading.dataset_source import DatasetSource
from labels.reading.image_draft import ImageDraft
from labels.reading.split_files import SplitFiles
from labels.sample import CAPTION_TASKS, Sample
from labels.writing.dataset_writer import DatasetWriter
from labels.writing.export_folder import ExportFolder
from labels.writing.export_report import ExportReport
from labels.writing.json_array import to_json_line
from prompts.annotations import Annotation, Box, Text
from prompts.formatting import format_answer
from prompts.tasks import TASKS, find_task

_IMAGE_KEYS = ("image", "file_name", "image_path")
_PREFIX_KEYS, _SUFFIX_KEYS = ("prefix", "prompt"), ("suffix", "answer")
_IMAGE_FIELDS = ("name", "sha256", "width", "height")
_TRACE_FIELDS = ("step", "prompt", "raw", "model", "adapter", "review", "parent")
_TASK_KINDS = {"<OD>": LabelKind.OBJECTS, "<OCR_WITH_REGION>": LabelKind.WORDS}  # tasks that ask for all of a kind
_ANNOTATION: TypeAdapter[Annotation] = TypeAdapter(Annotation)


def recognize(source: DatasetSource) -> bool:
    """Returns whether the source is, or has, a JSON lines file."""
    return bool(source.json_lines)


def read(source: DatasetSource) -> Dataset:
    """Returns the images and labels of the files. The names of images begin with the split, if there are several.

    Raises DatasetError.
    """
    splits = SplitFiles(source.json_lines, source)
    builder = DatasetBuilder(source.path)
    for file in source.json_lines:
        reader = _JsonlReader(builder, source.resolver, splits, file)
        for number, row, problem in documents.read_json_lines(file):
            where = f"{splits.get_source(file)}:{number}"
            if problem:
                builder.refuse(where, problem)
            elif isinstance(row, dict) and "labels" in row and "name" in row:
                reader.read_image(row, where)
            else:
                reader.read_sample(row if isinstance(row, dict) else {}, where)
        reader.finish()
    return builder.build()


class _JsonlReader:
    """Reads one file."""

    def __init__(self, builder: DatasetBuilder, resolver: ImageResolver, splits: SplitFiles, file: Path) -> None:
        self.builder, self._resolver, self._splits, self._file = builder, resolver, splits, file
        self._folders = resolver.layout.list_folders(file, splits.get_split(file))
        self._drafts: dict[str, ImageDraft | None] = {}  # images of samples
        self._detected: dict[str, set[str]] = {}  # the labels that prompts asked to detect, by image

    def read_image(self, row: dict[str, Any], where: str) -> None:
        """Reads a line of florist's own format."""
        draft = self._add_image(row["name"], where, checks.parse_size(row.get("width"), row.get("height")))
        if draft is None:
            return
        if (complete := row.get("complete")) is not None:
            try:
                draft.complete = (draft.complete or set()) | {LabelKind(kind) for kind in complete}
            except (ValueError, TypeError):  # nothing counts as absent
                draft.refuse_all(where, f"its complete is not a list of {', '.join(LabelKind)}")
        labels = row["labels"] if isinstance(row["labels"], list) else [None]
        if labels is not row["labels"]:
            draft.incomplete.update(LabelKind)
        for position, label in enumerate(labels):
            _add_label(label if isinstance(label, dict) else {}, draft, f"{where}, label {position}")
        samples = row.get("samples") or []
        for position, sample in enumerate(samples if isinstance(samples, list) else [samples]):
            try:
                draft.add_sample(f"{where}, sample {position}", _read_sample(sample, draft.size))
            except ValueError as error:  # of checks and tasks
                self.builder.refuse(f"{where}, sample {position}", str(error))

    def read_sample(self, row: dict[str, Any], where: str) -> None:
        """Reads a prompt with its answer."""
        image, prefix, suffix = (
            next((row[key] for key in keys if isinstance(row.get(key), str)), None)
            for keys in (_IMAGE_KEYS, _PREFIX_KEYS, _SUFFIX_KEYS)
        )
        if image is None or prefix is None or suffix is None:
            self.builder.refuse(where, "it has no image, prefix and suffix, and no name and labels")
            return
        if image not in self._drafts:
            self._drafts[image] = self._add_image(image, where, None)
            if draft := self._drafts[image]:
                draft.complete = set()
        if draft := self._drafts[image]:
            try:
                self._add_answer(draft, prefix, suffix, where)
            except ValueError as error:  # of checks, tasks and prompts
                draft.refused = True
                draft.incomplete |= _find_kinds(prefix)
                self.builder.refuse(where, str(error))

    def finish(self) -> None:
        """Marks images as complete if prompts asked to detect every label of the file."""
        drafts = [draft for draft in self._drafts.values() if draft]
        labels = {
            annotation.label for draft in drafts for annotation in draft.annotations if isinstance(annotation, Box)
        }
        for draft in drafts:
            if labels and draft.complete is not None and labels <= self._detected.get(draft.name, set()):
                draft.complete.add(LabelKind.OBJECTS)

    def _add_answer(self, draft: ImageDraft, prefix: str, suffix: str, where: str) -> None:
        """Adds annotations if the prompt asks for all objects, all words or a caption; otherwise a sample."""
        if labels := paligemma.parse_labels(prefix):
            self._detected.setdefault(draft.name, set()).update(labels)
            for label, box in paligemma.parse_boxes(suffix, draft.size):
                draft.add(LabelKind.OBJECTS, where, checks.check_box, label, box, draft.size)
            return
        if paligemma.is_caption_prompt(prefix):
            draft.add(LabelKind.CAPTIONS, where, checks.check_caption, suffix)
            return
        sample = prompt_samples.parse_sample(prefix, suffix, draft.size)
        kind = _TASK_KINDS.get(sample.task.token)
        if kind is None or draft.complete is None:
            draft.add_sample(where, sample)
            return
        draft.complete.add(kind)
        for annotation in sample.answer:
            draft.add(kind, where, checks.check_annotation, annotation, draft.size)

    def _add_image(self, name: Any, where: str, size: Size | None) -> ImageDraft | None:
        try:
            found = self._resolver.find(str(name), self._folders)
        except OSError as error:
            self.builder.refuse(where, str(error))
            return None
        self._splits.check_image(self._file, found.path)
        return self.builder.add_found(found, where, size, prefix=self._splits.get_prefix(self._file))


def _find_kinds(prompt: str) -> set[LabelKind]:
    """Returns the kinds of labels that are not complete without the answer to a prompt."""
    if paligemma.parse_labels(prompt):
        return {LabelKind.OBJECTS}
    return {kind for token, kind in _TASK_KINDS.items() if prompt.strip() in (token, TASKS[token].template)}


def _add_label(label: dict[str, Any], draft: ImageDraft, where: str) -> None:
    """Adds one label of florist's own format. A text about a region, or a recognized text, becomes a sample."""
    value = label.get("annotation")
    kind = value.get("kind") if isinstance(value, dict) else None
    if kind != "text":
        label_kind = LabelKind.WORDS if kind == "quad" else LabelKind.OBJECTS
        draft.add(label_kind, where, _read_annotation, value, draft.size)
        return
    try:
        annotation = _read_annotation(value, draft.size)
        prompt = label.get("prompt") or ""
        if not isinstance(prompt, str):
            raise LabelError("its prompt is not text")
        sample = prompt_samples.parse_prompt(prompt, draft.size)
        if sample is None or sample.task.token in CAPTION_TASKS:
            draft.add(LabelKind.CAPTIONS, where, lambda: annotation)
        else:
            format_answer(sample.task, [annotation], draft.size)  # raises ValueError if it is no answer to the task
            draft.add_sample(where, replace(sample, answer=(annotation,)))
    except ValueError as error:
        draft.refuse_label(LabelKind.CAPTIONS, where, str(error))


def _read_sample(value: Any, size: Size) -> Sample:
    """Returns the sample in a JSON value. Raises ValueError with the reason if it is not a sample."""
    if not isinstance(value, dict) or not isinstance(value.get("answer"), list):
        raise LabelError("it has no answer")
    task, text, region = find_task(str(value.get("task"))), value.get("text"), value.get("region")
    if text is not None and not isinstance(text, str):
        raise LabelError("its text is not text")
    corners = None
    if region is not None:
        x1, y1, x2, y2 = checks.check_numbers(region, 4)
        corners = (x1, y1, x2, y2)
    task.build_prompt(text, corners, size)  # raises ValueError if the task does not take them
    answer = tuple(_check_answer(_validate(annotation), size) for annotation in value["answer"])
    format_answer(task, answer, size)  # raises ValueError if it is no answer to the task
    return Sample(task, answer, text, corners)


def _check_answer(annotation: Annotation, size: Size) -> Annotation:
    """Returns a valid part of a sample's answer: shapes may have no label, and texts keep their lines."""
    checked = checks.check_annotation(annotation.model_copy(update={"label": annotation.label or "object"}), size)
    return annotation if isinstance(annotation, Text) else checked.model_copy(update={"label": annotation.label})


def _read_annotation(value: Any, size: Size) -> Annotation:
    return checks.check_annotation(_validate(value), size)


def _validate(value: Any) -> Annotation:
    try:
        return _ANNOTATION.validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise LabelError(f"its {'.'.join(map(str, first['loc'])) or 'annotation'}: {first['msg']}") from None


class JsonlWriter(DatasetWriter):
    """One file in florist's own format."""

    is_read_beside: ClassVar[bool] = True
    keeps_degenerate_polygons: ClassVar[bool] = True
    keeps_samples: ClassVar[bool] = True

    def __init__(self, folder: ExportFolder, report: ExportReport, *, has_copies: bool) -> None:
        super().__init__(folder, report, has_copies=has_copies)
        self._file = folder.open(folder.main_file)

    def add(self, image: LabeledImage, name: str) -> int:
        row: dict[str, Any] = {field: getattr(image, field) for field in _IMAGE_FIELDS}
        row["name"] = name if self.has_copies else image.name
        if image.source:  # only images of a dataset know what is complete
            row["complete"] = sorted(image.complete)
        row["labels"] = [
            {"annotation": traced.annotation.model_dump(), **{field: getattr(traced, field) for field in _TRACE_FIELDS}}
            for traced in image.traced_annotations
        ]
        if image.samples:
            row["samples"] = [
                {
                    "task": sample.task.token,
                    "text": sample.text,
                    "region": sample.region,
                    "answer": [annotation.model_dump() for annotation in sample.answer],
                }
                for sample in image.samples
            ]
        self._file.write(to_json_line(row) + "\n")
        return len(image.annotations)
