"""Hugging Face datasets; https://huggingface.co/docs/datasets/image_dataset.

A folder of images with metadata.jsonl or metadata.csv (imagefolder), Parquet files, and what `save_to_disk` writes.
`objects` is a list of objects, or a list for each of their fields: `box` (x1, y1, x2, y2) or `bbox` (x, y, width,
height), `category` or `label`, and, as the writer writes them, `kind`, `polygons` and `attributes` (names and values).
An image without `objects` is not held to show none. Captions are in `captions`, `caption` or `text`; an image may have
several rows. `words` and `regions` (with free text, which is no class) have a `text` and the place of an object.

The writer writes metadata.jsonl, images/ and a README.md with the types of the columns. Without the images
there is no `image` column, but `file_name`.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import yaml

from labels.dataset import Dataset
from labels.formats import huggingface_tables
from labels.formats.huggingface_rows import read_row
from labels.formats.huggingface_tables import ClassNames, find_class_names
from labels.geometry import Shape, bounds, to_rings
from labels.image_resolver import FoundImage, ImageResolver
from labels.labeled_image import LabeledImage, TracedAnnotation
from labels.reading import checks, documents
from labels.reading.dataset_builder import DatasetBuilder
from labels.reading.dataset_source import DatasetSource
from labels.reading.split_files import SplitFiles
from labels.writing.categories import REVIEW, get_category
from labels.writing.dataset_writer import DatasetWriter
from labels.writing.export_folder import ExportFolder
from labels.writing.export_report import ExportReport
from labels.writing.image_options import ImageOptions, ImagePlacement
from labels.writing.json_array import to_json_line
from prompts.annotations import Box, Polygon, Quad, Text

_METADATA = "metadata.jsonl"
_METADATA_FILES = (_METADATA, "metadata.csv")
_STRING, _NUMBER = {"dtype": "string"}, {"dtype": "float64"}


def recognize(source: DatasetSource) -> bool:
    """Returns whether the source has a metadata.jsonl or metadata.csv, or Parquet or Arrow files."""
    return bool(_find_metadata(source) or huggingface_tables.find_tables(source.path))


def read(source: DatasetSource) -> Dataset:
    """Returns the images and labels. Images of Parquet files are kept in memory. Raises DatasetError."""
    builder = DatasetBuilder(source.path)
    if files := _find_metadata(source):
        names = _read_card(source.path / "README.md")
        splits = SplitFiles(files, source)
        for file in files:
            _read_metadata(file, source.resolver, splits, names, builder)
    else:
        tables = huggingface_tables.find_tables(source.path)
        for row, name, where, image, names in huggingface_tables.iter_rows(source, tables, builder):
            size = checks.parse_size(row.get("width"), row.get("height"))
            if isinstance(image, FoundImage):
                draft = builder.add_found(image, where, size)
            else:
                draft = builder.add_image(name, where, image, size)
            if draft:
                read_row(row, draft, where, names)
    return builder.build()


def _find_metadata(source: DatasetSource) -> list[Path]:
    """Returns the metadata files in the folder and its splits, or JSON lines that look like them.

    Raises DatasetError if a folder has several.
    """
    if source.path.is_dir():
        named = [
            file
            for depth in ("", "*/", "*/*/")
            for name in _METADATA_FILES
            for file in sorted(source.path.glob(depth + name))
        ]
        if len({file.parent for file in named}) < len(named):
            raise source.make_several_error(named)
        if not named and huggingface_tables.find_tables(source.path):
            return []
        files = named or source.json_lines
    else:
        files = [source.path] if source.suffix == ".csv" else source.json_lines
    first = next((row for _, row, _ in _iter_rows(files[0]) if isinstance(row, dict) and row), {}) if files else {}
    return files if _find_name_column(first) and not {"prefix", "suffix"} <= set(first) else []


def _iter_rows(file: Path) -> Iterator[tuple[int, Any, str]]:
    return documents.read_csv(file) if file.suffix.lower() == ".csv" else documents.read_json_lines(file)


def _find_name_column(row: Mapping[str, Any]) -> str | None:
    """Returns the column with the name of the image's file: `file_name`, or another one that ends so."""
    names = [name for name in row if name.endswith("_file_name")]
    return "file_name" if "file_name" in row else names[0] if len(names) == 1 else None


def _read_metadata(
    file: Path, resolver: ImageResolver, splits: SplitFiles, names: ClassNames, builder: DatasetBuilder
) -> None:
    folders = resolver.layout.list_folders(file, splits.get_split(file))
    for number, row, problem in _iter_rows(file):
        where = f"{splits.get_source(file)}:{number}"
        name = row.get(_find_name_column(row) or "") if isinstance(row, dict) else None
        if problem or not isinstance(name, str):
            builder.refuse(where, problem or "it has no file_name")
            continue
        try:
            found = resolver.find(name, folders)
        except OSError as error:
            builder.refuse(where, str(error))
            continue
        splits.check_image(file, found.path)
        size = checks.parse_size(row.get("width"), row.get("height"))
        if draft := builder.add_found(found, where, size, prefix=splits.get_prefix(file)):
            read_row(row, draft, where, names)


def _read_card(card: Path) -> ClassNames:
    """Returns the class names in the features of README.md's header; empty if there are none."""
    try:
        _, header, _ = card.read_text(encoding="utf-8-sig").split("---\n", 2)
        features = documents.parse_yaml(header)["dataset_info"]["features"]
        return find_class_names(next(feature for feature in features if feature.get("name") == "objects"))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, StopIteration, RecursionError, yaml.YAMLError):
        return ()


class _CardDumper(yaml.SafeDumper):
    """Writes values that occur twice twice, without aliases: `datasets` changes them while it reads them."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


class HuggingFaceWriter(DatasetWriter):
    """metadata.jsonl, images/ and README.md, for `datasets.load_dataset`."""

    default_placement: ClassVar[ImagePlacement] = ImagePlacement.COPY
    keeps_regions: ClassVar[bool] = True

    def __init__(self, folder: ExportFolder, report: ExportReport, images: ImageOptions) -> None:
        super().__init__(folder, report, images)
        self._file = folder.open(_METADATA)

    def add(self, image: LabeledImage, name: str) -> int:
        traced = image.traced_annotations
        row = {
            "file_name": f"images/{name}" if self.images.are_included else name,
            # `datasets` reads no row with bytes that are not UTF-8, as some file names have.
            "name": image.name.encode(errors="backslashreplace").decode(),
            "width": image.width,
            "height": image.height,
            "objects": [_to_object(each) for each in traced if isinstance(each.annotation, Box | Polygon)],
            "words": [_to_word(each) for each in traced if isinstance(each.annotation, Quad)],
            "captions": [_to_caption(each) for each in traced if isinstance(each.annotation, Text)],
            "regions": [_to_region(each) for each in image.regions],
        }
        self._file.write(to_json_line(row) + "\n")
        return len(traced) + len(image.regions)

    def close(self) -> None:
        card = yaml.dump(_make_card(self.images.are_included), Dumper=_CardDumper, sort_keys=False)
        self.folder.write("README.md", f"---\n{card}---\n")


def _to_object(traced: TracedAnnotation) -> dict[str, Any]:
    annotation = traced.annotation
    assert isinstance(annotation, Box | Polygon)
    return {"kind": annotation.kind, "category": get_category(annotation), **_to_place(annotation), **_to_facts(traced)}


def _to_word(traced: TracedAnnotation) -> dict[str, Any]:
    assert isinstance(traced.annotation, Quad)
    return {"text": traced.annotation.label, **_to_place(traced.annotation), **_to_facts(traced)}


def _to_region(traced: TracedAnnotation) -> dict[str, Any]:
    assert not isinstance(traced.annotation, Text)
    return {"text": traced.annotation.label, **_to_place(traced.annotation), **_to_facts(traced)}


def _to_caption(traced: TracedAnnotation) -> dict[str, Any]:
    return {"text": traced.annotation.label, "step": traced.step, **_to_facts(traced)}


def _to_place(shape: Shape) -> dict[str, Any]:
    rings = to_rings(shape)
    return {"box": list(bounds(rings)), "polygons": [] if isinstance(shape, Box) else rings}


def _to_facts(traced: TracedAnnotation) -> dict[str, Any]:
    attributes = [{"name": name, "value": value} for name, value in traced.attributes.items()]
    return {"score": traced.annotation.score, REVIEW: traced.review, "attributes": attributes}


def _make_card(has_images: bool) -> dict[str, Any]:
    """Returns the header of README.md: the data files and the types of the columns.

    Without the types a reader would guess them from the first rows.
    """
    place = [{"name": "box", "list": "float64"}, {"name": "polygons", "list": {"list": "float64"}}]
    facts = [
        {"name": "score", **_NUMBER},
        {"name": REVIEW, **_STRING},
        {"name": "attributes", "list": [{"name": name, **_STRING} for name in ("name", "value")]},
    ]
    text = {"name": "text", **_STRING}
    objects = [*({"name": name, **_STRING} for name in ("kind", "category")), *place, *facts]
    features = [
        {"name": "image", "dtype": "image"} if has_images else {"name": "file_name", **_STRING},
        {"name": "name", **_STRING},
        {"name": "width", "dtype": "int64"},
        {"name": "height", "dtype": "int64"},
        {"name": "objects", "list": objects},
        {"name": "words", "list": [text, *place, *facts]},
        {"name": "captions", "list": [text, {"name": "step", **_STRING}, *facts]},
        {"name": "regions", "list": [text, *place, *facts]},
    ]
    files = [_METADATA, "images/**"] if has_images else [_METADATA]
    return {
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": files}]}],
        "dataset_info": {"features": features},
    }
