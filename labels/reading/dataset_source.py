"""A file or folder that may be a dataset. All formats inspect it to recognize theirs; it loads large documents once."""

import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from labels.dataset import DatasetError
from labels.image_resolver import ImageResolver
from labels.reading import documents
from labels.reading.documents import Element
from labels.split_names import normalize_split, parse_split
from labels.writing.dataset_writer import DETAILS_FILE

JSON_LINES = (".jsonl", ".ndjson")
_CACHED_SIZE = 1 << 20  # bytes: smaller documents are loaded again, so that very many of them fit in memory


class DatasetSource:
    """The file or folder `path`."""

    def __init__(self, path: Path, max_documents: int | None = None) -> None:
        """Of JSON and XML files, only the first `max_documents` are loaded; None loads all."""
        self.path = path
        self._max_documents = max_documents
        self._json: dict[Path, Any] = {}
        self._xml: dict[Path, Element] = {}
        self.unreadable: dict[Path, str] = {}
        """Files that have been skipped, with the reasons."""

    @property
    def folder(self) -> Path:
        """The folder, or the folder of the file."""
        return self.path if self.path.is_dir() else self.path.parent

    @property
    def suffix(self) -> str:
        """The suffix of the file in lower case; empty for a folder."""
        return "" if self.path.is_dir() else self.path.suffix.lower()

    def get_relative(self, file: Path) -> str:
        """Returns the path of a file in the dataset, for messages."""
        return Path(os.path.relpath(file, self.folder)).as_posix()

    @cached_property
    def resolver(self) -> ImageResolver:
        """Finds the images that the dataset names."""
        return ImageResolver(self.folder)

    def list_below(self, pattern: str, folder: Path | None = None) -> list[Path]:
        """Returns the files below the folder, or the folder of the file, that match a pattern; sorted, without hidden
        ones. `folder` is searched instead if it is given."""
        root = folder or self.folder
        return sorted(
            path
            for path in root.rglob(pattern)
            if not any(part.startswith((".", "__MACOSX")) for part in path.relative_to(root).parts)
        )

    def iter_json(self) -> Iterator[tuple[Path, Any]]:
        """Yields the JSON files of the source with their content, sorted: the file, or those in the folder, in its
        subfolders and in `annotations` of these; or else those of the split whose images are in the folder.

        Files that cannot be read are skipped and listed in `unreadable`. Raises DatasetError if it is the only file.
        """
        if self.path.is_dir():
            patterns = ("*.json", "*/*.json", "*/annotations/*.json", "*/Annotations/*.json")
            files = [file for pattern in patterns for file in self._glob(pattern)]
            files = files or self._list_split_files()
        else:
            files = [self.path] if self.suffix == ".json" else []
        yield from self._iter_loaded(files, self._json, documents.load_json)

    def iter_xml(self) -> Iterator[tuple[Path, Element]]:
        """Yields the XML files of the source with their roots, sorted: the file, or those in the folder, or else in its
        subfolders; or else that of CVAT whose subset is in the folder.

        Files that cannot be read are skipped and listed in `unreadable`. Raises DatasetError if it is the only file.
        """
        if self.path.is_dir():
            files = self._glob("*.xml") or self._glob("*/*.xml") or self._list_subset_files()
        else:
            files = [self.path] if self.suffix == ".xml" else []
        yield from self._iter_loaded(files, self._xml, documents.load_xml)

    @cached_property
    def json_lines(self) -> list[Path]:
        """The JSON lines files of the source: the file, or those in the folder, or else those in its subfolders.

        Details of a dataset in another format are none.
        """
        if not self.path.is_dir():
            return [self.path] if self.suffix in JSON_LINES else []
        for pattern in ("*", "*/*"):
            found = (file for suffix in JSON_LINES for file in self._glob(f"{pattern}{suffix}"))
            if files := [file for file in found if file.name != DETAILS_FILE]:
                return files
        return []

    def make_several_error(self, files: Sequence[Path]) -> DatasetError:
        """Returns the error of a source with several datasets."""
        names = ", ".join(map(str, files))
        return DatasetError(f"{self.path} contains several datasets; name one of them: {names}")

    def _glob(self, pattern: str) -> list[Path]:
        """Returns the files in the folder that match a pattern; sorted, without hidden ones and those of macOS."""
        found = sorted(self.path.glob(pattern))
        return [file for file in found if not file.name.startswith(".") and file.parent.name != "__MACOSX"]

    def _list_split_files(self) -> list[Path]:
        """Returns the JSON files beside the folder, or beside `images`, of the split that is called like the folder."""
        split = normalize_split(self.path.absolute().name)
        for folder in list(self.path.absolute().parents)[:2]:
            files = [file for pattern in ("*.json", "[aA]nnotations/*.json") for file in sorted(folder.glob(pattern))]
            if found := [file for file in files if normalize_split(parse_split(file).name) == split]:
                return found
        return []

    def _list_subset_files(self) -> list[Path]:
        """Returns the annotations.xml beside the folder `images` that contains the folder."""
        images = self.path.absolute().parent
        file = images.parent / "annotations.xml"
        return [file] if images.name == "images" and file.is_file() else []

    def _iter_loaded(self, files: Sequence[Path], loaded: dict[Path, Any], load: Any) -> Iterator[tuple[Path, Any]]:
        for file in files[: self._max_documents]:
            if file in loaded:
                yield file, loaded[file]
                continue
            try:
                content = load(file)
            except DatasetError as error:
                if len(files) == 1:
                    raise
                self.unreadable[file] = str(error)
                continue
            if file.stat().st_size >= _CACHED_SIZE:
                loaded[file] = content
            yield file, content
