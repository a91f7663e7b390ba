"""JSON lines of two kinds.

florist's own format has one image per line, with all information about its annotations. Nothing is rounded or left out:
{"name": "a/b.jpg", "sha256": "…", "width": 640, "height": 480, "labels": [{"annotation": {"kind": "box", …},
 "step": "detect", "prompt": "…", "raw": "…", "model": "…", "adapter": null, "review": "", "parent": null,
  "attributes": {"description": "…"}}, …]}
An object is one label. `regions` are regions with free text, written like labels. `answers` are all answers of a job,
also written like labels, if objects were made from several of them.
`complete` lists the kinds for which everything is labeled; the default is the kinds that occur in the file. `samples`
are prompts with answers: [{"task": "<VQA>", "text": "how many?", "region": null, "answer": [{"kind": "text", …}]}, …].

Prompts with answers, as maestro and PaliGemma use them, have one sample per line: {"image": "a.jpg", "prefix": "<OD>",
"suffix": "car<loc_1>…"}. See `paligemma` for prompts such as `detect car`.
"""

from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

from labels.dataset import Dataset
from labels.formats import paligemma
from labels.image_resolver import ImageResolver
from labels.label_kind import LabelKind
from labels.labeled_image import LabeledImage
from labels.reading import checks, documents, label_rows, prompt_samples
from labels.reading.checks import Size
from labels.reading.dataset_builder import DatasetBuilder
from labels.reading.dataset_source import DatasetSource
from labels.reading.image_draft import ImageDraft
from labels.reading.split_files import SplitFiles
from labels.writing.dataset_writer import DatasetWriter
from labels.writing.export_folder import ExportFolder
from labels.writing.export_report import ExportReport
from labels.writing.image_options import ImageOptions
from labels.writing.json_array import to_json_line
from labels.writing.label_rows import to_label_row, to_sample_row
from prompts.annotations import Box
from prompts.tasks import TASKS

_IMAGE_KEYS = ("image", "file_name", "image_path")
_PREFIX_KEYS, _SUFFIX_KEYS = ("prefix", "prompt"), ("suffix", "answer")
_IMAGE_FIELDS = ("name", "sha256", "width", "height")
_TASK_KINDS = {"<OD>": LabelKind.OBJECTS, "<OCR_WITH_REGION>": LabelKind.WORDS}  # tasks that ask for all of a kind


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
            label_rows.add_label(label if isinstance(label, dict) else {}, draft, f"{where}, label {position}")
        regions = row.get("regions") or []
        for position, region in enumerate(regions if isinstance(regions, list) else [regions]):
            label_rows.add_region(region if isinstance(region, dict) else {}, draft, f"{where}, region {position}")
        samples = row.get("samples") or []
        for position, sample in enumerate(samples if isinstance(samples, list) else [samples]):
            label_rows.add_sample(sample, draft, f"{where}, sample {position}")
        _add_answers(row.get("answers"), draft, where)

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


def _add_answers(answers: Any, draft: ImageDraft, where: str) -> None:
    """Adds the descriptions of regions among the answers of a job as samples; the labels have the rest."""
    for position, answer in enumerate(answers if isinstance(answers, list) else []):
        value = answer.get("annotation") if isinstance(answer, dict) else None
        if isinstance(value, dict) and value.get("kind") == "text":
            with suppress(ValueError):
                sample = label_rows.read_prompt(answer, draft.size)
                if sample is not None and sample.region is not None:
                    label_rows.add_label(answer, draft, f"{where}, answer {position}")


class JsonlWriter(DatasetWriter):
    """One file in florist's own format."""

    is_read_beside: ClassVar[bool] = True
    keeps_degenerate_polygons: ClassVar[bool] = True
    keeps_samples: ClassVar[bool] = True
    keeps_regions: ClassVar[bool] = True

    def __init__(self, folder: ExportFolder, report: ExportReport, images: ImageOptions) -> None:
        super().__init__(folder, report, images)
        self._file = folder.open(folder.main_file)

    def add(self, image: LabeledImage, name: str) -> int:
        row: dict[str, Any] = {field: getattr(image, field) for field in _IMAGE_FIELDS}
        row["name"] = name if self.images.are_included else image.name
        if image.source:  # only images of a dataset know what is complete
            row["complete"] = sorted(image.complete)
        row["labels"] = list(map(to_label_row, image.traced_annotations))
        for key, rows in (
            ("regions", map(to_label_row, image.regions)),
            ("samples", map(to_sample_row, image.samples)),
            ("answers", map(to_label_row, image.answers)),
        ):
            if listed := list(rows):
                row[key] = listed
        self._file.write(to_json_line(row) + "\n")
        return len(image.annotations) + len(image.regions)
